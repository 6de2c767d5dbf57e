"""What the copy holds: one line per entry, and a hash per file (SHA-256, computed on the standby's own disk).

A file is read again only when its inode, size, mtime or ctime changed: the local ctime moves with any write. Names
are bytes; they stand in the JSON lines with `surrogateescape`, so every name survives.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_standby.agent.state import write_whole

MARKER = ".gpu-standby-root"
"""Stands at the workspace's root on the GPU and in the copy: a root without it is not the one we know."""
TEMPORARY_PREFIX = ".gpu-standby-tmp"


@dataclass(frozen=True)
class Entry:
    kind: str
    """f, l or d."""
    path: str
    size: int = 0
    mtime_ns: int = 0
    mode: int = 0
    value: str = ""
    """The hash of a file, the target of a link."""

    def line(self) -> str:
        match self.kind:
            case "f":
                fields: list[Any] = ["f", self.path, self.size, self.mtime_ns, self.mode, self.value]
            case "l":
                fields = ["l", self.path, self.value]
            case _:
                fields = ["d", self.path, self.mode]
        return json.dumps(fields)


def parse(text: str) -> Iterator[Entry]:
    for line in text.splitlines():
        match json.loads(line):
            case ["f", path, size, mtime_ns, mode, value]:
                yield Entry("f", path, size, mtime_ns, mode, value)
            case ["l", path, target]:
                yield Entry("l", path, value=target)
            case ["d", path, mode]:
                yield Entry("d", path, mode=mode)
            case other:
                raise ValueError(f"not a manifest line: {other!r:.80}")


def read(path: Path) -> dict[str, Entry]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    return {entry.path: entry for entry in parse(text)}


def write(path: Path, entries: Iterable[Entry]) -> str:
    """Sorted by the path's bytes; the digest of what was written."""
    ordered = sorted(entries, key=lambda entry: os.fsencode(entry.path))
    data = "".join(entry.line() + "\n" for entry in ordered).encode()
    write_whole(path, data)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest(path: Path) -> str:
    try:
        return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except FileNotFoundError:
        return ""


def scan(tree: Path, cache_file: Path) -> list[Entry]:
    """Every entry of the tree. The cache of hashes is read before and written after, if it changed."""
    known = _read_cache(cache_file)
    fresh: dict[str, list[Any]] = {}
    entries = list(_walk(tree, known, fresh))
    if fresh != known:
        partial = cache_file.with_suffix(".partial")
        partial.write_text(json.dumps(fresh))
        partial.replace(cache_file)
    return entries


def names(tree: Path) -> Iterator[str]:
    """The path of every entry of the tree, a folder's before those in it."""
    for base, folders, others in os.walk(tree):
        inside = os.path.relpath(base, tree)
        for name in (*folders, *others):
            if not name.startswith(TEMPORARY_PREFIX):
                yield name if inside == "." else f"{inside}/{name}"


def _read_cache(path: Path) -> dict[str, list[Any]]:
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def _walk(tree: Path, known: Mapping[str, list[Any]], fresh: dict[str, list[Any]]) -> Iterator[Entry]:
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(tree / folder) as listing:
            for item in listing:
                path = f"{folder}/{item.name}" if folder else item.name
                if item.name.startswith(TEMPORARY_PREFIX):
                    continue
                found = item.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    yield Entry("d", path, mode=stat.S_IMODE(found.st_mode))
                    pending.append(path)
                elif stat.S_ISLNK(found.st_mode):
                    yield Entry("l", path, value=os.readlink(item.path))
                elif stat.S_ISREG(found.st_mode):
                    yield _file(path, item.path, found, known, fresh)


def _file(
    path: str, real: str, found: os.stat_result, known: Mapping[str, list[Any]], fresh: dict[str, list[Any]]
) -> Entry:
    guard = [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    old = known.get(path)
    value = old[4] if old is not None and old[:4] == guard else hash_file(real)
    fresh[path] = [*guard, value]
    return Entry("f", path, found.st_size, found.st_mtime_ns, stat.S_IMODE(found.st_mode), value)


def hash_file(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(entries: Iterable[Entry]) -> list[Entry]:
    """Files and links: what the user counts; our own marker is not his."""
    return [entry for entry in entries if entry.kind != "d" and entry.path != MARKER]


def total_bytes(entries: Iterable[Entry]) -> int:
    return sum(entry.size for entry in entries if entry.kind == "f")
