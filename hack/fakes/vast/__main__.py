"""Run the server: `python -m hack.fakes.vast --port 8000 --backend none|pods`. The key comes from VAST_API_KEY."""

import argparse
import logging
import os
import sys

from aiohttp import web

from .app import make_app
from .backend import Backend, NoMachines


def main() -> int:
    parser = argparse.ArgumentParser(prog="hack.fakes.vast", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--backend", choices=("none", "pods"), default="none")
    options = parser.parse_args()
    key = os.environ.get("VAST_API_KEY")
    if not key:
        print("VAST_API_KEY is not set", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    backend: Backend = NoMachines()
    if options.backend == "pods":
        from .pods import PodBackend

        backend = PodBackend.in_cluster()
    # Every look asks the API server twice.
    tick = 0.2 if options.backend == "pods" else 0.05
    app = make_app(backend, key, tick_seconds=tick)
    web.run_app(app, host=options.host, port=options.port, access_log=None, print=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
