"""The demonstration's workload: says which side it runs on, and keeps numbered lines in a file beside it.

GET /healthz → ok; POST /append → one more line (its number and the body), on disk before the answer;
GET anything else → JSON. Usage: app.py gpu|cpu [port]
"""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SIDE = sys.argv[1] if len(sys.argv) > 1 else "gpu"
PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 8080
LINES = Path(__file__).resolve().parent / "data" / "lines.txt"
LOCK = threading.Lock()


def count() -> int:
    try:
        with LINES.open("rb") as lines:
            return sum(1 for _ in lines)
    except FileNotFoundError:
        return 0


def append(text: str) -> int:
    with LOCK:
        LINES.parent.mkdir(parents=True, exist_ok=True)
        number = count() + 1
        with LINES.open("a", encoding="utf-8") as lines:
            lines.write(f"{number} {' '.join(text.split())}".rstrip() + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        return number


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self.answer(b"ok\n", "text/plain")
        else:
            self.report()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode("utf-8", "replace")
        if self.path != "/append":
            self.send_error(404)
            return
        self.report(number=append(body))

    def report(self, **more: int) -> None:
        seen = {"side": SIDE, "host": os.uname().nodename, "pid": os.getpid(), "time": time.time(), "lines": count()}
        self.answer(json.dumps(seen | more).encode() + b"\n", "application/json")

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


if __name__ == "__main__":
    Server(("", PORT), Handler).serve_forever()
