"""The GpuReplacement's controller: observe, plan (core/replacement), write, act; again at once when something changed.

The guarded status write comes before the acts: an intent that is not in the API was never carried out. What came of
an act is remembered until the next plan writes it; a process that dies in between finds it again by the label.
"""

import asyncio
import contextlib
import logging
from dataclasses import replace

from gpu_standby.api.replacement import GpuReplacement, OutcomeOfAttempt, ReplacementPhase
from gpu_standby.controllers.context import Context
from gpu_standby.controllers.renting import Renter, about_to_create
from gpu_standby.core.objects import status as status_objects
from gpu_standby.core.rental import Announce, Create, Memory, Plan
from gpu_standby.core.replacement import plan
from gpu_standby.errors import CannotTell, Conflict, GpuStandbyError, MayHaveHappened
from gpu_standby.ports import Document, EventType, Kind

log = logging.getLogger(__name__)

CONFLICT_SECONDS = 0.02
RETRY_SECONDS = 2.0
UNEXPECTED_SECONDS = 5.0
STEPS_PER_RELEASE = 8
"""A release is called again every two seconds; what can go on without waiting goes on within one call."""


class ReplacementController:
    def __init__(self, context: Context, namespace: str, name: str) -> None:
        self._context = context
        self._namespace = namespace
        self._name = name
        self._wake = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        """The daemon's last step and the finalizer's first may meet."""
        self._renter = Renter(context, namespace, name)
        self._memory = Memory()
        self.last_tick = context.clock.now()

    def wake(self) -> None:
        self._wake.set()

    async def run(self, stopped: asyncio.Event) -> None:
        """Until `stopped`. Never raises: what goes wrong is logged, and tried again."""
        while not stopped.is_set():
            self._wake.clear()
            pause = await self.step()
            self.last_tick = self._context.clock.now()
            if pause > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
            else:
                await asyncio.sleep(0)

    async def release(self, document: Document) -> str | None:
        """The replacement is being deleted: None once its machines are proven gone, else what is waited for."""
        try:
            for _ in range(STEPS_PER_RELEASE):
                async with self._one_at_a_time:
                    decided = await self._step()
                if decided is None or decided.released:
                    return None
                if decided.requeue_seconds > 0:
                    return decided.waiting or "its machines are being destroyed"
        except (CannotTell, Conflict, MayHaveHappened) as error:
            return str(error) or "the API server cannot be asked"
        except GpuStandbyError as error:
            log.warning("replacement %s/%s: %s", self._namespace, self._name, error)
            return str(error)
        return "its machines are being destroyed"

    async def step(self) -> float:
        """One round, and how long nothing is to be done after it."""
        where = f"{self._namespace}/{self._name}"
        try:
            async with self._one_at_a_time:
                decided = await self._step(only_living=True)
            return decided.requeue_seconds if decided is not None else RETRY_SECONDS
        except Conflict:
            return CONFLICT_SECONDS
        except GpuStandbyError as error:
            log.warning("replacement %s: %s", where, error)
            return RETRY_SECONDS
        except Exception:
            log.exception("replacement %s: unexpected", where)
            return UNEXPECTED_SECONDS

    async def _step(self, *, only_living: bool = False) -> Plan | None:
        """One round. None: there is no such replacement (any more), or it is the finalizer's now."""
        document = await self._context.cluster.get(Kind.REPLACEMENT, self._namespace, self._name)
        if document is None:
            return None
        replacement = GpuReplacement.model_validate(document)
        if only_living and replacement.metadata.deletion_timestamp is not None:
            return None
        observation, self._memory = await self._renter.observe(replacement, self._memory)
        decided = plan(observation, self._context.clock.now())
        changed = decided.status != replacement.status
        if changed:
            document = await self._write(document, replacement, decided)
        for intent in decided.intents:
            if isinstance(intent, Announce):
                kind = EventType.WARNING if intent.warning else EventType.NORMAL
                await self._context.cluster.event(document, kind, intent.reason, intent.message)
        acted = False
        for intent in decided.intents:
            if isinstance(intent, Announce):
                continue
            acted = True
            if isinstance(intent, Create):
                # Before it is sent: whoever goes on after a cancelled call must take it for sent.
                self._memory = about_to_create(self._memory, intent, self._context.clock.now())
            self._memory = await self._renter.act(intent, observation, self._memory)
        return replace(decided, requeue_seconds=0.0) if acted or changed else decided

    async def _write(self, document: Document, old: GpuReplacement, decided: Plan) -> Document:
        written = await self._context.cluster.apply_status(status_objects.replacement_status(document, decided.status))
        known = {attempt.number for attempt in old.status.attempts}
        fresh = {
            attempt.number
            for attempt in decided.status.attempts
            if attempt.number not in known and attempt.outcome is OutcomeOfAttempt.PLANNED
        }
        # Only now: an intent whose write was not answered may be there, and then its create counts as sent.
        self._memory = replace(self._memory, planned_here=self._memory.planned_here | fresh)
        if old.status.phase is not decided.status.phase:
            log.info("replacement %s/%s: %s", self._namespace, self._name, _line(decided.status.phase, decided))
        return written


def _line(phase: ReplacementPhase, decided: Plan) -> str:
    return f"{phase.value}: {decided.status.message}" if decided.status.message else phase.value
