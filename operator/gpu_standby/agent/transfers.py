"""Who is transferring now, so that a promotion can end those of lower epochs and know that they are gone (I2).

Every session of a mover, and every process group it starts, is recorded under run/ before it can change anything.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from gpu_standby.agent.state import Disk, Failure, Refusal

END_SECONDS = 5.0


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; empty: no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _start_time(pid: int) -> str | None:
    """An id that was used again has another one. None: no such (living) process."""
    fields = _stat(pid)
    return None if not fields or fields[0] in ("Z", "X") else fields[19]


def _record(disk: Disk, kind: str, pid: int, epoch: int, group: bool) -> Path:
    disk.run.mkdir(parents=True, exist_ok=True)
    path = disk.run / f"{kind}-{pid}.json"
    record = {"kind": kind, "pid": pid, "start": _start_time(pid), "epoch": epoch, "group": group, "time": time.time()}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record))
    partial.replace(path)
    return path


@contextlib.contextmanager
def session(disk: Disk, epoch: int) -> Iterator[None]:
    """This process serves a mover of that epoch."""
    path = _record(disk, "session", os.getpid(), epoch, group=False)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def process(
    disk: Disk, kind: str, epoch: int, command: Sequence[str], *, stdin: IO[bytes] | int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """A transfer's own process group; killed with everything in it when the block is left."""
    child = subprocess.Popen(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    path = _record(disk, kind, child.pid, epoch, group=True)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        path.unlink(missing_ok=True)


def running(disk: Disk) -> list[dict[str, Any]]:
    found = []
    for path in sorted(disk.run.glob("*.json")):
        try:
            record = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            continue
        if record["start"] is not None and _start_time(record["pid"]) == record["start"]:
            found.append(record)
        else:
            path.unlink(missing_ok=True)
    return found


def end_below(disk: Disk, epoch: int) -> int:
    """Kill every session and transfer of a lower epoch; returns their number once all are gone."""
    doomed = [r for r in running(disk) if r["epoch"] < epoch and r["pid"] != os.getpid()]
    # Sessions first: a session whose rsync was killed must not go on to commit what it had. What it has just started
    # and not recorded yet ends with it.
    for record in sorted(doomed, key=lambda r: r["kind"] != "session"):
        if record["group"]:
            _kill_group(record["pid"])
        else:
            _kill_session(record["pid"])
    deadline = time.monotonic() + END_SECONDS
    while any(_start_time(r["pid"]) == r["start"] for r in doomed):
        if time.monotonic() > deadline:
            raise Failure("transfers of a lower epoch could not be ended", **{"class": "Ours"})
        time.sleep(0.01)
    return len(doomed)


@contextlib.contextmanager
def exclusive(disk: Disk, *, name: str = "lock", wait_seconds: float = 0.0) -> Iterator[None]:
    """One pull, restore or promotion at a time; a collection has its own."""
    descriptor = os.open(disk.root / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Refusal("Locked", "another transfer is under way") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def end_children() -> None:
    """Kill the transfers that this session started: they end with it."""
    for child in _children(os.getpid()):
        _kill_group(child)


def _kill_group(pid: int) -> None:
    """The group, or the process alone while it has not made its own yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _kill_session(pid: int) -> None:
    """Stopped first: a session that cannot run starts nothing more, so its children are all that there are."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + 1.0
        while _stat(pid)[:1] not in ([], ["T"], ["Z"]) and time.monotonic() < deadline:
            time.sleep(0.001)
        for child in _children(pid):
            _kill_group(child)
        os.kill(pid, signal.SIGKILL)


def _children(parent: int) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in pids if _stat(pid)[1:2] == [str(parent)]]
