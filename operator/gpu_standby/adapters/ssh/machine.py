"""A GPU machine over SSH: one held session probed by a nonce, fresh confirmations, and the workload's commands."""

import asyncio
import logging
import secrets
import shlex
import time
from collections.abc import Sequence

import asyncssh

from gpu_standby.adapters.ssh import scripts
from gpu_standby.adapters.ssh.command import Finished, NotStarted, execute
from gpu_standby.adapters.ssh.held import Held, open_held
from gpu_standby.adapters.ssh.link import Place, Unreached, connect, translate
from gpu_standby.core.evidence import MachineAddress, Outcome, Sample
from gpu_standby.errors import CommandFailed, TargetDown

log = logging.getLogger(__name__)

SILENT_SECONDS = 15.0
"""A held session that owes an answer for so long is given up: its TCP would retry only ever more rarely."""
DOUBTFUL_SECONDS = 2.5
"""A command does not go over a held session that owes an answer for longer."""
OPEN_SECONDS = 5.0
COMMAND_SECONDS = 15.0
LOCK_SECONDS = 10
"""How long the scripts on the machine wait for each other."""


class SshMachine:
    """Implements `ports.Machine`."""

    def __init__(self, address: MachineAddress, private_key: str) -> None:
        self._address = address
        self._key = private_key
        self._place = Place(address.host, address.port, address.user, address.host_key)
        self._name = secrets.token_hex(6)
        self._held: Held | None = None
        self._opening: asyncio.Task[Held] | None = None
        self._late: float | None = None
        self._lost: set[asyncio.Future[str]] = set()

    @property
    def address(self) -> MachineAddress:
        return self._address

    # --- probes -----------------------------------------------------------------------------------------------

    async def probe(self, timeout: float) -> Sample:
        started = time.time()
        stage = "no session"
        try:
            async with asyncio.timeout(timeout):
                held = await self._session(timeout)
                stage = "no answer"
                health = await held.send()
            return Sample(started, time.time(), Outcome.ANSWERED, health=health)
        except TimeoutError:
            return Sample(started, time.time(), Outcome.TIMED_OUT, f"{stage} in {timeout:g} s")
        except Unreached as error:
            return _missed(started, error, held=True)
        except Exception as error:
            log.exception("a probe failed by a fault of ours")
            return _missed(started, translate(error), held=True)

    async def confirm(self, timeout: float) -> Sample:
        started = time.time()
        deadline = asyncio.get_running_loop().time() + timeout
        nonce = secrets.token_hex(8)
        connection: asyncssh.SSHClientConnection | None = None
        try:
            connection = await connect(self._place, self._key, timeout)
            async with asyncio.timeout_at(deadline):
                done = await connection.run(f"echo {nonce}", stdin=asyncssh.DEVNULL, errors="replace")
            if nonce in str(done.stdout):
                return Sample(started, time.time(), Outcome.ANSWERED, held=False)
            # Let in, and then no shell that could echo: not the machine that was alive before.
            return Sample(started, time.time(), Outcome.CLOSED, f"the shell ended: {done.exit_status}", held=False)
        except TimeoutError:
            return Sample(started, time.time(), Outcome.TIMED_OUT, "let in, no echo in time", held=False)
        except Unreached as error:
            return _missed(started, error, held=False)
        except Exception as error:  # noqa: BLE001 - a probe never raises; what it is, `translate` says
            return _missed(started, translate(error), held=False)
        finally:
            if connection is not None:
                connection.abort()

    async def lost(self) -> str:
        waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._lost.add(waiting)
        try:
            return await waiting
        finally:
            self._lost.discard(waiting)

    def late_answer(self) -> float | None:
        return self._late

    # --- the held session -------------------------------------------------------------------------------------

    async def _session(self, timeout: float) -> Held:
        """The open one, or a new one. An attempt that outlives its asker goes on: it may be answered late."""
        if self._held is not None and self._held.silent_seconds() > SILENT_SECONDS:
            held, self._held = self._held, None
            held.close("silent for too long")
        while self._held is None:
            joined = self._opening is not None
            if self._opening is None:
                limit = max(timeout, OPEN_SECONDS)
                self._opening = asyncio.create_task(
                    open_held(self._place, self._key, self._name, limit, self._hear, self._end)
                )
                self._opening.add_done_callback(self._opened)
            opening = self._opening
            await asyncio.wait({opening})
            if opening.cancelled():
                raise Unreached(Outcome.CANNOT_TELL, "closed by us")
            failed = opening.exception()
            if failed is not None and not joined:
                raise failed
            if failed is None and self._held is None:
                raise Unreached(Outcome.CLOSED, "the session ended as soon as it was open")
        return self._held

    def _opened(self, opening: asyncio.Task[Held]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None and not opening.result().ended:
            self._held = opening.result()

    def _hear(self, now: float) -> None:
        self._late = now

    def _end(self, held: Held, reason: str) -> None:
        if self._held is held:
            self._held = None
        for waiting in self._lost:
            if not waiting.done():
                waiting.set_result(reason)

    async def close(self) -> None:
        if self._opening is not None:
            opening = self._opening
            opening.cancel()
            await asyncio.wait({opening})
        held, self._held = self._held, None
        if held is not None:
            held.close("closed by us")
            await held.connection.wait_closed()
        for waiting in self._lost:
            if not waiting.done():
                waiting.set_result("closed by us")

    # --- commands ---------------------------------------------------------------------------------------------

    async def run(self, command: str, *, timeout: float, stdin: str | None = None) -> str:
        """On the held connection when that is alive: no handshake while everything waits."""
        given = stdin.encode() if stdin is not None else None
        done = await self._execute(command, timeout, given)
        if done.exit_status != 0:
            raise CommandFailed(f"exit {done.exit_status}: {done.stderr.strip()[-300:]}", done.exit_status)
        return done.stdout

    async def _execute(self, command: str, timeout: float, stdin: bytes | None) -> Finished:
        deadline = asyncio.get_running_loop().time() + timeout
        held = self._held
        if held is not None and held.silent_seconds() < DOUBTFUL_SECONDS:
            try:
                return await execute(held.connection, command, timeout=timeout, stdin=stdin)
            except NotStarted:
                pass  # no more sessions on that connection: a new one has its own
        remaining = deadline - asyncio.get_running_loop().time()
        try:
            connection = await connect(self._place, self._key, min(remaining, OPEN_SECONDS))
        except Unreached as error:
            raise error.as_error("the GPU machine") from None
        try:
            remaining = deadline - asyncio.get_running_loop().time()
            return await execute(connection, command, timeout=remaining, stdin=stdin)
        except NotStarted as error:
            raise TargetDown(f"the GPU machine runs no command: {error}") from None
        finally:
            connection.abort()

    async def _script(self, script: str, *arguments: str, timeout: float, stdin: str | None = None) -> str:
        return await self.run(shlex.join(["sh", "-c", script, "sh", *arguments]), timeout=timeout, stdin=stdin)

    async def start_workload(self, command: str, workspace: str) -> None:
        mark = secrets.token_hex(8)
        await self._script(scripts.START, command, workspace, mark, timeout=COMMAND_SECONDS + LOCK_SECONDS)

    async def stop_workload(self, stop_seconds: int) -> None:
        limit = stop_seconds + COMMAND_SECONDS + LOCK_SECONDS
        await self._script(scripts.STOP, str(stop_seconds), timeout=limit)

    async def workload_running(self) -> bool:
        return (await self._script(scripts.RUNNING, timeout=5.0)).strip() == "yes"

    async def quiesce(self, command: str, timeout: float) -> None:
        # The machine's own limit comes first: then we know how it ended.
        await self._script(scripts.QUIESCE, command, str(max(1, round(timeout))), timeout=timeout + 3.0)

    async def authorize(self, public_keys: Sequence[str]) -> None:
        lines = "".join(f"{key.strip()}\n" for key in public_keys)
        await self._script(scripts.AUTHORIZE, timeout=COMMAND_SECONDS, stdin=lines)


def _missed(started: float, error: Unreached, *, held: bool) -> Sample:
    presented = error.presented if error.outcome is Outcome.WRONG_HOST_KEY else ""
    return Sample(started, time.time(), error.outcome, error.detail, held=held, presented_key=presented)
