"""The pair's controller: observe, decide (core), act; again, at once when something changed.

It keeps nothing that the API does not have: killed at any instruction, a new one goes on from `status.move`.
"""

import asyncio
import contextlib
import logging
from dataclasses import replace

from gpu_standby.api.pair import GpuStandbyPair, MoveStep, PairStatus
from gpu_standby.api.spec import Side
from gpu_standby.controllers.acting import Actor
from gpu_standby.controllers.context import Context
from gpu_standby.controllers.members import Members
from gpu_standby.controllers.observing import Observer
from gpu_standby.controllers.parting import Parting
from gpu_standby.controllers.provisions import MissingSecret, Provisions
from gpu_standby.core import acts
from gpu_standby.core.evidence import Outcome
from gpu_standby.core.objects import status as status_objects
from gpu_standby.core.observation import PairObservation, Problem, ServiceView
from gpu_standby.core.pair import after, plan
from gpu_standby.core.reporting import describe, materially_differs, turning_points
from gpu_standby.errors import CannotTell, Conflict, GpuStandbyError
from gpu_standby.ports import Document, Kind

log = logging.getLogger(__name__)

PERIOD_SECONDS = 5.0
PERIOD_BUSY_SECONDS = 0.5
"""While a move is in flight or the pair is being made: what we wait for comes without an event to us."""
RETRY_SECONDS = 2.0
WORDING_SECONDS = 60.0
"""A status that differs only in its wording is written at most so often."""
REAUTHORIZE_SECONDS = 30.0
STEPS_AT_ONCE = 4
"""The longest run of steps on one observation; then everything is looked at anew."""


class PairController:
    def __init__(self, context: Context, namespace: str, name: str) -> None:
        self._context = context
        self._namespace = namespace
        self._name = name
        self._wake = asyncio.Event()
        self._provisions = Provisions(context, namespace)
        self._members = Members(context, self._provisions, namespace, self.wake)
        self._observer = Observer(context, self._members, namespace, self.wake)
        self._actor = Actor(context, self._members, self._observer, namespace)
        self._parting = Parting(context, self._provisions, namespace)
        self._retry_at: dict[acts.Act, float] = {}
        self._failed: dict[str, str] = {}
        self._failed_step: object = None
        self._admitted: object = None
        self._authorized: tuple[object, float] | None = None
        self._dropped_below = 0
        self._posting: set[asyncio.Task[None]] = set()
        self._written: tuple[PairStatus, float] | None = None
        self.last_tick = context.clock.now()

    def wake(self) -> None:
        self._wake.set()

    async def run(self, stopped: asyncio.Event) -> None:
        """Until `stopped`. Never raises: what goes wrong is logged, and tried again."""
        try:
            while not stopped.is_set():
                self._wake.clear()
                pause = await self._safely_tick()
                self.last_tick = self._context.clock.now()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
        finally:
            await self._members.close()

    async def release(self, document: Document) -> str | None:
        """The pair is being deleted: None once everything is gone, else what is waited for."""
        return await self._parting.release(document)

    async def _safely_tick(self) -> float:
        try:
            return await self._tick()
        except Conflict:
            return 0.02
        except CannotTell as error:
            log.warning("pair %s/%s: %s", self._namespace, self._name, error)
            return 1.0
        except GpuStandbyError as error:
            log.warning("pair %s/%s: %s", self._namespace, self._name, error)
            return RETRY_SECONDS
        except Exception:
            log.exception("pair %s/%s: unexpected", self._namespace, self._name)
            return PERIOD_SECONDS

    async def _tick(self) -> float:
        document = await self._context.cluster.get(Kind.PAIR, self._namespace, self._name)
        if document is None or document["metadata"].get("deletionTimestamp") is not None:
            return PERIOD_SECONDS
        pair = GpuStandbyPair.model_validate(document)
        problems = [] if self._in_hurry(pair) else await self._prepare(pair)
        observation = await self._observer.observe(pair, problems, self._failures(pair))
        pair, document, progressed = await self._go_on(observation, document)
        # What was observed is still true enough for the next steps: were it not, a guarded write would say so.
        for _ in range(STEPS_AT_ONCE):
            if not progressed or not self._goes_on_at_once(pair):
                break
            observation = replace(observation, pair=pair, acts_failed=self._failures(pair))
            pair, document, progressed = await self._go_on(observation, document)
        if progressed:
            return 0.0
        await self._keep_conductor(pair, observation)
        return self._pause(pair)

    def _in_hurry(self, pair: GpuStandbyPair) -> bool:
        """Clients wait for a move, and its connections are there: nothing is looked up that it does not need."""
        return pair.status.move is not None and self._members.fit(pair)

    def _goes_on_at_once(self, pair: GpuStandbyPair) -> bool:
        """Steps that need no newer observation than the one at hand."""
        move = pair.status.move
        if move is None or not self._members.fit(pair):
            return False
        leaving = move.to is Side.STANDBY and move.step in (MoveStep.PROMOTE, MoveStep.FLIP)
        return leaving or move.step in (MoveStep.QUIESCE, MoveStep.STOP, MoveStep.DELTA)

    async def _go_on(self, observation: PairObservation, document: Document) -> tuple[GpuStandbyPair, Document, bool]:
        """Plan once, write, act; the last word is whether the status went on."""
        now = self._context.clock.now()
        decided = plan(observation, now)
        pair, document = await self._write(observation.pair, document, decided.status, observation)
        for act in decided.acts:
            if self._retry_at.get(act, 0.0) > now:
                continue
            result = await self._try(act, observation, document)
            if result is None:
                break
            changed = after(pair.status, act, self._context.clock.now(), result)
            if changed != pair.status:
                before = pair.status
                pair, document = await self._write(pair, document, changed, observation)
                self._tell(act, before, changed, document)
                return pair, document, True
        return pair, document, decided.status != observation.pair.status

    def _pause(self, pair: GpuStandbyPair) -> float:
        busy = pair.status.move is not None or pair.status.sync is None or pair.status.gpu is None
        busy = busy or pair.status.active is Side.STANDBY
        return PERIOD_BUSY_SECONDS if busy else PERIOD_SECONDS

    async def _prepare(self, pair: GpuStandbyPair) -> list[Problem]:
        """What the pair needs, and its connections. What the user has to mend comes back as problems."""
        try:
            service = await self._context.cluster.get(Kind.SERVICE, self._namespace, pair.spec.service.name)
            if service is None:
                await self._provisions.service(pair)
            await self._provisions.keys(pair)
            await self._provisions.standby(pair)
            await self._members.update(pair)
            vast = pair.spec.gpu.vast
            if vast is not None and pair.status.gpu is None:
                await self._members.provider(pair)
        except MissingSecret as missing:
            kind = "StandbySecretMissing" if missing.field.startswith("spec.standby") else "SecretMissing"
            return [Problem(kind, str(missing))]
        return []

    # --- writing ------------------------------------------------------------------------------------------

    async def _write(
        self, pair: GpuStandbyPair, document: Document, status: PairStatus, observation: PairObservation
    ) -> tuple[GpuStandbyPair, Document]:
        """Guarded by the version that was read; nothing when there is nothing new to say."""
        now = self._context.clock.now()
        told = describe(observation, status, now)
        old = PairStatus.model_validate(document.get("status") or {})
        if not materially_differs(old, told):
            last = self._written[1] if self._written is not None else 0.0
            if told == old or now - last < WORDING_SECONDS:
                return pair.model_copy(update={"status": told}), document
        written = await self._context.cluster.apply_status(status_objects.pair_status(document, told))
        self._written = (told, now)
        for announcement in turning_points(old, told):
            self._announce(announcement, written)
        return pair.model_copy(update={"status": told}), written

    def _tell(self, act: acts.Act, before: PairStatus, after_it: PairStatus, document: Document) -> None:
        """The story in events: one for each end of a move, one for what was set aside."""
        move = before.move
        if isinstance(act, acts.Flip) and move is not None and after_it.move is None:
            reason = "FailedOver" if move.to is Side.STANDBY else "FailedBack"
            text = f"{move.to} is the active side at epoch {after_it.epoch}"
            self._announce(acts.Announce(reason, text), document)
        elif isinstance(act, acts.Collect) and after_it.set_aside:
            kept = after_it.set_aside[-1]
            text = f"{kept.files} files ({kept.bytes} bytes) that the GPU had beyond the last sync: aside/{kept.name}"
            self._announce(acts.Announce("SetAside", text), document)

    def _announce(self, announcement: acts.Announce, document: Document) -> None:
        """Beside the work: no move waits for an event to be posted."""
        posting = asyncio.create_task(self._actor.announce(announcement, document))
        self._posting.add(posting)
        posting.add_done_callback(self._posting.discard)

    # --- acting -------------------------------------------------------------------------------------------

    def _failures(self, pair: GpuStandbyPair) -> dict[str, str]:
        """The errors of the present step's acts; another step begins with none."""
        step = (pair.status.move.epoch, pair.status.move.step) if pair.status.move is not None else None
        if step != self._failed_step:
            self._failed, self._failed_step = {}, step
        return self._failed

    async def _try(self, act: acts.Act, observation: PairObservation, document: Document) -> dict[str, object] | None:
        if isinstance(act, acts.Announce):
            self._announce(act, document)
            return {}
        try:
            result = await self._actor.act(act, observation, document)
        except Conflict:
            raise
        except GpuStandbyError as error:
            log.warning("pair %s/%s: %s: %s", self._namespace, self._name, type(act).__name__, error)
            self._failed[type(act).__name__] = str(error)
            in_step = isinstance(act, acts.Promote)
            self._retry_at[act] = self._context.clock.now() + (0.3 if in_step else RETRY_SECONDS)
            return None
        self._failed.pop(type(act).__name__, None)
        if isinstance(act, acts.StopMachine | acts.ResumeStandby | acts.StartWorkload | acts.Quiesce):
            # Done once, its effect is seen later: not asked for again in the meantime.
            self._retry_at[act] = self._context.clock.now() + (10.0 if isinstance(act, acts.StopMachine) else 2.0)
        return result

    # --- the conductor ------------------------------------------------------------------------------------

    async def _keep_conductor(self, pair: GpuStandbyPair, observation: PairObservation) -> None:
        """One Job per epoch, once the standby's own record is at that epoch."""
        status, sample = pair.status, observation.standby
        if observation.service is ServiceView.FOREIGN or status.epoch == 0:
            return
        if sample is None or not observation.standby_sample_is_ours or sample.epoch != status.epoch:
            return
        standby = self._members.standby
        if standby is None or not observation.standby_answers:
            return
        admission = (status.epoch, self._members.standby_incarnation)
        key = await self._provisions.mover_key(pair, status.epoch)
        if self._admitted != admission:
            await standby.standby.admit(pair.metadata.uid, status.epoch, key.public)
            self._admitted = admission
        if self._dropped_below < status.epoch:
            await self._provisions.drop_conductors_below(pair, status.epoch)
            self._dropped_below = status.epoch
        await self._provisions.conductor(pair, status.epoch)
        await self._authorize(pair, observation)
        move = status.move
        if move is None or move.step is not MoveStep.DELTA:
            await self._actor.write_sync(pair)

    async def _authorize(self, pair: GpuStandbyPair, observation: PairObservation) -> None:
        """The transfer key on the GPU: once per machine, and again when somebody (Vast.ai does) wiped it."""
        gpu, standby = self._members.gpu, self._members.standby
        if gpu is None or standby is None or not observation.gpu_alive or pair.status.active is not Side.GPU:
            return
        now, machine = self._context.clock.now(), (gpu.machine.address, standby.standby)
        known = self._authorized is not None and self._authorized[0] == machine
        refused = "Target" in observation.report.error or gpu.last_outcome() is Outcome.AUTH_FAILED
        recently = self._authorized is not None and now - self._authorized[1] < REAUTHORIZE_SECONDS
        if (known and not refused) or (known and recently):
            return
        await self._actor.authorize_transfer_key(pair)
        self._authorized = (machine, now)
