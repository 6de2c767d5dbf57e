"""What all pairs share: can our own observations be believed? (canaries, the lag of our own loop)."""

import asyncio
from collections.abc import Callable

from gpu_standby.core.evidence import ProberState
from gpu_standby.ports import Clock, Connections

LAG_LIMIT_SECONDS = 2.0
"""A loop that stood still for so long cannot tell who was silent (Redis Sentinel's TILT uses the same)."""
DISTRUST_SECONDS = 30.0
CANARY_PERIOD_SECONDS = 5.0
CANARY_PERIOD_SUSPECT_SECONDS = 1.0
CANARY_TIMEOUT_SECONDS = 2.0


class Fleet:
    def __init__(self, connections: Connections, clock: Clock, canaries: tuple[str, ...]) -> None:
        self._connections = connections
        self._clock = clock
        self._canaries = canaries
        self._distrusted_until = 0.0
        self._last_answer = 0.0
        self._last_failure = 0.0
        self._suspects: set[str] = set()
        self._hurry = asyncio.Event()
        self.last_round = clock.now()
        """For the liveness probe: the canary loop is alive."""

    def prober(self) -> ProberState:
        return ProberState(
            distrusted_until=self._distrusted_until,
            last_canary_time=self._last_answer,
            last_canary_failure=self._last_failure,
            canaries=self._canaries,
        )

    def note_lag(self, seconds: float) -> None:
        """Called by the loop's lag meter."""
        if seconds >= LAG_LIMIT_SECONDS:
            self._distrusted_until = self._clock.now() + DISTRUST_SECONDS

    def note_suspicion(self, pair_uid: str, *, suspect: bool) -> None:
        """While any pair is suspect the canaries are asked every second."""
        if suspect and pair_uid not in self._suspects:
            self._suspects.add(pair_uid)
            self._hurry.set()
        elif not suspect:
            self._suspects.discard(pair_uid)

    async def run(self, on_answer: Callable[[], None] | None = None) -> None:
        """Ask the canaries until cancelled."""
        while True:
            await self._ask()
            if on_answer is not None:
                on_answer()
            period = CANARY_PERIOD_SUSPECT_SECONDS if self._suspects else CANARY_PERIOD_SECONDS
            self._hurry.clear()
            try:
                async with asyncio.timeout(period):
                    await self._hurry.wait()
            except TimeoutError:
                continue

    async def _ask(self) -> None:
        started = self._clock.now()
        answers = await asyncio.gather(
            *(self._connections.canary_answers(canary, CANARY_TIMEOUT_SECONDS) for canary in self._canaries)
        )
        self.last_round = self._clock.now()
        if any(answers):
            # The question's time, not the answer's: what counts is that the way out worked after it was asked.
            self._last_answer = max(self._last_answer, started)
        elif self._canaries:
            self._last_failure = self.last_round
