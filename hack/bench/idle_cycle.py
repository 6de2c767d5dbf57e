"""What a sync cycle costs when nothing has changed: 1,000 files, the agent's own pull, an sshd on loopback."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hack.bench.figures import finish, spread
from hack.bench.world import TOP

FILES = 1000
CYCLES = 20
PAIR = "00000000-0000-4000-8000-000000000000"

SSHD = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
AuthorizedKeysFile {folder}/authorized_keys
"""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="gpu-standby-idle-") as name:
        folder = Path(name)
        workspace = folder / "workspace"
        for number in range(FILES):
            path = workspace / f"part-{number % 20}" / f"file-{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(2000))
        root = folder / "standby"
        _operator(root, "init", {"pair": PAIR, "epoch": 1})
        shutil.copy(root / "keys/transfer.pub", folder / "authorized_keys")
        with _sshd(folder) as (port, host_key), _mover(root) as ask:
            gpu = {"host": "127.0.0.1", "port": port, "user": "root", "hostKey": host_key, "path": str(workspace)}
            request = {"op": "pull", "pair": PAIR, "gpu": {**gpu, "providerID": "ssh://loopback"}, "exclude": ["*.tmp"]}
            first = ask(request)
            if first["files"] < FILES:
                raise AssertionError(f"the first cycle brought {first['files']} of {FILES} files")
            seconds = []
            for _ in range(CYCLES):
                begun = time.monotonic()
                again = ask(request)
                seconds.append(time.monotonic() - begun)
                if again["transferredFiles"] or again["manifest"] != first["manifest"]:
                    raise AssertionError(f"this cycle was not idle: {again}")
    return finish("idle-cycle", spread(f"idle sync cycle, {FILES} files", seconds, p50=1.0, most=1.0), seconds)


def _agent(root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "gpu_standby.agent", "--root", str(root), *words]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TOP / "operator")}


def _operator(root: Path, operation: str, request: dict[str, Any]) -> None:
    command = _agent(root, "door", "operator", operation, json.dumps(request))
    subprocess.run(command, check=True, env=_environment(), stdout=subprocess.DEVNULL, timeout=30)


@contextmanager
def _sshd(folder: Path) -> Iterator[tuple[int, str]]:
    """An sshd of ours on a free port, and its host key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host")], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    config = folder / "sshd_config"
    config.write_text(SSHD.format(port=port, folder=folder))
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        words = (folder / "host.pub").read_text().split()
        yield port, " ".join(words[:2])
    finally:
        server.terminate()
        server.wait(10)


@contextmanager
def _mover(root: Path) -> Iterator[Any]:
    """One session held open, as the mover holds it; a function that asks and waits for the last answer."""
    process = subprocess.Popen(
        _agent(root, "door", "mover", "1", "serve"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(),
    )
    if process.stdin is None or process.stdout is None:
        raise AssertionError("the agent has no pipes")
    asked, answers = process.stdin, process.stdout
    number = 0

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal number
        number += 1
        asked.write(json.dumps({"id": number, **request}) + "\n")
        asked.flush()
        for line in answers:
            answer: dict[str, Any] = json.loads(line)
            if answer.get("id") == number and "ok" in answer:
                if not answer["ok"]:
                    raise AssertionError(f"{request['op']}: {answer}")
                return answer
        raise AssertionError("the agent's session ended")

    try:
        yield ask
    finally:
        asked.close()
        process.wait(10)


if __name__ == "__main__":
    sys.exit(main())
