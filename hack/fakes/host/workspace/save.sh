#!/bin/sh
# The application saves itself before a planned move.
set -eu
cd "$(dirname "$0")"
mkdir -p data
date -u +%Y-%m-%dT%H:%M:%SZ >data/saved.new
mv data/saved.new data/saved
sync data/saved 2>/dev/null || sync
