"""One sync cycle: GPU → copy. The standby pulls; nothing on the GPU can write here."""

import os
import shlex
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_standby.agent import commit, manifest, remote, transfers
from gpu_standby.agent.remote import unescape
from gpu_standby.agent.state import GPU, Disk, Failure, Refusal

SHRUNK_FLOOR = 3
"""Fewer files than that may go without a question, however small the tree."""
_FAKE_SUPER_ATTRIBUTE = "user.rsync.%stat"
"""rsync: "MODE DEV UID:GID", the mode in octal with its type."""


def pull(
    disk: Disk, pair_uid: str, epoch: int, gpu: remote.Gpu, exclude: Sequence[str], accept_shrink: int | None
) -> dict[str, Any]:
    with transfers.exclusive(disk):
        commit.settle(disk)
        known = manifest.read(disk.manifest)
        first = disk.sync() is None
        if first:
            _mark_source(disk, gpu, pair_uid, epoch)
        started = time.time()
        names, changed, sent = _fetch(disk, gpu, epoch, exclude)
        gone = [path for path in known if path not in names]
        _check_source(known, names, gone, accept_shrink, first=first)
        # Not what the manifest lacks: a workload that ran here for a while may have left files of its own.
        deletes = [path for path in manifest.names(disk.tree) if path not in names]
        still = disk.require(pair_uid)
        if still.epoch != epoch or still.active != GPU:
            raise Refusal("LowerEpoch", f"the standby went on to epoch {still.epoch}")
        completed = time.time()
        record = {
            "epoch": epoch,
            "startedTime": started,
            "completedTime": completed,
            "durationSeconds": completed - started,
            "source": gpu.provider_id,
        }
        if changed or deletes or gone or first or not disk.manifest.exists():
            commit.journal(disk, sorted(deletes), record)
            commit.settle(disk)
            if accept_shrink is not None and manifest.MARKER not in names:
                _mark_source(disk, gpu, pair_uid, epoch)
        else:
            commit.settle(disk)
            old = disk.sync() or {}
            kept = {key: old.get(key) for key in ("files", "bytes", "manifest")}
            disk.write_sync({**kept, **record})
        return {**(disk.sync() or {}), "transferredFiles": changed, "transferredBytes": sent}


def _mark_source(disk: Disk, gpu: remote.Gpu, pair_uid: str, epoch: int) -> None:
    """Before the first cycle: the marker that tells this root from an empty one that took its place."""
    script = f"mkdir -p {shlex.quote(gpu.path)} && cat > {shlex.quote(gpu.path)}/{manifest.MARKER}"
    remote.run(disk, gpu, script, kind="mark", epoch=epoch, stdin=f"{pair_uid}\n".encode(), seconds=30)


def _fetch(disk: Disk, gpu: remote.Gpu, epoch: int, exclude: Sequence[str]) -> tuple[set[str], int, int]:
    """Bring what is new or changed into incoming/. (names at the source, entries changed, their bytes)."""
    disk.incoming.mkdir(exist_ok=True)
    options = [
        "--itemize-changes",
        "--itemize-changes",
        "--out-format=%i %l %n",
        f"--compare-dest={disk.tree}",
    ]
    command = [
        *remote.rsync_command(disk, gpu, options, exclude),
        f"{gpu.host}:{gpu.path}/",
        f"{disk.incoming}/",
    ]
    with transfers.process(disk, "pull", epoch, command) as child:
        out, err = child.communicate()
        code = child.returncode
    if code not in (0, remote.VANISHED_CODE):
        raise Failure(f"rsync exit {code}: {remote.text_of(err)}", **{"class": remote.classify(code)})
    names = {unescape(line[12:].split(b" ", 1)[1]).rstrip("/") for line in out.splitlines()}
    _make_links_real(disk)
    brought = [path for base, _, found in os.walk(disk.incoming) for path in (os.path.join(base, n) for n in found)]
    folders = sum(_is_changed_folder(disk, line) for line in out.splitlines())
    return names - {"", "."}, len(brought) + folders, sum(os.lstat(path).st_size for path in brought)


def _is_changed_folder(disk: Disk, line: bytes) -> bool:
    """A folder that is new here, or has another mode, owner or group (the letters p, o, g of the sixth to eighth)."""
    name = line[12:].split(b" ", 1)[1]
    # The workspace itself rsync compares with incoming/, which is always new: no news.
    if line[1:2] != b"d" or name == b"./":
        return False
    return bool(set(line[5:8]) & set(b"pog")) or not (disk.tree / unescape(name)).is_dir()


def _make_links_real(disk: Disk) -> None:
    """With --fake-super rsync keeps a link as a file that holds its target, which no workload could follow.

    It takes the real link in the copy for a changed one each time, so one that is the same is dropped here.
    """
    for base, _, names in os.walk(disk.incoming):
        for name in names:
            path = os.path.join(base, name)
            if os.path.islink(path) or not _is_fake_link(path):
                continue
            target = Path(path).read_bytes()
            there = disk.tree / os.path.relpath(path, disk.incoming)
            os.unlink(path)
            if not (there.is_symlink() and os.fsencode(os.readlink(there)) == target):
                os.symlink(target, os.fsencode(path))


def _is_fake_link(path: str) -> bool:
    try:
        mode = os.getxattr(path, _FAKE_SUPER_ATTRIBUTE).split()[0]
    except OSError:
        return False
    return stat.S_ISLNK(int(mode, 8))


def _check_source(
    known: dict[str, manifest.Entry], names: set[str], lost: list[str], accept: int | None, *, first: bool
) -> None:
    """The breakers: an emptied, exchanged or half-gone root is never mirrored without a human's word."""
    before = manifest.files(known.values())
    gone = [path for path in lost if known[path].kind != "d" and path != manifest.MARKER]
    if first or not before or (accept is not None and len(gone) <= accept):
        return
    left = len(before) - len(gone)
    counts = {"before": len(before), "after": left, "missing": len(gone)}
    if left == 0:
        raise Failure("the source has no files any more", held={"reason": "SourceEmpty", **counts})
    if manifest.MARKER not in names:
        raise Failure("the source is not the root we know", held={"reason": "SourceUnmarked", **counts})
    if len(gone) >= SHRUNK_FLOOR and 2 * len(gone) >= len(before):
        raise Failure("half of the source's files are gone", held={"reason": "SourceShrunk", **counts})
