"""The shell of a replacement's plan: gathers its observation, carries out its intents, and remembers what came of them.

Nothing here decides. An intent's failure is turned into a remembered fact, with its time, and the next plan reads it.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, assert_never

from gpu_standby.api import names
from gpu_standby.api.pair import GpuStandbyPair
from gpu_standby.api.replacement import GpuReplacement, ReplacementPhase
from gpu_standby.controllers.context import Context
from gpu_standby.controllers.rented import Machines, Secrets
from gpu_standby.core import budget, offers, rental
from gpu_standby.core.booting import KEY_AGAIN_SECONDS
from gpu_standby.core.rental import (
    CreateKind,
    CreateResult,
    Memory,
    Observation,
    OffersSeen,
    RestoreReport,
    Seen,
    Trouble,
    TroubleKind,
)
from gpu_standby.core.restoring import report_of
from gpu_standby.errors import (
    AuthRejected,
    CannotTell,
    Conflict,
    GpuStandbyError,
    MayHaveHappened,
    NoCredit,
    OfferGone,
    RateLimited,
    Refused,
)
from gpu_standby.ports import Document, GpuProvider, Kind

log = logging.getLogger(__name__)

SECRET_SECONDS = 3.0
REJECTED_SECONDS = 10.0
CREDIT_SECONDS = 30.0
REFUSED_KEY_SECONDS = 3.0
TROUBLE_FIRST_SECONDS = 1.0
TROUBLE_MAX_SECONDS = 30.0


class Renter:
    def __init__(self, context: Context, namespace: str, name: str) -> None:
        self._context = context
        self._namespace = namespace
        self._name = name
        self._secrets = Secrets(context, namespace)
        self._machines = Machines(context, namespace, self._secrets)
        self._api_key = ""
        """The last one seen: its Secret may go before the machines do, when a whole namespace is deleted."""

    @property
    def _now(self) -> float:
        return self._context.clock.now()

    # --- observing ------------------------------------------------------------------------------------

    async def observe(self, replacement: GpuReplacement, memory: Memory) -> tuple[Observation, Memory]:
        cluster, spec = self._context.cluster, replacement.spec
        document = await cluster.get(Kind.PAIR, self._namespace, spec.pair)
        pair = GpuStandbyPair.model_validate(document) if document is not None else None
        if pair is not None and any(pair.metadata.uid not in a.label for a in replacement.status.attempts):
            # Another pair of the same name: the one these machines were rented for is gone.
            pair = None
        phase = replacement.status.phase
        renting = phase in (ReplacementPhase.SEARCHING, ReplacementPhase.RENTING, ReplacementPhase.AWAITING_APPROVAL)
        restoring = phase in (ReplacementPhase.RESTORING, ReplacementPhase.VERIFYING)
        public_key, config_map, others = await asyncio.gather(
            self._public_key(pair),
            cluster.get(Kind.CONFIG_MAP, self._namespace, names.sync_objects(spec.pair)) if restoring else _nothing(),
            self._others() if renting or phase is ReplacementPhase.BOOTING else _none(),
        )
        restore = _restore_report(config_map)
        if restoring:
            value = f"{restore.id} {restore.state} {restore.bytes} {restore.verified_bytes} {restore.verified_files}"
            if memory.progress is None or memory.progress.value != value:
                memory = replace(memory, progress=Seen(value, self._now))
        siblings = tuple(
            r
            for r in others
            if r.metadata.namespace == self._namespace
            and r.metadata.uid != replacement.metadata.uid
            and r.spec.pair == spec.pair
        )
        counted = [r for r in others if r.metadata.uid != replacement.metadata.uid] + [replacement]
        return (
            Observation(
                replacement=replacement,
                pair=pair,
                installation=self._context.installation,
                memory=memory,
                public_key=public_key,
                budget=budget.budget(counted, self._context.creates_per_hour, self._now),
                siblings=siblings,
                restore=restore,
                sync_objects=config_map is not None,
            ),
            memory,
        )

    async def _others(self) -> list[GpuReplacement]:
        documents = await self._context.cluster.list(Kind.REPLACEMENT, self._context.watched)
        return [GpuReplacement.model_validate(document) for document in documents]

    async def _public_key(self, pair: GpuStandbyPair | None) -> str:
        """The operator's own, of this pair; the pair's controller makes it."""
        return await self._secrets.own_key(pair, "operator.pub") if pair is not None else ""

    # --- the provider ---------------------------------------------------------------------------------

    async def _provider(self, observation: Observation, memory: Memory) -> tuple[GpuProvider | None, Memory]:
        """Read fresh each time: a Secret that is mended is used at once."""
        pair, status = observation.pair, observation.replacement.status
        vast = pair.spec.gpu.vast if pair is not None else None
        ref = vast.api_key_secret_ref if vast is not None else status.api_key_secret_ref
        key = (await self._secrets.read(ref)).strip()
        if not key and observation.replacement.metadata.deletion_timestamp is not None:
            key = self._api_key
        if not key:
            what = f"the Secret {ref.name!r} with the key {ref.key!r} is not there" if ref is not None else "no key"
            trouble = Trouble(TroubleKind.SECRET_MISSING, what, self._now + SECRET_SECONDS, _count(memory) + 1)
            return None, replace(memory, trouble=trouble)
        self._api_key = key
        return self._context.connections.provider(key), memory

    def _troubled(self, memory: Memory, error: GpuStandbyError) -> Memory:
        """Nothing more is asked of the provider for a while: longer each time, up to half a minute."""
        count = _count(memory) + 1
        match error:
            case AuthRejected():
                return replace(
                    memory, trouble=Trouble(TroubleKind.KEY_REJECTED, str(error), self._now + REJECTED_SECONDS, count)
                )
            case RateLimited():
                wait = max(error.retry_after_seconds, TROUBLE_FIRST_SECONDS)
            case _:
                wait = min(TROUBLE_FIRST_SECONDS * 2.0 ** min(count - 1, 10), TROUBLE_MAX_SECONDS)
        return replace(memory, trouble=Trouble(TroubleKind.UNREACHABLE, str(error), self._now + wait, count))

    # --- acting ---------------------------------------------------------------------------------------

    async def act(self, intent: rental.Intent, observation: Observation, memory: Memory) -> Memory:
        match intent:
            case rental.Look():
                return await self._look(observation, memory)
            case rental.Search():
                return await self._search(intent, observation, memory)
            case rental.Create():
                return await self._create(intent, observation, memory)
            case rental.Destroy():
                sent = {**memory.destroys_sent, intent.contract: self._now}
                memory = replace(memory, destroys_sent=sent)
                return await self._command(observation, memory, lambda p: p.destroy(intent.contract))
            case rental.StopMachine():
                memory = replace(memory, states_sent={**memory.states_sent, intent.contract: self._now})
                return await self._command(observation, memory, lambda p: p.stop(intent.contract))
            case rental.StartMachine():
                memory = replace(memory, states_sent={**memory.states_sent, intent.contract: self._now})
                return await self._command(observation, memory, lambda p: p.start(intent.contract))
            case rental.SetLabel():
                memory = replace(memory, labels_sent={**memory.labels_sent, intent.contract: self._now})
                return await self._command(observation, memory, lambda p: p.label(intent.contract, intent.label))
            case rental.AttachKey():
                return await self._attach(intent, observation, memory)
            case rental.Greet():
                return replace(memory, greeting=await self._machines.greet(intent))
            case rental.Inspect():
                return replace(memory, inspection=await self._machines.inspect(intent, observation, memory.inspection))
            case rental.AskRestore():
                await self._ask_restore(intent, observation)
                return replace(memory, restore_sent=self._now)
            case rental.Collect():
                return await self._machines.collect(intent, observation, memory)
            case rental.ConsumeApproval():
                await self._consume_approval(intent, observation)
                return memory
            case rental.Announce():
                return memory
            case _:
                assert_never(intent)

    async def _look(self, observation: Observation, memory: Memory) -> Memory:
        provider, memory = await self._provider(observation, memory)
        if provider is None:
            return memory
        try:
            listed = await provider.list()
        except (CannotTell, Refused) as error:
            return self._troubled(memory, error)
        seen = memory.seen | {instance.contract for instance in listed.instances}
        return replace(memory, before=memory.instances, instances=listed, seen=seen, trouble=None)

    async def _search(self, intent: rental.Search, observation: Observation, memory: Memory) -> Memory:
        provider, memory = await self._provider(observation, memory)
        if provider is None:
            return memory
        try:
            found = tuple(await provider.search(intent.query))
        except (CannotTell, Refused) as error:
            return self._troubled(memory, error)
        tried = {attempt.offer_id for attempt in observation.replacement.status.attempts}
        fitting = offers.rank([o for o in found if o.offer_id not in tried], intent.query, self._now).shortlist
        return replace(
            memory,
            offers=OffersSeen(self._now, intent.query, found),
            searches_in_vain=0 if fitting else memory.searches_in_vain + 1,
            trouble=None,
        )

    async def _create(self, intent: rental.Create, observation: Observation, memory: Memory) -> Memory:
        try:
            provider, memory = await self._provider(observation, memory)
        except CannotTell as error:
            provider, memory = None, self._troubled(memory, error)
        if provider is None:
            # Certainly not sent.
            text = memory.trouble.text if memory.trouble is not None else ""
            result = CreateResult(
                CreateKind.POSTPONED, self._now, text=text, again_at=self._now + TROUBLE_FIRST_SECONDS
            )
            return _created(memory, intent.attempt, result)
        try:
            contract = await provider.create(intent.request)
        except RateLimited as error:
            result = self._postponed(error, max(error.retry_after_seconds, TROUBLE_FIRST_SECONDS))
        except (CannotTell, MayHaveHappened) as error:
            result = CreateResult(CreateKind.LOST, self._now, text=str(error))
        except OfferGone as error:
            result = CreateResult(CreateKind.OFFER_GONE, self._now, text=str(error))
        except NoCredit as error:
            result = self._postponed(error, CREDIT_SECONDS)
            memory = replace(memory, trouble=Trouble(TroubleKind.NO_CREDIT, str(error), self._now + CREDIT_SECONDS))
        except AuthRejected as error:
            result = self._postponed(error, REJECTED_SECONDS)
            memory = self._troubled(memory, error)
        except Refused as error:
            kind = CreateKind.LEFT_BEHIND if error.contract else CreateKind.REFUSED
            result = CreateResult(kind, self._now, contract=error.contract, text=str(error))
        else:
            result = CreateResult(CreateKind.CREATED, self._now, contract=contract)
            memory = replace(memory, trouble=None)
        return _created(memory, intent.attempt, result)

    def _postponed(self, error: GpuStandbyError, seconds: float) -> CreateResult:
        return CreateResult(CreateKind.POSTPONED, self._now, text=str(error), again_at=self._now + seconds)

    async def _command(
        self, observation: Observation, memory: Memory, command: Callable[[GpuProvider], Awaitable[None]]
    ) -> Memory:
        provider, memory = await self._provider(observation, memory)
        if provider is None:
            return memory
        try:
            await command(provider)
        except (CannotTell, MayHaveHappened, AuthRejected) as error:
            return self._troubled(memory, error)
        except Refused as error:
            # The next list shows what is so; a command that is still wanted is repeated.
            log.warning("replacement %s/%s: %s", self._namespace, self._name, error)
        return replace(memory, trouble=None)

    async def _attach(self, intent: rental.AttachKey, observation: Observation, memory: Memory) -> Memory:
        provider, memory = await self._provider(observation, memory)
        if provider is None:
            return memory
        sent = self._now
        try:
            await provider.attach_key(intent.contract, intent.public_key)
        except (CannotTell, MayHaveHappened, AuthRejected) as error:
            return self._troubled(memory, error)
        except Refused as error:
            # Perhaps attached already, perhaps too early: what matters is whether we are let in.
            log.info("replacement %s/%s: %s", self._namespace, self._name, error)
            sent -= KEY_AGAIN_SECONDS - REFUSED_KEY_SECONDS
        keys = {**memory.keys_sent, (intent.contract, intent.public_key): sent}
        return replace(memory, keys_sent=keys, trouble=None)

    # --- the cluster ------------------------------------------------------------------------------------

    async def _ask_restore(self, intent: rental.AskRestore, observation: Observation) -> None:
        text = json.dumps(dict(intent.request), sort_keys=True)
        name = names.sync_objects(observation.replacement.spec.pair)
        await self._context.cluster.patch(Kind.CONFIG_MAP, self._namespace, name, {"data": {"restore": text}})

    async def _consume_approval(self, intent: rental.ConsumeApproval, observation: Observation) -> None:
        """Guarded: an annotation that was changed meanwhile is another command."""
        pair = observation.pair
        if pair is None:
            return
        body = {
            "metadata": {
                "resourceVersion": pair.metadata.resource_version,
                "annotations": {names.ANNOTATION_APPROVE: None},
            }
        }
        try:
            await self._context.cluster.patch(Kind.PAIR, self._namespace, pair.metadata.name, body)
        except Conflict:
            log.info("the approval of %s stays: the pair has changed", intent.plan)


def about_to_create(memory: Memory, intent: rental.Create, now: float) -> Memory:
    """As if the answer had been lost already: true until there is another."""
    lost = CreateResult(CreateKind.LOST, now, text="the operator was interrupted while it sent a create")
    return _created(memory, intent.attempt, lost)


def _created(memory: Memory, attempt: int, result: CreateResult) -> Memory:
    return replace(memory, creates={**memory.creates, attempt: result}, planned_here=memory.planned_here - {attempt})


def _count(memory: Memory) -> int:
    return memory.trouble.count if memory.trouble is not None else 0


async def _nothing() -> Document | None:
    return None


async def _none() -> list[GpuReplacement]:
    return []


def _restore_report(config_map: Document | None) -> RestoreReport:
    data = (config_map or {}).get("data") or {}
    wanted, report = _json(data.get("restore")), _json(data.get("report"))
    restore = report.get("restore")
    return report_of(restore if isinstance(restore, dict) else {}, wanted)


def _json(text: object) -> dict[str, Any]:
    if not isinstance(text, str) or not text:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
