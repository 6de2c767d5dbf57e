"""A cycle lands whole or not at all.

What a pull brought lies in incoming/ (only what is new or changed). Once it is complete, a journal is written durably;
then the entries are renamed into the tree, and what is gone at the source is removed. Killed before the journal: the
tree is as it was, and incoming/ is thrown away. Killed after it: whoever comes next (the next pull, or `promote`)
finishes, and doing a step twice is doing it once.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_standby.agent import manifest
from gpu_standby.agent.state import Disk, read_json, sync_all, sync_folder, write_json

ESCAPED = "surrogateescape"


def journal(disk: Disk, deletes: list[str], record: Mapping[str, Any]) -> None:
    """The point of no return: from here on the cycle is carried out."""
    sync_all(disk.root)
    write_json(disk.commit, {"deletes": deletes, "record": dict(record)})


def settle(disk: Disk) -> bool:
    """Finish what a journal promises, or drop what has none. True if there was a journal."""
    promised = read_json(disk.commit)
    if promised is None:
        shutil.rmtree(disk.incoming, ignore_errors=True)
        return False
    # Removing changes a folder's time, which the taking in sets right.
    for path in promised["deletes"]:
        _remove(disk.tree / path)
    if disk.incoming.exists():
        _take_in(disk.incoming, disk.tree)
    entries = manifest.scan(disk.tree, disk.hashes)
    digest = manifest.write(disk.manifest, entries)
    counted = manifest.files(entries)
    record = {**promised["record"], "files": len(counted), "bytes": manifest.total_bytes(counted), "manifest": digest}
    disk.write_sync(record)
    shutil.rmtree(disk.incoming, ignore_errors=True)
    disk.commit.unlink(missing_ok=True)
    sync_folder(disk.root)
    return True


def _take_in(incoming: Path, tree: Path) -> None:
    tree.mkdir(exist_ok=True)
    folders: list[tuple[Path, Path]] = [(incoming, tree)]
    seen = 0
    while seen < len(folders):
        source, target = folders[seen]
        seen += 1
        with os.scandir(source) as listing:
            for item in sorted(listing, key=lambda item: item.name):
                if item.name.startswith(manifest.TEMPORARY_PREFIX):
                    continue
                goal = target / item.name
                if item.is_dir(follow_symlinks=False):
                    if goal.is_symlink() or (goal.exists() and not goal.is_dir()):
                        goal.unlink()
                    goal.mkdir(exist_ok=True)
                    folders.append((source / item.name, goal))
                else:
                    if goal.is_dir() and not goal.is_symlink():
                        shutil.rmtree(goal)
                    os.replace(item.path, goal)
    # Renames change a folder's time, so the folders' own attributes come last, the deepest first.
    for source, target in reversed(folders):
        _copy_folder_attributes(source, target)


def _copy_folder_attributes(source: Path, target: Path) -> None:
    found = source.stat()
    # The agent itself has to be able to work in every folder of the copy; the true mode lies in rsync's attribute.
    target.chmod(found.st_mode & 0o7777 | 0o700)
    with contextlib.suppress(OSError):
        wanted = os.listxattr(source)
        for name in wanted:
            os.setxattr(target, name, os.getxattr(source, name))
        for name in os.listxattr(target):
            if name.startswith("user.") and name not in wanted:
                os.removexattr(target, name)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        # What was in a folder that a file has taken the place of is gone with it.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
