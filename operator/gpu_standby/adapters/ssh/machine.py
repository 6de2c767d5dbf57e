"""A GPU machine over SSH: one held session probed by a nonce, fresh confirmations, and the workload's commands."""

import asyncio
import contextlib
import secrets
import shlex
import time
from collections.abc import Sequence

import asyncssh

from gpu_standby.adapters.ssh import scripts
from gpu_standby.adapters.ssh.link import Place, Unreached, connect, translate
from gpu_standby.core.evidence import GpuHealth, MachineAddress, Outcome, Sample
from gpu_standby.errors import CannotTell, CommandFailed, MayHaveHappened, TargetDown, WrongHostKey

SILENT_SECONDS = 15.0
"""A held session that was silent for so long is given up and opened anew."""
COMMAND_SECONDS = 15.0
CONNECT_SECONDS = 5.0


class _Held:
    """The open session and its loop of nonces."""

    def __init__(
        self, connection: asyncssh.SSHClientConnection, process: asyncssh.SSHClientProcess[str], ended: asyncio.Event
    ) -> None:
        self.connection = connection
        self.process = process
        self.ended = ended
        self.waiting: dict[str, asyncio.Future[GpuHealth]] = {}
        self.last_answer = time.time()


class SshMachine:
    """Implements `ports.Machine`."""

    def __init__(self, address: MachineAddress, private_key: str) -> None:
        self._address = address
        self._key = private_key
        self._place = Place(address.host, address.port, address.user, address.host_key)
        self._held: _Held | None = None
        self._late: float | None = None
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reader: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()

    @property
    def address(self) -> MachineAddress:
        return self._address

    # --- probes -----------------------------------------------------------------------------------------------

    async def probe(self, timeout: float) -> Sample:
        started = time.time()
        try:
            async with asyncio.timeout(timeout):
                held = await self._open(timeout)
                nonce = secrets.token_hex(8)
                answered = asyncio.get_running_loop().create_future()
                held.waiting[nonce] = answered
                held.process.stdin.write(f"{nonce}\n")
                health = await answered
            return Sample(started, time.time(), Outcome.ANSWERED, health=health)
        except Unreached as error:
            return self._missed(started, error, held=True)
        except TimeoutError:
            await self._give_up_when_silent()
            return Sample(started, time.time(), Outcome.TIMED_OUT, f"no answer in {timeout:g} s")
        except (OSError, asyncssh.Error) as error:
            return self._missed(started, translate(error), held=True)

    async def confirm(self, timeout: float) -> Sample:
        started = time.time()
        nonce = secrets.token_hex(8)
        try:
            connection, _ = await connect(self._place, self._key, timeout)
        except Unreached as error:
            return self._missed(started, error, held=False)
        try:
            async with asyncio.timeout(max(0.05, timeout - (time.time() - started))):
                done = await connection.run(f"echo {nonce}", stdin=asyncssh.DEVNULL)
            if nonce in str(done.stdout):
                return Sample(started, time.time(), Outcome.ANSWERED, held=False)
            return Sample(started, time.time(), Outcome.CANNOT_TELL, "the shell did not echo", held=False)
        except (OSError, TimeoutError, asyncssh.Error) as error:
            return self._missed(started, translate(error), held=False)
        finally:
            connection.abort()

    def _missed(self, started: float, error: Unreached, *, held: bool) -> Sample:
        presented = error.presented if error.outcome is Outcome.WRONG_HOST_KEY else ""
        return Sample(started, time.time(), error.outcome, error.detail, held=held, presented_key=presented)

    async def lost(self) -> str:
        return await asyncio.shield(self._lost)

    def late_answer(self) -> float | None:
        return self._late

    # --- the held session -------------------------------------------------------------------------------------

    async def _open(self, timeout: float) -> _Held:
        async with self._opening:
            if self._held is not None:
                return self._held
            connection, pinned = await connect(self._place, self._key, timeout)
            try:
                process = await connection.create_process(
                    f"sh -c {shlex.quote(scripts.PROBE)}", stderr=asyncssh.DEVNULL
                )
            except BaseException:
                connection.abort()
                raise
            self._held = _Held(connection, process, pinned.ended)
            self._reader = asyncio.create_task(self._read(self._held))
            return self._held

    async def _read(self, held: _Held) -> None:
        reason = "the session ended"
        try:
            async for line in held.process.stdout:
                nonce, _, word = str(line).strip().partition(" ")
                held.last_answer = time.time()
                self._late = held.last_answer
                answered = held.waiting.pop(nonce, None)
                if answered is not None and not answered.done():
                    known = word in list(GpuHealth)
                    answered.set_result(GpuHealth(word) if known else GpuHealth.UNKNOWN)
        except (OSError, asyncssh.Error) as error:
            reason = f"{type(error).__name__}: {error}"[:160]
        if self._held is held:
            self._held = None
            self._end(held, reason)

    def _end(self, held: _Held, reason: str) -> None:
        held.connection.abort()
        for answered in held.waiting.values():
            if not answered.done():
                answered.set_exception(Unreached(Outcome.CLOSED, reason))
                answered.exception()
        lost, self._lost = self._lost, asyncio.get_running_loop().create_future()
        if not lost.done():
            lost.set_result(reason)

    async def _give_up_when_silent(self) -> None:
        held = self._held
        if held is not None and time.time() - held.last_answer > SILENT_SECONDS:
            self._held = None
            if self._reader is not None:
                self._reader.cancel()
            held.connection.abort()

    async def close(self) -> None:
        held, self._held = self._held, None
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if held is not None:
            held.connection.abort()
        if not self._lost.done():
            self._lost.cancel()

    # --- commands ---------------------------------------------------------------------------------------------

    async def run(self, command: str, *, timeout: float, stdin: str | None = None) -> str:
        """On the held connection when there is one: no handshake while everything waits."""
        held = self._held
        own: asyncssh.SSHClientConnection | None = None
        if held is not None:
            connection = held.connection
        else:
            try:
                own, _ = await connect(self._place, self._key, min(timeout, CONNECT_SECONDS))
            except Unreached as error:
                raise _as_error(error) from None
            connection = own
        try:
            async with asyncio.timeout(timeout):
                given = {"input": stdin} if stdin is not None else {"stdin": asyncssh.DEVNULL}
                done = await connection.run(command, **given)
        except (OSError, TimeoutError, asyncssh.Error) as error:
            raise MayHaveHappened(f"sent, not answered: {type(error).__name__}") from None
        finally:
            if own is not None:
                own.abort()
        if done.exit_status != 0:
            text = str(done.stderr or "").strip()[-300:]
            raise CommandFailed(f"exit {done.exit_status}: {text}", int(done.exit_status or -1))
        return str(done.stdout or "")

    async def _script(self, script: str, *arguments: str, timeout: float, stdin: str | None = None) -> str:
        return await self.run(shlex.join(["sh", "-c", script, "sh", *arguments]), timeout=timeout, stdin=stdin)

    async def start_workload(self, command: str, workspace: str) -> None:
        await self._script(scripts.START, command, workspace, timeout=COMMAND_SECONDS)

    async def stop_workload(self, stop_seconds: int) -> None:
        await self._script(scripts.STOP, str(stop_seconds), timeout=stop_seconds + COMMAND_SECONDS)

    async def workload_running(self) -> bool:
        return (await self._script(scripts.RUNNING, timeout=5.0)).strip() == "yes"

    async def quiesce(self, command: str, timeout: float) -> None:
        await self._script('exec sh -c "$1"', command, timeout=timeout)

    async def authorize(self, public_keys: Sequence[str]) -> None:
        lines = "".join(f"{key.strip()}\n" for key in public_keys)
        await self._script(scripts.AUTHORIZE, timeout=COMMAND_SECONDS, stdin=lines)


def _as_error(error: Unreached) -> TargetDown | CannotTell:
    if error.outcome is Outcome.WRONG_HOST_KEY:
        return WrongHostKey(error.detail, error.presented)
    if error.outcome is Outcome.CANNOT_TELL:
        return CannotTell(error.detail)
    return TargetDown(f"{error.outcome}: {error.detail}")


with contextlib.suppress(AttributeError):
    # asyncssh tells every connection at INFO; what matters of it is in our own lines.
    asyncssh.set_log_level("WARNING")
