"""The session that is held open to a machine: a loop there answers each nonce, and its end is pushed to us."""

import asyncio
import secrets
import shlex
import time
from collections.abc import Callable

import asyncssh

from gpu_standby.adapters.ssh import scripts
from gpu_standby.adapters.ssh.link import Place, Unreached, connect, translate
from gpu_standby.core.evidence import GpuHealth, Outcome

_WORDS = frozenset(GpuHealth)


class Held:
    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        process: asyncssh.SSHClientProcess[str],
        heard: Callable[[float], None],
        ended: Callable[["Held", str], None],
    ) -> None:
        self.connection = connection
        self.ended = False
        self._process = process
        self._heard = heard
        self._tell_end = ended
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, asyncio.Future[GpuHealth]] = {}
        self._unanswered_since: float | None = None
        self._reader = asyncio.create_task(self._read())

    def send(self) -> asyncio.Future[GpuHealth]:
        """A nonce goes out; the future is its answer, or Unreached when the session ends first."""
        nonce = secrets.token_hex(8)
        answer: asyncio.Future[GpuHealth] = self._loop.create_future()
        try:
            self._process.stdin.write(f"{nonce}\n")
        except (OSError, asyncssh.Error) as error:
            raise translate(error) from None
        self._waiting[nonce] = answer
        if self._unanswered_since is None:
            self._unanswered_since = self._loop.time()
        return answer

    def silent_seconds(self) -> float:
        """How long we have been waiting for any answer at all; 0 when nothing is asked."""
        return 0.0 if self._unanswered_since is None else self._loop.time() - self._unanswered_since

    def close(self, reason: str) -> None:
        """Ours to end: nobody is told that it was lost."""
        self._reader.cancel()
        self._finish(reason)

    async def _read(self) -> None:
        reason = "the session ended"
        try:
            async for line in self._process.stdout:
                self._take(str(line))
        except (OSError, asyncssh.Error) as error:
            reason = f"{type(error).__name__}: {error}"[:160]
        self._finish(reason)
        self._tell_end(self, reason)

    def _take(self, line: str) -> None:
        nonce, _, word = line.strip().partition(" ")
        answer = self._waiting.pop(nonce, None)
        if answer is None:
            return  # what a login script prints is no answer
        self._unanswered_since = None
        self._heard(time.time())
        if not answer.done():
            answer.set_result(GpuHealth(word) if word in _WORDS else GpuHealth.UNKNOWN)

    def _finish(self, reason: str) -> None:
        self.ended = True
        self.connection.abort()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Unreached(Outcome.CLOSED, reason))
                answer.exception()  # seen: its asker may have gone
        self._waiting.clear()


async def open_held(
    place: Place,
    private_key: str,
    name: str,
    timeout: float,
    heard: Callable[[float], None],
    ended: Callable[[Held, str], None],
) -> Held:
    """Unreached, nothing else. `name` is the loop's there: a new one ends its forerunner."""
    deadline = asyncio.get_running_loop().time() + timeout
    connection = await connect(place, private_key, timeout)
    try:
        async with asyncio.timeout_at(deadline):
            process = await connection.create_process(
                shlex.join(["sh", "-c", scripts.PROBE, "sh", name]), stderr=asyncssh.DEVNULL, errors="replace"
            )
        held = Held(connection, process, heard, ended)
        # Also an answer to this one, that comes when the asker has given up, is a sign of life.
        held.send()
    except BaseException as error:
        connection.abort()
        if isinstance(error, asyncio.CancelledError):
            raise
        raise translate(error) from None
    return held
