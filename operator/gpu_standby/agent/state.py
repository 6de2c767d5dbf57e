"""The standby's own record, on its own disk: whose copy this is, its epoch, which side is active (I2).

Written by `init`, `promote` and `demote` alone, durably and whole: the door believes nothing else.
"""

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GPU = "GPU"
STANDBY = "Standby"


class Refusal(Exception):
    """The door says no. `reason` is one of a closed set of words."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason


class Failure(Exception):
    """It was tried and did not work. `detail` goes into the answer."""

    def __init__(self, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.detail = detail


@dataclass(frozen=True)
class State:
    pairUID: str
    epoch: int
    active: str


class Disk:
    """The folders and files under the standby's root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = root / "tree"
        self.incoming = root / "incoming"
        self.commit = root / "commit.json"
        self.manifest = root / "manifest"
        self.promoted = root / "manifest.promoted"
        self.promoting = root / "promoting"
        self.hashes = root / "hashes"
        self.aside = root / "aside"
        self.keys = root / "keys"
        self.transfer_key = root / "keys" / "transfer"
        self.run = root / "run"
        self.gate = root / "gate"

    def prepare(self) -> None:
        for folder in (self.tree, self.aside, self.keys, self.run, self.gate):
            folder.mkdir(parents=True, exist_ok=True)
        self.keys.chmod(0o700)

    def state(self) -> State | None:
        raw = read_json(self.root / "state.json")
        return State(str(raw["pairUID"]), int(raw["epoch"]), str(raw["active"])) if raw is not None else None

    def write_state(self, state: State) -> None:
        write_json(self.root / "state.json", asdict(state))

    def sync(self) -> dict[str, Any] | None:
        return read_json(self.root / "sync.json")

    def write_sync(self, record: Mapping[str, Any]) -> None:
        write_json(self.root / "sync.json", record)

    def require(self, pair_uid: str) -> State:
        """The record, if this is the pair's standby."""
        state = self.state()
        if state is None:
            raise Refusal("NoState", "this standby has no record: it was never initialised, or its disk was lost")
        if state.pairUID != pair_uid:
            raise Refusal("OtherPair", f"this standby belongs to the pair {state.pairUID}")
        return state


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return dict(found)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(value, sort_keys=True).encode())


def write_whole(path: Path, data: bytes) -> None:
    """The old content or the new one, never a part, also after a power cut."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, data) if len(data) < 1 << 20 else _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(path)
    sync_folder(path.parent)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Everything written on this folder's filesystem is on its disk; the node's other disks are not held up."""
    if subprocess.run(["sync", "-f", str(folder)], capture_output=True, check=False).returncode != 0:
        os.sync()
