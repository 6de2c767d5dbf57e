"""The second witness: can *this* machine reach the GPU?"""

import secrets
import subprocess
import time
from typing import Any

from gpu_standby.agent.remote import Gpu, ssh_command, text_of
from gpu_standby.agent.state import Disk

_WORDS = (
    (b"Host key verification failed", "WrongHostKey"),
    (b"REMOTE HOST IDENTIFICATION HAS CHANGED", "WrongHostKey"),
    (b"no matching host key type", "WrongHostKey"),
    (b"Permission denied", "AuthFailed"),
    (b"Connection refused", "Refused"),
    (b"No route to host", "Refused"),
    (b"Network is unreachable", "Refused"),
    (b"timed out", "TimedOut"),
    (b"Connection closed", "Closed"),
    (b"Connection reset", "Closed"),
    (b"kex_exchange_identification", "Closed"),
)


def reach(disk: Disk, gpu: Gpu, seconds: float) -> dict[str, Any]:
    """Always a fresh connection: a socket that is still open proves nothing."""
    if not disk.transfer_key.exists():
        return {"outcome": "CannotTell", "detail": "no transfer key yet"}
    nonce = secrets.token_hex(8)
    started = time.time()
    command = [*ssh_command(disk, gpu, connect_seconds=max(1, round(seconds)), shared=False), gpu.host, "echo", nonce]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": "TimedOut", "detail": f"{seconds:g} s"}
    except OSError as error:
        return {"outcome": "CannotTell", "detail": str(error)[:200]}
    if done.returncode == 0 and done.stdout.strip() == nonce.encode():
        return {"outcome": "Answered", "detail": f"{time.time() - started:.2f} s"}
    for word, outcome in _WORDS:
        if word in done.stderr:
            return {"outcome": outcome, "detail": text_of(done.stderr)[:120]}
    # A login that ran something else still proves that the machine is there.
    outcome = "CannotTell" if done.returncode == 255 else "Answered"
    return {"outcome": outcome, "detail": text_of(done.stderr)[:120]}
