"""Standby → GPU: transfer, then verify every file's hash on the GPU itself (I8)."""

import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gpu_standby.agent import manifest, remote, transfers
from gpu_standby.agent.state import STANDBY, Disk, Failure, Refusal

Progress = Callable[[dict[str, Any]], None]
PROGRESS_SECONDS = 0.5
_PROGRESS_LINE = re.compile(rb"^\s*([\d,.]+)\s+(\d+)%")
TOLD_PATHS = 5


def restore(
    disk: Disk,
    pair_uid: str,
    epoch: int,
    gpu: remote.Gpu,
    exclude: Sequence[str],
    final: bool,
    progress: Progress,
) -> dict[str, Any]:
    with transfers.exclusive(disk):
        if disk.require(pair_uid).active != STANDBY:
            raise Refusal("GpuActive", "the GPU is the active side: nothing is restored over it")
        begun = time.time()
        _leave_marker(disk, pair_uid)
        entries = manifest.scan(disk.tree, disk.hashes)
        if exclude:
            kept = remote.kept_names(disk, epoch, exclude)
            entries = [entry for entry in entries if entry.path in kept]
        total = manifest.total_bytes(entries)
        _send(disk, gpu, epoch, exclude, total, progress)
        sent = time.time()
        wrong = _verify(disk, gpu, epoch, entries, final=final)
        if wrong:
            # A file that was damaged on the way has the right size and time: only its content tells.
            _send(disk, gpu, epoch, exclude, total, progress, only=[entry.path for entry in wrong])
            wrong = _verify(disk, gpu, epoch, entries, final=final)
        if wrong:
            paths = ", ".join(repr(entry.path) for entry in wrong[:TOLD_PATHS])
            raise Failure(
                f"{len(wrong)} entries differ on the GPU after two transfers: {paths}", **{"class": "Mismatch"}
            )
        counted = manifest.files(entries)
        digest = manifest.write(disk.manifest, entries)
        return {
            "files": len(counted),
            "bytes": total,
            "verifiedFiles": len(counted),
            "verifiedBytes": manifest.total_bytes(counted),
            "mismatches": 0,
            "manifest": digest,
            "durationSeconds": time.time() - begun,
            "transferSeconds": sent - begun,
            "verifySeconds": time.time() - sent,
        }


def _leave_marker(disk: Disk, pair_uid: str) -> None:
    marker = disk.tree / manifest.MARKER
    if not marker.exists():
        marker.write_text(f"{pair_uid}\n")


def _send(
    disk: Disk,
    gpu: remote.Gpu,
    epoch: int,
    exclude: Sequence[str],
    total: int,
    progress: Progress,
    only: Iterable[str] | None = None,
) -> None:
    options = ["--info=progress2", "--outbuf=L"]
    if only is None:
        options += ["--delete-delay"]
    else:
        options += ["--files-from=-", "--from0", "--ignore-times"]
    folder = shlex.quote(gpu.path)
    remote.run(disk, gpu, f"mkdir -p {folder}", kind="restore", epoch=epoch, seconds=30)
    command = [*remote.rsync_command(disk, gpu, options, exclude), f"{disk.tree}/", f"{gpu.host}:{gpu.path}/"]
    names = b"\0".join(path.encode(errors="surrogateescape") for path in only or ())
    pipe = subprocess.PIPE if only is not None else subprocess.DEVNULL
    with transfers.process(disk, "restore", epoch, command, stdin=pipe) as child:
        if child.stdin is not None:
            child.stdin.write(names)
            child.stdin.close()
            child.stdin = None
        _follow(child, total, progress)
        err = child.stderr.read() if child.stderr is not None else b""
        code = child.wait()
    if code not in (0, remote.VANISHED_CODE):
        raise Failure(f"rsync exit {code}: {remote.text_of(err)}", **{"class": remote.classify(code)})


def _follow(child: subprocess.Popen[bytes], total: int, progress: Progress) -> None:
    """rsync rewrites one line, with carriage returns: bytes done and their part of the whole."""
    told, buffer = 0.0, b""
    if child.stdout is None:
        return
    while chunk := child.stdout.read1(4096):  # type: ignore[attr-defined]
        *lines, buffer = re.split(rb"[\r\n]", buffer + chunk)
        for line in lines:
            found = _PROGRESS_LINE.match(line)
            if found is not None and time.monotonic() - told >= PROGRESS_SECONDS:
                told = time.monotonic()
                progress({"bytes": min(total, total * int(found[2]) // 100), "bytesTotal": total})
    progress({"bytes": total, "bytesTotal": total})


def remote_hashes(disk: Disk, gpu: remote.Gpu, epoch: int, paths: Iterable[str], seconds: float) -> dict[str, str]:
    """SHA-256 of these files, computed on the GPU. A name that is missing in the answer could not be read there."""
    names = b"".join(b"./" + path.encode(errors="surrogateescape") + b"\0" for path in paths)
    if not names:
        return {}
    script = f"cd {shlex.quote(gpu.path)} && {{ xargs -0 sha256sum -z -- 2>/dev/null || true; }}"
    out = remote.run(disk, gpu, script, kind="verify", epoch=epoch, stdin=names, seconds=seconds)
    found = {}
    for record in out.split(b"\0"):
        value, separator, name = record.partition(b"  ./")
        if separator:
            found[name.decode(errors="surrogateescape")] = value.decode()
    return found


def remote_links(disk: Disk, gpu: remote.Gpu, epoch: int) -> dict[str, str]:
    script = f"cd {shlex.quote(gpu.path)} && find . -type l -printf '%P\\0%l\\0'"
    fields = remote.run(disk, gpu, script, kind="verify", epoch=epoch).split(b"\0")
    texts = [field.decode(errors="surrogateescape") for field in fields]
    return dict(zip(texts[0::2], texts[1::2], strict=False))


def _verify(
    disk: Disk, gpu: remote.Gpu, epoch: int, entries: list[manifest.Entry], *, final: bool
) -> list[manifest.Entry]:
    """The entries that are not on the GPU as the manifest has them."""
    files = [entry for entry in entries if entry.kind == "f"]
    links = [entry for entry in entries if entry.kind == "l"]
    # Never less than 10 MB/s, so a bound on time that an honest machine cannot miss.
    there = remote_hashes(disk, gpu, epoch, [entry.path for entry in files], 120 + manifest.total_bytes(files) / 1e7)
    wrong = [entry for entry in files if there.get(entry.path) != entry.value]
    if links:
        targets = remote_links(disk, gpu, epoch)
        wrong += [entry for entry in links if targets.get(entry.path) != entry.value]
    if final or not wrong:
        return wrong
    # The workload is still writing here: an entry that changed since the manifest is not a mismatch.
    now = {entry.path: entry for entry in manifest.scan(disk.tree, disk.hashes)}
    return [entry for entry in wrong if now.get(entry.path) == entry]
