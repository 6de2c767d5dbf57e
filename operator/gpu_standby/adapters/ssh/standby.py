"""The standby's agent over SSH: one held session of JSON lines, asked many things at a time."""

import asyncio
import itertools
import json
import shlex
import time
from collections.abc import Sequence
from typing import Any

import asyncssh

from gpu_standby.adapters.ssh.link import Place, Unreached, connect
from gpu_standby.core.evidence import MachineAddress, Outcome, StandbySample, Witness
from gpu_standby.errors import AgentRefused, CannotTell, CommandFailed, GpuStandbyError, MayHaveHappened, TargetDown
from gpu_standby.ports import Document

CONNECT_SECONDS = 3.0
SHORT_SECONDS = 10.0
COLLECT_SECONDS = 24 * 3600.0


class SshStandby:
    """Implements `ports.Standby`. `host`: set for a machine of the user's own, where the agent is put first."""

    def __init__(self, place: Place, private_key: str, host: "HostAgent | None" = None) -> None:
        self._place = place
        self._key = private_key
        self._host = host
        self._connection: asyncssh.SSHClientConnection | None = None
        self._process: asyncssh.SSHClientProcess[str] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Document]] = {}

    # --- ports.Standby ----------------------------------------------------------------------------------------

    async def probe(self, timeout: float) -> StandbySample:
        started = time.time()
        try:
            answer = await self._ask("probe", timeout, nonce=str(started))
        except Unreached as error:
            return StandbySample(started, time.time(), error.outcome, error.detail)
        except GpuStandbyError as error:
            outcome = Outcome.TIMED_OUT if isinstance(error, MayHaveHappened) else Outcome.CANNOT_TELL
            return StandbySample(started, time.time(), outcome, str(error)[:160])
        return _sample(started, answer)

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
        except (Unreached, GpuStandbyError, ValueError) as error:
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
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        self._drop("closed")

    # --- asking -----------------------------------------------------------------------------------------------

    async def _do(self, op: str, timeout: float, **arguments: Any) -> Document:
        try:
            return await self._ask(op, timeout, **arguments)
        except Unreached as error:
            raise TargetDown(f"the standby: {error.outcome}: {error.detail}") from None

    async def _ask(self, op: str, timeout: float, **arguments: Any) -> Document:
        """Unreached before anything was sent; afterwards MayHaveHappened."""
        process = await self._open(min(timeout, CONNECT_SECONDS))
        number = next(self._numbers)
        answered: asyncio.Future[Document] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answered
        try:
            process.stdin.write(json.dumps({"id": number, "op": op, **arguments}) + "\n")
            async with asyncio.timeout(timeout):
                answer = await answered
        except (TimeoutError, OSError, asyncssh.Error):
            raise MayHaveHappened(f"{op} was sent to the standby and not answered") from None
        finally:
            self._waiting.pop(number, None)
        if answer.get("ok"):
            return answer
        if answer.get("refused"):
            raise AgentRefused(str(answer["refused"]), str(answer.get("error", "")))
        raise CommandFailed(str(answer.get("error", "failed")), 1)

    async def _open(self, timeout: float) -> asyncssh.SSHClientProcess[str]:
        async with self._opening:
            if self._process is not None:
                return self._process
            connection, _ = await connect(self._place, self._key, timeout)
            try:
                async with asyncio.timeout(30.0 if self._host is not None else timeout):
                    command = "serve" if self._host is None else await self._host.install(connection)
                    process = await connection.create_process(command, stderr=asyncssh.DEVNULL)
            except BaseException as error:
                connection.abort()
                if isinstance(error, OSError | TimeoutError | asyncssh.Error):
                    raise Unreached(Outcome.TIMED_OUT, f"no session: {type(error).__name__}") from None
                raise
            self._connection, self._process = connection, process
            self._reader = asyncio.create_task(self._read(process))
        if self._host is not None:
            await self._ask("configure", SHORT_SECONDS, configuration=self._host.configuration)
        return process

    async def _read(self, process: asyncssh.SSHClientProcess[str]) -> None:
        reason = "the session ended"
        try:
            async for line in process.stdout:
                answer = json.loads(str(line))
                answered = self._waiting.get(answer.get("id"))
                if answered is not None and not answered.done() and "progress" not in answer:
                    answered.set_result(answer)
        except (OSError, ValueError, asyncssh.Error) as error:
            reason = f"{type(error).__name__}: {error}"[:160]
        if self._process is process:
            self._drop(reason)

    def _drop(self, reason: str) -> None:
        connection, self._connection, self._process = self._connection, None, None
        if connection is not None:
            connection.abort()
        for answered in self._waiting.values():
            if not answered.done():
                answered.set_exception(ConnectionResetError(reason))
                answered.exception()


class HostAgent:
    """The agent on a machine of the user's own: one file, put there when it differs from ours."""

    def __init__(self, path: str, archive: bytes, version: str, configuration: Document) -> None:
        self._path = path
        self._archive = archive
        self._version = version
        self.configuration = configuration

    async def install(self, connection: asyncssh.SSHClientConnection) -> str:
        """The command that serves."""
        folder = shlex.quote(self._path)
        file = f"{folder}/agent-{self._version}.pyz"
        put = f"cat >{file}.partial && mv {file}.partial {file}"
        script = f"umask 077; mkdir -p {folder} && {{ [ -s {file} ] || {{ {put}; }}; }}"
        done = await connection.run(f"sh -c {shlex.quote(script)}", input=self._archive, encoding=None)
        if done.exit_status != 0:
            raise CannotTell(f"the agent could not be put under {self._path}: {done.stderr!r:.200}")
        return f'python3 {file} --root {folder} --authorized-keys "$HOME/.ssh/authorized_keys" door operator serve'


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
