"""Watching the two machines of a pair: probes, confirmations and the standby's word, kept as evidence.

One watch per machine, each with its own tasks, so that a slow host never delays another pair's probe.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from gpu_standby.api.spec import ProbeSpec
from gpu_standby.controllers.fleet import Fleet
from gpu_standby.core.evidence import Outcome, ProviderStatement, Sample, StandbySample, Witness
from gpu_standby.core.verdict import Evidence, Verdict, judge
from gpu_standby.ports import Clock, Machine, Standby

KEPT_SAMPLES = 64
LONG_SILENCE_MISSES = 30
"""After so many confirmations the machine is asked at the ordinary period again."""
STANDBY_HURRY_SECONDS = 1.0


class StandbyWatch:
    """The newest word of the standby's agent."""

    def __init__(self, standby: Standby, clock: Clock, probe: ProbeSpec, changed: Callable[[], None]) -> None:
        self.standby = standby
        self.probe = probe
        self.hurry = False
        """Ask every second: something is at stake."""
        self.sample: StandbySample | None = None
        """The newest attempt."""
        self.answer: StandbySample | None = None
        """The newest answer."""
        self._clock = clock
        self._changed = changed
        self._nudge = asyncio.Event()

    @property
    def answers(self) -> bool:
        return self.sample is not None and self.sample.outcome is Outcome.ANSWERED

    @property
    def answered_time(self) -> float:
        return self.answer.finished if self.answer is not None else 0.0

    def nudge(self) -> None:
        """Ask now."""
        self._nudge.set()

    async def ask(self) -> None:
        old = self.answer
        answered_before = self.answers
        self.sample = await self.standby.probe(self.probe.timeout_seconds)
        if self.sample.outcome is Outcome.ANSWERED:
            self.answer = self.sample
        if self.answers != answered_before or _record(old) != _record(self.answer):
            self._changed()

    async def run(self) -> None:
        while True:
            await self.ask()
            self._nudge.clear()
            period = STANDBY_HURRY_SECONDS if self.hurry or not self.answers else self.probe.period_seconds
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period):
                    await self._nudge.wait()


def _record(sample: StandbySample | None) -> tuple[object, ...]:
    """What of an answer is news; its times are not."""
    if sample is None:
        return ()
    return (sample.has_state, sample.pair_uid, sample.epoch, sample.active, sample.gate, sample.covered_time > 0)


class GpuWatch:
    """The evidence about one GPU machine."""

    def __init__(
        self,
        machine: Machine,
        standby: Callable[[], StandbyWatch | None],
        fleet: Fleet,
        clock: Clock,
        probe: ProbeSpec,
        pair_uid: str,
        changed: Callable[[], None],
    ) -> None:
        self.machine = machine
        self.probe = probe
        self.provider: ProviderStatement | None = None
        self._standby = standby
        self._fleet = fleet
        self._clock = clock
        self._pair_uid = pair_uid
        self._changed = changed
        self._samples: deque[Sample] = deque(maxlen=KEPT_SAMPLES)
        self._witnesses: deque[Witness] = deque(maxlen=KEPT_SAMPLES)
        self._tasks: set[asyncio.Task[None]] = set()

    def evidence(self) -> Evidence:
        standby = self._standby()
        return Evidence(
            samples=tuple(self._samples),
            late_answer=self.machine.late_answer() or 0.0,
            witnesses=tuple(self._witnesses),
            provider=self.provider,
            standby=standby.sample if standby is not None else None,
            standby_answered=standby.answered_time if standby is not None else 0.0,
            prober=self._fleet.prober(),
        )

    def verdict(self) -> Verdict:
        return judge(self.evidence(), self.probe, self._clock.now())

    def presented_key(self) -> str:
        """The host key that another machine presents there at present, if one does."""
        last = self._samples[-1] if self._samples else None
        return last.presented_key if last is not None else ""

    def last_outcome(self) -> Outcome | None:
        return self._samples[-1].outcome if self._samples else None

    async def run(self) -> None:
        lost: asyncio.Task[str] | None = None
        next_probe = self._clock.now() + random.uniform(0, 0.2)  # noqa: S311 - spreads start-up, guards nothing
        try:
            while True:
                verdict = self._note()
                if verdict.is_silent:
                    self._spawn(self._confirm())
                    self._spawn(self._ask_standby())
                    long_silent = verdict.misses > LONG_SILENCE_MISSES
                    await asyncio.sleep(self.probe.period_seconds if long_silent else self.probe.confirm_period_seconds)
                    next_probe = self._clock.now()
                    continue
                if lost is None:
                    lost = asyncio.create_task(self.machine.lost())
                await asyncio.wait({lost}, timeout=max(0.0, next_probe - self._clock.now()))
                if lost.done():
                    now = self._clock.now()
                    self._add(Sample(now, now, Outcome.CLOSED, lost.result()))
                    lost = None
                    continue
                self._add(await self.machine.probe(self.probe.timeout_seconds))
                next_probe += self.probe.period_seconds
                if next_probe < self._clock.now():
                    next_probe = self._clock.now() + self.probe.period_seconds
        finally:
            if lost is not None:
                lost.cancel()
            for task in self._tasks:
                task.cancel()
            self._fleet.note_suspicion(self._pair_uid, suspect=False)

    def _note(self) -> Verdict:
        verdict = self.verdict()
        self._fleet.note_suspicion(self._pair_uid, suspect=verdict.is_silent)
        standby = self._standby()
        if standby is not None and verdict.is_silent and not standby.hurry:
            standby.nudge()
        return verdict

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Confirmations overlap: a slow one must not hold up the next."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _confirm(self) -> None:
        self._add(await self.machine.confirm(self.probe.timeout_seconds))

    async def _ask_standby(self) -> None:
        standby = self._standby()
        if standby is None:
            return
        witness = await standby.standby.reach(self.machine.address, self.probe.timeout_seconds)
        self._witnesses.append(witness)
        self._changed()

    def _add(self, sample: Sample) -> None:
        if sample.outcome is Outcome.CANNOT_TELL:
            return
        before = self.verdict()
        self._samples.append(sample)
        after = self.verdict()
        if (before.kind, before.reason) != (after.kind, after.reason):
            self._changed()
