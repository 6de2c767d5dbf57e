"""Setting aside what a returning GPU has beyond the last sync, before anything of it is overwritten (I3)."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from gpu_standby.agent import manifest, remote, transfers
from gpu_standby.agent.remote import unescape
from gpu_standby.agent.restore import remote_hashes, remote_links
from gpu_standby.agent.state import Disk, Failure, Refusal, sync_all, sync_folder

COLLECT_SECONDS = 24 * 3600.0


def collect(
    disk: Disk, pair_uid: str, epoch: int, gpu: remote.Gpu, exclude: Sequence[str], name: str
) -> dict[str, Any]:
    if "/" in name or name.startswith("."):
        raise Refusal("BadRequest", "the name of a collection is a plain file name")
    # Whatever side is active: a superseded machine is collected after the failback. It writes only into aside/, so
    # it has a lock of its own, and a long collection holds up no sync.
    with transfers.exclusive(disk, name="lock.collect", wait_seconds=5.0):
        disk.require(pair_uid)
        goal = disk.aside / name
        if goal.exists():
            return {**_count(goal), "deleted": 0}
        known = manifest.read(disk.promoted)
        there = _list(disk, gpu, epoch, exclude)
        found = remote_hashes(disk, gpu, epoch, [path for path, kind in there.items() if kind == "f"], COLLECT_SECONDS)
        if "L" in there.values():
            found |= remote_links(disk, gpu, epoch)
        extra = [
            path
            for path in there
            if path != manifest.MARKER and (path not in known or known[path].value != found.get(path))
        ]
        partial = disk.aside / f".partial-{name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if extra:
            _fetch(disk, gpu, epoch, extra, partial)
        sync_all(disk.root)
        partial.rename(goal)
        sync_folder(disk.aside)
        gone = [path for path, entry in known.items() if entry.kind != "d" and path not in there]
        return {**_count(goal), "deleted": len(gone)}


def _list(disk: Disk, gpu: remote.Gpu, epoch: int, exclude: Sequence[str]) -> dict[str, str]:
    """Every file (f) and link (L) of the workspace, by rsync, so that the exclusions mean the same as in a sync."""
    nowhere = disk.run / "nowhere"
    options = ["--dry-run", "--itemize-changes", "--itemize-changes", "--out-format=%i %n"]
    command = [*remote.rsync_command(disk, gpu, options, exclude), f"{gpu.host}:{gpu.path}/", f"{nowhere}/"]
    with transfers.process(disk, "collect", epoch, command) as child:
        out, err = child.communicate()
        code = child.returncode
    if code not in (0, remote.VANISHED_CODE):
        raise Failure(f"rsync exit {code}: {remote.text_of(err)}", **{"class": remote.classify(code)})
    return {unescape(line[12:]): line[1:2].decode() for line in out.splitlines() if line[1:2] in (b"f", b"L")}


def _fetch(disk: Disk, gpu: remote.Gpu, epoch: int, paths: list[str], partial: os.PathLike[str]) -> None:
    options = ["--files-from=-", "--from0", "--ignore-times"]
    command = [*remote.rsync_command(disk, gpu, options, []), f"{gpu.host}:{gpu.path}/", f"{os.fspath(partial)}/"]
    names = b"\0".join(path.encode(errors="surrogateescape") for path in paths)
    with transfers.process(disk, "collect", epoch, command, stdin=subprocess.PIPE) as child:
        _, err = child.communicate(names)
        code = child.returncode
    if code not in (0, remote.VANISHED_CODE):
        raise Failure(f"rsync exit {code}: {remote.text_of(err)}", **{"class": remote.classify(code)})


def _count(folder: os.PathLike[str]) -> dict[str, int]:
    sizes = [os.lstat(os.path.join(base, name)).st_size for base, _, names in os.walk(folder) for name in names]
    return {"files": len(sizes), "bytes": sum(sizes)}
