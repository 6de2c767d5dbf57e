"""One open `serve` of the standby's agent: JSON lines, many requests at a time, each answered by its number."""

import asyncio
import itertools
import json
import logging
from typing import Any

import asyncssh

from gpu_standby.core.evidence import Outcome
from gpu_standby.errors import AgentRefused, CommandFailed, MayHaveHappened
from gpu_standby.ports import Document

log = logging.getLogger(__name__)

PING_SECONDS = 5.0
"""While something is awaited and no line comes, the agent is asked for a sign of life this often."""
DEAD_SECONDS = 30.0
"""Awaited for so long without any line, pings included: the session is over, whatever TCP thinks of it."""
_LAST_WORDS = 400


class NotSent(Exception):
    """The session had ended before the request left us."""


class Unanswered(MayHaveHappened):
    def __init__(self, message: str, outcome: Outcome) -> None:
        super().__init__(message)
        self.outcome = outcome


class Session:
    def __init__(self, connection: asyncssh.SSHClientConnection, process: asyncssh.SSHClientProcess[str]) -> None:
        self.connection = connection
        self.ended = ""
        """Why, once it has."""
        self.doubtful = False
        """A request went unanswered and nothing else was heard since it was sent."""
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Document]] = {}
        self._heard = self._loop.time()
        self._last_words = ""
        self._tasks = (asyncio.create_task(self._read()), asyncio.create_task(self._read_errors()))

    @property
    def idle(self) -> bool:
        return not self._waiting

    async def ask(self, op: str, timeout: float, **arguments: Any) -> Document:
        """NotSent; afterwards Unanswered (it may have happened), AgentRefused or CommandFailed."""
        started = self._loop.time()
        number = self._send(op, arguments)
        answered: asyncio.Future[Document] = self._loop.create_future()
        self._waiting[number] = answered
        try:
            while not answered.done() and not self.ended and (remaining := started + timeout - self._loop.time()) > 0:
                await asyncio.wait({answered}, timeout=min(remaining, PING_SECONDS))
                self._ping_if_silent(started)
        finally:
            self._waiting.pop(number, None)
        if not answered.done() or answered.cancelled():
            if self.ended:
                raise Unanswered(f"{op} was sent to the standby and not answered: {self.ended}", Outcome.CLOSED)
            self.doubtful = self._heard < started
            raise Unanswered(f"{op} was sent to the standby and not answered in {timeout:g} s", Outcome.TIMED_OUT)
        answer = answered.result()
        if answer.get("ok"):
            return answer
        if answer.get("refused"):
            raise AgentRefused(str(answer["refused"]), str(answer.get("error", "")))
        raise CommandFailed(str(answer.get("error", "failed")), 1)

    def _send(self, op: str, arguments: dict[str, Any]) -> int:
        number = next(self._numbers)
        if self.ended:
            raise NotSent
        try:
            self._process.stdin.write(json.dumps({"id": number, "op": op, **arguments}) + "\n")
        except (OSError, asyncssh.Error):
            raise NotSent from None
        return number

    def _ping_if_silent(self, since: float) -> None:
        silent = self._loop.time() - max(self._heard, since)
        if silent > DEAD_SECONDS:
            self.close(f"silent for {silent:.0f} s")
        elif silent >= PING_SECONDS - 0.1 and not self.ended:
            try:
                self._send("probe", {"nonce": "ping"})
            except NotSent:
                self.close("the session ended")

    async def _read(self) -> None:
        reason = ""
        try:
            async for line in self._process.stdout:
                self._take(str(line))
        except (OSError, asyncssh.Error) as error:
            reason = f"{type(error).__name__}: {error}"[:160]
        if not reason:
            # What it said last may still be on its way.
            await asyncio.wait({self._tasks[1]}, timeout=0.5)
            reason = " ".join(f"the session ended {self._last_words}".split())
        self._finish(reason)

    def _take(self, line: str) -> None:
        try:
            answer = json.loads(line)
        except ValueError:
            return  # what a login script prints is no answer
        if not isinstance(answer, dict):
            return
        self._heard, self.doubtful = self._loop.time(), False
        answered = self._waiting.get(answer.get("id", 0))
        if answered is not None and not answered.done() and "progress" not in answer:
            answered.set_result(answer)

    async def _read_errors(self) -> None:
        try:
            while words := await self._process.stderr.read(4096):
                self._last_words = (self._last_words + str(words))[-_LAST_WORDS:]
        except (OSError, asyncssh.Error):
            return

    def close(self, reason: str) -> None:
        for task in self._tasks:
            task.cancel()
        self._finish(reason)

    def _finish(self, reason: str) -> None:
        self.ended = self.ended or reason
        self.connection.abort()
        for answered in self._waiting.values():
            answered.cancel()
