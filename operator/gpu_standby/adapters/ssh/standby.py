"""The standby's agent over SSH: one held session, opened again by itself; every request bounded."""

import asyncio
import logging
import shlex
import time
from collections.abc import Sequence
from typing import Any

import asyncssh

from gpu_standby.adapters.ssh.command import NotStarted, execute
from gpu_standby.adapters.ssh.link import Place, Unreached, connect, translate
from gpu_standby.adapters.ssh.session import NotSent, Session, Unanswered
from gpu_standby.core.evidence import MachineAddress, Outcome, StandbySample, Witness
from gpu_standby.errors import CommandFailed, GpuStandbyError, MayHaveHappened
from gpu_standby.ports import Document

log = logging.getLogger(__name__)

OPEN_SECONDS = 5.0
INSTALL_SECONDS = 30.0
SHORT_SECONDS = 10.0
COLLECT_SECONDS = 24 * 3600.0


class SshStandby:
    """Implements `ports.Standby`. `host`: set for a machine of the user's own, where the agent is put first."""

    def __init__(self, place: Place, private_key: str, host: "HostAgent | None" = None) -> None:
        self._place = place
        self._key = private_key
        self._host = host
        self._session: Session | None = None
        self._retired: set[Session] = set()
        """Doubtful ones that still owe answers."""
        self._opening: asyncio.Task[Session] | None = None

    # --- ports.Standby ----------------------------------------------------------------------------------------

    async def probe(self, timeout: float) -> StandbySample:
        started = time.time()
        try:
            return _sample(started, await self._ask("probe", timeout, nonce=str(started)))
        except (Unreached, Unanswered) as error:
            return StandbySample(started, time.time(), error.outcome, str(error)[:160])
        except GpuStandbyError as error:
            return StandbySample(started, time.time(), Outcome.CANNOT_TELL, str(error)[:160])
        except Exception as error:
            log.exception("a probe of the standby failed by a fault of ours")
            return StandbySample(started, time.time(), Outcome.CANNOT_TELL, type(error).__name__)

    async def init(self, pair_uid: str, epoch: int) -> None:
        await self._do("init", SHORT_SECONDS, pair=pair_uid, epoch=epoch)

    async def admit(self, pair_uid: str, epoch: int, public_key: str) -> None:
        await self._do("admit", SHORT_SECONDS, pair=pair_uid, epoch=epoch, key=public_key)

    async def reach(self, gpu: MachineAddress, timeout: float) -> Witness:
        started = time.time()
        try:
            # The agent's own limit is the asked one; its answer needs a moment more to come.
            answer = await self._ask("reach", timeout + 1.0, gpu=gpu.reach_document(), timeoutSeconds=timeout)
            outcome = Outcome(str(answer.get("outcome")))
        except Exception as error:  # noqa: BLE001 - never raises: the standby said nothing about the GPU
            return Witness(started, time.time(), Outcome.CANNOT_TELL, str(error)[:160])
        return Witness(started, time.time(), outcome, str(answer.get("detail", ""))[:160])

    async def promote(self, pair_uid: str, epoch: int, timeout: float) -> Document:
        return await self._do("promote", timeout, pair=pair_uid, epoch=epoch)

    async def demote(self, pair_uid: str, epoch: int, stop_seconds: int) -> Document:
        timeout = stop_seconds + 20.0
        return await self._do("demote", timeout, pair=pair_uid, epoch=epoch, stopSeconds=stop_seconds)

    async def stop(self, pair_uid: str, epoch: int, stop_seconds: int) -> None:
        await self._do("stop", stop_seconds + 20.0, pair=pair_uid, epoch=epoch, stopSeconds=stop_seconds)

    async def quiesce(self, pair_uid: str, epoch: int, command: str, timeout: float) -> None:
        await self._do("quiesce", timeout + 5, pair=pair_uid, epoch=epoch, command=command, timeoutSeconds=timeout)

    async def collect(self, pair_uid: str, epoch: int, gpu: Document, exclude: Sequence[str], name: str) -> Document:
        return await self._do(
            "collect", COLLECT_SECONDS, pair=pair_uid, epoch=epoch, gpu=gpu, exclude=list(exclude), name=name
        )

    async def forget(self, pair_uid: str) -> None:
        await self._do("forget", 60.0, pair=pair_uid)

    async def close(self) -> None:
        if self._opening is not None:
            opening = self._opening
            opening.cancel()
            await asyncio.wait({opening})
        sessions = [*self._retired, *([self._session] if self._session is not None else [])]
        self._session = None
        self._retired.clear()
        for session in sessions:
            session.close("closed by us")
            await session.connection.wait_closed()

    # --- asking -----------------------------------------------------------------------------------------------

    async def _do(self, op: str, timeout: float, **arguments: Any) -> Document:
        try:
            return await self._ask(op, timeout, **arguments)
        except Unreached as error:
            raise error.as_error("the standby") from None

    async def _ask(self, op: str, timeout: float, **arguments: Any) -> Document:
        """Unreached while nothing was sent; afterwards Unanswered, AgentRefused, CommandFailed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            session = await self._open(deadline)
            if (remaining := deadline - loop.time()) <= 0:
                raise Unreached(Outcome.TIMED_OUT, "no session in time")
            try:
                return await session.ask(op, remaining, **arguments)
            except NotSent:
                session.close("the session ended")
            finally:
                if session is not self._session and session.idle:
                    self._retired.discard(session)
                    session.close("retired")

    async def _open(self, deadline: float) -> Session:
        """The open one, or a new one. A session that keeps silent is not waited for: the next request has its own."""
        if self._session is not None and (self._session.ended or self._session.doubtful):
            former, self._session = self._session, None
            if former.idle or former.ended:
                former.close("silent")
            else:
                self._retired.add(former)
        loop = asyncio.get_running_loop()
        while self._session is None:
            joined = self._opening is not None
            if self._opening is None:
                self._opening = asyncio.create_task(self._connect())
                self._opening.add_done_callback(self._opened)
            opening = self._opening
            done, _ = await asyncio.wait({opening}, timeout=max(0.0, deadline - loop.time()))
            if not done:
                raise Unreached(Outcome.TIMED_OUT, "no session in time")
            if opening.cancelled():
                raise Unreached(Outcome.CANNOT_TELL, "closed by us")
            failed = opening.exception()
            if failed is not None and not joined:
                raise failed
        return self._session

    def _opened(self, opening: asyncio.Task[Session]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._session = opening.result()

    async def _connect(self) -> Session:
        connection = await connect(self._place, self._key, OPEN_SECONDS)
        try:
            command = "serve" if self._host is None else await self._host.install(connection)
            async with asyncio.timeout(OPEN_SECONDS):
                process = await connection.create_process(command, errors="replace")
            session = Session(connection, process)
            if self._host is not None:
                await session.ask("configure", SHORT_SECONDS, configuration=self._host.configuration)
        except (GpuStandbyError, asyncio.CancelledError):
            connection.abort()
            raise
        except NotSent:
            connection.abort()
            raise Unreached(Outcome.CLOSED, "the session ended as soon as it was open") from None
        except Exception as error:  # noqa: BLE001 - `translate` says what it is
            connection.abort()
            raise translate(error) from None
        return session


class HostAgent:
    """The agent on a machine of the user's own: one file, put there when it differs from ours."""

    def __init__(self, path: str, archive: bytes, version: str, configuration: Document) -> None:
        self._path = path
        self._archive = archive
        self._version = version
        self.configuration = configuration

    async def install(self, connection: asyncssh.SSHClientConnection) -> str:
        """The command that serves."""
        # A name per version: one that is running reads its modules from its own file, and movers' keys name it.
        file = f"{self._path}/agent-{self._version}.pyz"
        script = shlex.join(["sh", "-c", _INSTALL, "sh", self._path, file, str(len(self._archive))])
        try:
            done = await execute(connection, script, timeout=5.0)
            if done.exit_status == _ABSENT:
                done = await execute(connection, script, timeout=INSTALL_SECONDS, stdin=self._archive)
        except NotStarted as error:
            raise Unreached(Outcome.CLOSED, f"no command is run: {error}") from None
        except MayHaveHappened as error:
            raise Unreached(Outcome.CLOSED, f"the agent could not be put there: {error}") from None
        if done.exit_status != 0:
            text = done.stderr.strip()[-200:]
            raise CommandFailed(f"the agent could not be put under {self._path}: {text}", done.exit_status)
        root, archive = shlex.quote(self._path), shlex.quote(file)
        return (
            f'exec python3 {archive} --root {root} --authorized-keys "$HOME/.ssh/authorized_keys" door operator serve'
        )


_ABSENT = 9
_INSTALL = r"""
umask 077
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "python3 >= 3.11 is needed" >&2; exit 1; }
right() { [ -f "$1" ] && [ "$(wc -c <"$1")" -eq "$2" ]; }
right "$2" "$3" && exit 0
mkdir -p "$1" || exit 1
partial=$2.$$.partial
trap 'rm -f "$partial"' EXIT
cat >"$partial" || exit 1
# Cut off on the way, it must never become the agent.
right "$partial" "$3" || exit 9
chmod 700 "$partial" && mv "$partial" "$2"
"""


def _sample(started: float, answer: Document) -> StandbySample:
    state: Document = answer.get("state") or {}
    sync: Document = answer.get("sync") or {}
    return StandbySample(
        started=started,
        finished=time.time(),
        outcome=Outcome.ANSWERED,
        pair_uid=str(state.get("pairUID", "")),
        epoch=int(state.get("epoch", 0)),
        active=str(state.get("active", "")),
        has_state=bool(state),
        covered_time=float(sync.get("startedTime") or 0.0),
        completed_time=float(sync.get("completedTime") or 0.0),
        files=int(sync.get("files") or 0),
        bytes=int(sync.get("bytes") or 0),
        manifest=str(sync.get("manifest") or ""),
        gate=str(answer.get("gate") or ""),
        transfer_key=str(answer.get("transferKey") or ""),
        free_bytes=int(answer.get("freeBytes") or 0),
        agent_version=str(answer.get("agentVersion") or ""),
    )
