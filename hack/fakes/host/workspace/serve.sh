#!/bin/sh
# Serves on port 8080 (PORT), in the foreground.
exec python3 "$(dirname "$0")/app.py" gpu "${PORT:-8080}"
