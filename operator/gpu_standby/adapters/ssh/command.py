"""One command over a connection, its output bounded: a program that talks for hours must not fill our memory."""

import asyncio
from dataclasses import dataclass

import asyncssh

from gpu_standby.errors import MayHaveHappened

STDOUT_BYTES = 1 << 20
"""The beginning that is kept; the rest is read and dropped."""
STDERR_BYTES = 4096
"""The end that is kept: the last words say why."""


class NotStarted(Exception):
    """The host opened no channel for it: certainly nothing has run."""


@dataclass(frozen=True)
class Finished:
    stdout: str
    stderr: str
    exit_status: int
    """-1: ended by a signal."""


async def execute(
    connection: asyncssh.SSHClientConnection, command: str, *, timeout: float, stdin: bytes | None = None
) -> Finished:
    """NotStarted or MayHaveHappened, nothing else."""
    process: asyncssh.SSHClientProcess[bytes] | None = None
    try:
        async with asyncio.timeout(timeout):
            process = await connection.create_process(command, encoding=None)
            if stdin is not None:
                process.stdin.write(stdin)
            process.stdin.write_eof()
            stdout, stderr = await asyncio.gather(_head(process.stdout), _tail(process.stderr))
            await process.wait_closed()
    except asyncssh.ChannelOpenError as error:
        if process is None:
            raise NotStarted(str(error)[:160]) from None
        raise MayHaveHappened(f"sent, not answered: {type(error).__name__}") from None
    except TimeoutError:
        raise MayHaveHappened(f"sent, not answered in {timeout:g} s") from None
    except (OSError, asyncssh.Error) as error:
        raise MayHaveHappened(f"sent, not answered: {type(error).__name__}") from None
    finally:
        if process is not None:
            process.close()
    if process.exit_status is None and process.exit_signal is None:
        raise MayHaveHappened("sent; the session ended without its exit status")
    status = process.exit_status if process.exit_status is not None else -1
    return Finished(stdout.decode(errors="replace"), stderr.decode(errors="replace"), status)


async def _head(stream: asyncssh.SSHReader[bytes]) -> bytes:
    kept = bytearray()
    while data := await stream.read(65536):
        kept += data[: STDOUT_BYTES - len(kept)]
    return bytes(kept)


async def _tail(stream: asyncssh.SSHReader[bytes]) -> bytes:
    kept = b""
    while data := await stream.read(65536):
        kept = (kept + data)[-STDERR_BYTES:]
    return kept
