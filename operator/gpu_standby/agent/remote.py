"""Reaching a GPU machine from the standby: ssh and rsync with the transfer key and a pinned host key."""

import hashlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_standby.agent import transfers
from gpu_standby.agent.state import Disk, Failure, Refusal

TARGET_CODES = (10, 12, 30, 35, 255)
"""rsync's and ssh's words for "the other side is not there"."""
DISK_FULL_CODE = 11
VANISHED_CODE = 24
"""Files that went away while being read: normal on a live tree."""
_ESCAPE = re.compile(rb"\\#([0-7]{3})")
CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com"


@dataclass(frozen=True)
class Gpu:
    host: str
    port: int
    user: str
    host_key: str
    path: str
    provider_id: str

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "Gpu":
        try:
            gpu = cls(
                host=str(raw["host"]),
                port=int(raw["port"]),
                user=str(raw.get("user", "root")),
                host_key=str(raw["hostKey"]),
                path=str(raw.get("path", "/workspace")).rstrip("/"),
                provider_id=str(raw.get("providerID", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Refusal("BadRequest", f"gpu: {error}") from None
        if not gpu.path.startswith("/") or gpu.host.startswith("-") or gpu.user.startswith("-"):
            raise Refusal("BadRequest", "gpu: path must be absolute, host and user plain")
        return gpu


def ssh_command(disk: Disk, gpu: Gpu, *, connect_seconds: int = 5, shared: bool = True) -> list[str]:
    """The ssh command line. `shared`: one connection is kept open and used again: an idle cycle costs no handshake."""
    identity = hashlib.sha256(f"{gpu.host} {gpu.port} {gpu.user} {gpu.host_key}".encode()).hexdigest()[:16]
    known = disk.run / f"known-{identity}"
    if not known.exists():
        disk.run.mkdir(parents=True, exist_ok=True)
        partial = known.with_suffix(f".{os.getpid()}")
        partial.write_text(f"gpu {gpu.host_key}\n")
        partial.replace(known)
    options = {
        "BatchMode": "yes",
        "CheckHostIP": "no",
        "Ciphers": CIPHERS,
        "ConnectTimeout": str(connect_seconds),
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": "gpu",
        "IdentitiesOnly": "yes",
        "IdentityFile": str(disk.transfer_key),
        "LogLevel": "ERROR",
        "Port": str(gpu.port),
        "ServerAliveCountMax": "2",
        "ServerAliveInterval": "3",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "User": gpu.user,
        "UserKnownHostsFile": str(known),
    }
    algorithm = gpu.host_key.split()[0] if gpu.host_key else ""
    if algorithm:
        options["HostKeyAlgorithms"] = "rsa-sha2-512,rsa-sha2-256" if algorithm == "ssh-rsa" else algorithm
    if shared:
        options |= {
            "ControlMaster": "auto",
            # A socket's path has room for 107 bytes; the run folder may be deep.
            "ControlPath": f"{socket_folder(disk)}/{identity}",
            "ControlPersist": "120",
        }
    command = ["ssh", "-F", "none", "-T"]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    return command


def socket_folder(disk: Disk) -> Path:
    folder = Path("/tmp") / f"gpu-standby-{os.getuid()}-{hashlib.sha256(bytes(disk.root)).hexdigest()[:8]}"  # noqa: S108
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def run(
    disk: Disk, gpu: Gpu, script: str, *, kind: str, epoch: int, stdin: bytes = b"", seconds: float = 60.0
) -> bytes:
    """A shell script on the GPU; Failure with class Target when the machine is not there."""
    command = [*ssh_command(disk, gpu), gpu.host, script]
    with transfers.process(disk, kind, epoch, command, stdin=subprocess.PIPE) as child:
        try:
            out, err = child.communicate(stdin, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Failure("the GPU did not answer in time", **{"class": "Target"}) from None
        code = child.returncode
    if code == 255:
        raise Failure(text_of(err), **{"class": "Target"})
    if code != 0:
        raise Failure(f"exit {code}: {text_of(err)}", **{"class": "Source"})
    return out


def rsync_command(disk: Disk, gpu: Gpu, options: Iterable[str], exclude: Sequence[str]) -> list[str]:
    """Everything that both directions share.

    `--no-inc-recursive`: one round trip, not one per thousand files. `--modify-window=-1`: times are compared to the
    nanosecond; by whole seconds, a file of fixed size that was written twice in one would never be copied again.
    """
    return [
        "rsync",
        "--archive",
        "--numeric-ids",
        "--no-devices",
        "--no-specials",
        "--fake-super",
        "--no-inc-recursive",
        "--modify-window=-1",
        "--protect-args",
        "--timeout=30",
        "--8-bit-output",
        f"--rsh={shlex.join(ssh_command(disk, gpu))}",
        *_filters(exclude),
        *options,
    ]


def _filters(exclude: Sequence[str]) -> list[str]:
    own = ["--include=/.gpu-standby-root", "--exclude=.gpu-standby-tmp*"]
    return [*own, *(f"--exclude={pattern}" for pattern in exclude)]


def kept_names(disk: Disk, epoch: int, exclude: Sequence[str]) -> set[str]:
    """What of the copy is not excluded: rsync's own word for it, so that the patterns mean the same everywhere."""
    listing = ["--archive", "--dry-run", "--8-bit-output", "--itemize-changes", "--itemize-changes", "--out-format=%n"]
    command = ["rsync", *listing, *_filters(exclude), f"{disk.tree}/", f"{disk.run / 'nowhere'}/"]
    with transfers.process(disk, "list", epoch, command) as child:
        out, err = child.communicate()
    if child.returncode not in (0, VANISHED_CODE):
        raise Failure(f"rsync exit {child.returncode}: {text_of(err)}", **{"class": "Ours"})
    return {unescape(line).rstrip("/") for line in out.splitlines()}


def unescape(name: bytes) -> str:
    """rsync writes control characters of a name as \\#ooo."""
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), name))


def classify(code: int) -> str:
    if code in TARGET_CODES:
        return "Target"
    if code == DISK_FULL_CODE:
        return "DiskFull"
    if code == 23:
        return "Source"
    return "Ours"


def text_of(raw: bytes) -> str:
    return raw.decode(errors="replace").strip().replace("\n", "; ")[-300:]
