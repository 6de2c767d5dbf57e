"""The keys on the standby's disk: the transfer key, made here and never leaving, and who may come in as a mover."""

import re
import subprocess
from pathlib import Path

from gpu_standby.agent.state import Disk, Failure, Refusal, write_whole

_LINE = re.compile(r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-[a-z0-9-]+) [A-Za-z0-9+/=]+( [\x20-\x7e]*)?$")


def make_transfer_key(disk: Disk) -> None:
    if disk.transfer_key.exists():
        return
    disk.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = disk.keys / "transfer.partial"
    partial.unlink(missing_ok=True)
    made = subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "gpu-standby transfer", "-f", str(partial)],
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        raise Failure(f"ssh-keygen: {made.stderr.decode(errors='replace')[-200:]}")
    partial.with_suffix(".partial.pub").rename(disk.keys / "transfer.pub")
    # The private half last: it is what says that the pair of keys is there.
    partial.rename(disk.transfer_key)


def transfer_public_key(disk: Disk) -> str | None:
    try:
        return (disk.keys / "transfer.pub").read_text().strip()
    except FileNotFoundError:
        return None


def admit(authorized: Path, pair_uid: str, epoch: int, key: str | None, door: str) -> None:
    """This mover and no other of the pair: lines of other keys in the file stay as they are."""
    mark = f"gpu-standby-mover:{pair_uid}:"
    try:
        lines = authorized.read_text().splitlines()
    except FileNotFoundError:
        lines = []
    kept = [line for line in lines if mark not in line]
    if key is not None:
        if not _LINE.match(key.strip()):
            raise Refusal("BadRequest", "the mover's key is not one OpenSSH public key line")
        algorithm, blob, *_ = key.split()
        kept.append(f'restrict,command="{door} door mover {epoch}" {algorithm} {blob} {mark}{epoch}')
    authorized.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(authorized, "".join(f"{line}\n" for line in kept).encode())
