"""`python3 -m gpu_standby.agent` or `python3 agent.pyz`: door, sshd, prepare."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from gpu_standby.agent import door, sshd
from gpu_standby.agent.state import Disk


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu-standby agent", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the standby's folder")
    parser.add_argument("--authorized-keys", type=Path, help="where the movers' keys are put")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="make the folders")
    opened = commands.add_parser("door", help="answer requests")
    opened.add_argument("who", choices=["operator", "mover"])
    opened.add_argument("words", nargs=argparse.REMAINDER)
    served = commands.add_parser("sshd", help="open the door over SSH")
    served.add_argument("--port", type=int, default=2222)
    served.add_argument("--host-key", type=Path, required=True)
    served.add_argument("--operator-key", type=Path, required=True)
    served.add_argument("--run-dir", type=Path, required=True)
    given = parser.parse_args(arguments)

    disk = Disk(given.root)
    authorized = given.authorized_keys or given.root / "authorized_keys"
    again = _again(given.root, given.authorized_keys)
    if given.command == "prepare":
        disk.prepare()
        return 0
    if given.command == "sshd":
        disk.prepare()
        sshd.start(given.root, given.run_dir, given.port, given.host_key, given.operator_key, again)
    words: list[str] = given.words
    epoch = int(words.pop(0)) if given.who == "mover" else None
    asked = words or shlex.split(os.environ.get("SSH_ORIGINAL_COMMAND", ""), posix=False)
    return door.run(door.Door(disk, authorized, again, epoch), asked)


def _again(root: Path, authorized: Path | None) -> str:
    """The command that starts this very agent again, for a key's forced command."""
    package = Path(__file__).resolve().parent
    inside_zip = next((parent for parent in package.parents if parent.is_file()), None)
    start = [sys.executable, str(inside_zip)] if inside_zip else [sys.executable, "-m", "gpu_standby.agent"]
    options = ["--root", str(root), *(["--authorized-keys", str(authorized)] if authorized else [])]
    return shlex.join([*start, *options])


if __name__ == "__main__":
    raise SystemExit(main())
