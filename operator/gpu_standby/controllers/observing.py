"""Gathering one PairObservation: the API's objects, the watches' evidence, the provider's word."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gpu_standby.api import names
from gpu_standby.api.pair import GpuStandbyPair, GpuStatus
from gpu_standby.api.replacement import GpuReplacement
from gpu_standby.api.spec import Side
from gpu_standby.controllers.context import Context
from gpu_standby.controllers.members import Members, machine_address
from gpu_standby.controllers.watch import GpuWatch
from gpu_standby.core.evidence import ProviderStatement, ProviderWord
from gpu_standby.core.market import Instance, InstanceList, InstanceState
from gpu_standby.core.objects import service as service_objects
from gpu_standby.core.observation import Held, PairObservation, Problem, ServiceView, SliceView, SyncReport
from gpu_standby.core.pair import fingerprint
from gpu_standby.core.reporting import HOST_KEY_REMEDY
from gpu_standby.core.verdict import Verdict, VerdictKind, VerdictReason, last_sign_of_life
from gpu_standby.errors import CannotTell, GpuStandbyError, Refused
from gpu_standby.ports import Document, Kind

PROVIDER_PERIOD_SECONDS = 5.0
"""How often the provider's list is read while something is wrong; never while all is well."""
WORKLOAD_PERIOD_SECONDS = 5.0
SERVICE_PROBE_TIMEOUT_SECONDS = 2.0


def parse_report(config_map: Document | None, pair_epoch: int) -> SyncReport:
    """The mover's report; one of another epoch tells nothing about this one but its last completed cycle."""
    text = (config_map or {}).get("data", {}).get("report")
    if not text:
        return SyncReport()
    raw: dict[str, Any] = json.loads(text)
    sync: dict[str, Any] = raw.get("sync") or {}
    held: dict[str, Any] | None = raw.get("held")
    restore: dict[str, Any] = raw.get("restore") or {}
    error: dict[str, Any] = raw.get("lastError") or {}
    current = raw.get("epoch") == pair_epoch
    return SyncReport(
        epoch=raw.get("epoch", 0),
        covered_time=sync.get("startedTime", 0.0),
        completed_time=sync.get("completedTime", 0.0),
        duration_seconds=sync.get("durationSeconds", 0.0),
        files=sync.get("files", 0),
        bytes=sync.get("bytes", 0),
        manifest=sync.get("manifest", ""),
        consecutive_failures=raw.get("consecutiveFailures", 0) if current else 0,
        error=f"{error.get('class', '')}: {error.get('message', '')}" if error and current else "",
        held=Held(held["reason"], held.get("before", 0), held.get("after", 0), held.get("missing", 0))
        if held and current
        else None,
        cycle_answered=raw.get("cycleAnswered") or "",
        cycle_completed=raw.get("cycleOutcome") == "Completed",
        restore_id=restore.get("id", "") if current else "",
        restore_state=restore.get("state", "") if current else "",
        restore_manifest=restore.get("manifest") or "" if current else "",
        restore_error=restore.get("error") or "" if current else "",
    )


def parse_slice(document: Document | None) -> SliceView | None:
    if document is None:
        return None
    annotations = document["metadata"].get("annotations", {})
    endpoints = document.get("endpoints") or []
    side = annotations.get(names.ANNOTATION_SIDE)
    return SliceView(
        epoch=int(annotations.get(names.ANNOTATION_EPOCH, 0)),
        side=Side(side) if side in list(Side) else None,
        address=endpoints[0]["addresses"][0] if endpoints else "",
        ports=tuple((port["name"], port["port"]) for port in document.get("ports") or []),
        ready=bool(endpoints and endpoints[0].get("conditions", {}).get("ready")),
    )


@dataclass
class Asked:
    """What was asked of slow outsiders, and when: asked again only after a while."""

    instances: InstanceList | None = None
    instances_time: float = 0.0
    absent: dict[int, int] = field(default_factory=dict)
    workload_running: bool | None = None
    service_answers: bool | None = None
    time: float = 0.0
    """When the workload was asked last."""
    service_has_answered: bool = False
    machine: str = ""


class Observer:
    def __init__(self, context: Context, members: Members, namespace: str, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._asking: asyncio.Task[None] | None = None
        self._context = context
        self._members = members
        self._namespace = namespace
        self._asked = Asked()
        self._background: asyncio.Task[None] | None = None
        self.slice_document: Document | None = None

    async def observe(self, pair: GpuStandbyPair, problems: list[Problem], failed: dict[str, str]) -> PairObservation:
        cluster, name = self._context.cluster, pair.metadata.name
        service, endpoint, config_map, children = await asyncio.gather(
            cluster.get(Kind.SERVICE, self._namespace, pair.spec.service.name),
            cluster.get(Kind.ENDPOINT_SLICE, self._namespace, names.endpoint_slice(pair.spec.service.name)),
            cluster.get(Kind.CONFIG_MAP, self._namespace, names.sync_objects(name)),
            cluster.list(Kind.REPLACEMENT, self._namespace, names.pair_labels(name)),
        )
        self.slice_document = endpoint
        members, now = self._members, self._context.clock.now()
        gpu, standby = members.gpu, members.standby
        verdict = gpu.verdict() if gpu else Verdict(VerdictKind.UNKNOWN, VerdictReason.NOT_PROBED)
        self._reset_if_other_machine(pair.status.gpu)
        troubled = verdict.kind is not VerdictKind.ALIVE or pair.status.active is Side.STANDBY
        if standby is not None:
            standby.hurry = verdict.is_silent or pair.status.move is not None
        if troubled and pair.spec.gpu.vast is not None and now - self._asked.instances_time > PROVIDER_PERIOD_SECONDS:
            # Read at the same time, never waited for: what it says is there at the next look.
            self._ask_provider(pair)
        self._ask_workload(pair, verdict)
        instance = self._instance(pair.status.gpu)
        if gpu is not None and instance is not None:
            gpu.provider = ProviderStatement(self._asked.instances_time, _word(instance), instance.status_text[:100])
        presented = gpu.presented_key() if gpu is not None else ""
        if presented:
            told = HOST_KEY_REMEDY.format(fingerprint=fingerprint(presented), pair=name)
            problems = [*problems, Problem("AnotherHostKey", told)]
        return PairObservation(
            pair=pair,
            verdict=verdict,
            prober=self._context.fleet.prober(),
            standby=standby.answer if standby is not None else None,
            standby_answers=standby.answers if standby is not None else False,
            standby_address=members.standby_address,
            standby_running=members.standby_running,
            service=_service_view(service, pair),
            endpoint=parse_slice(endpoint),
            report=parse_report(config_map, pair.status.epoch),
            replacements=tuple(GpuReplacement.model_validate(child) for child in children),
            gpu_machine=machine_address(pair.status.gpu),
            target_running=self._asked.workload_running,
            target_answers=self._asked.service_answers,
            service_answers=self._asked.service_answers if self._asked.service_has_answered else None,
            service_has_answered=self._asked.service_has_answered,
            fence_state=instance.state if instance is not None else None,
            fence_absent=self._absent(pair.status.gpu) >= 2,
            acts_failed=failed,
            problems=tuple(problems),
            dead_target=_moving_to_dead(pair, verdict),
            last_sign_of_life=last_sign_of_life(gpu.evidence()) if gpu is not None else 0.0,
            relocated=self._relocated(pair.status.gpu, instance),
            presented_key=presented,
            adopted=await self._adopted(pair),
        )

    def _reset_if_other_machine(self, gpu: GpuStatus | None) -> None:
        machine = f"{gpu.provider_id} {gpu.address}:{gpu.ssh_port}" if gpu is not None else ""
        if machine != self._asked.machine:
            self._asked = Asked(
                instances=self._asked.instances, instances_time=self._asked.instances_time, machine=machine
            )

    def forget_workload(self) -> None:
        """Ask at the next look: it was just started or stopped."""
        self._asked.time = 0.0

    def _ask_workload(self, pair: GpuStandbyPair, verdict: Verdict) -> None:
        """Only of a machine that answers, and only while it is (to become) the active side. Never waited for: a
        machine that dies while it is being asked must not hold up the decision about it."""
        gpu, asked, now = self._members.gpu, self._asked, self._context.clock.now()
        move = pair.status.move
        wanted = pair.status.active is Side.GPU or (move is not None and move.to is Side.GPU)
        if gpu is None or not wanted or verdict.kind is not VerdictKind.ALIVE:
            asked.workload_running, asked.service_answers = None, None
            return
        hurry = not asked.service_has_answered or asked.workload_running is not True
        period = 0.3 if move is not None else (1.0 if hurry else WORKLOAD_PERIOD_SECONDS)
        if now - asked.time > period and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._look_at_workload(pair, gpu, asked))

    async def _look_at_workload(self, pair: GpuStandbyPair, gpu: GpuWatch, asked: Asked) -> None:
        before = (asked.workload_running, asked.service_answers)
        if pair.spec.gpu.start_command is not None:
            try:
                asked.workload_running = await gpu.machine.workload_running()
            except GpuStandbyError:
                asked.workload_running = None
        probe = pair.spec.probe.service
        if probe is not None:
            address = gpu.machine.address
            asked.service_answers = await self._context.connections.service_answers(
                address.host, address.outside_port(probe.port), probe.http_path, SERVICE_PROBE_TIMEOUT_SECONDS
            )
            asked.service_has_answered = asked.service_has_answered or asked.service_answers
        asked.time = self._context.clock.now()
        if (asked.workload_running, asked.service_answers) != before:
            self._changed()

    # --- the provider -----------------------------------------------------------------------------------

    def _ask_provider(self, pair: GpuStandbyPair) -> None:
        if self._background is not None and not self._background.done():
            return
        self._background = asyncio.create_task(self._read_list(pair))

    async def _read_list(self, pair: GpuStandbyPair) -> None:
        """Errors and time-outs are no opinion: the old answer stays, with its old time."""
        try:
            provider = await self._members.provider(pair)
            if provider is None:
                return
            listed = await provider.list()
        except (CannotTell, Refused):
            return
        gpu = pair.status.gpu
        contract = contract_of(gpu)
        if contract and listed.by_contract(contract) is None:
            self._asked.absent[contract] = self._asked.absent.get(contract, 0) + 1
        elif contract:
            self._asked.absent[contract] = 0
        self._asked.instances, self._asked.instances_time = listed, listed.time

    def _instance(self, gpu: GpuStatus | None) -> Instance | None:
        contract = contract_of(gpu)
        return self._asked.instances.by_contract(contract) if contract and self._asked.instances else None

    def _absent(self, gpu: GpuStatus | None) -> int:
        return self._asked.absent.get(contract_of(gpu), 0)

    def _relocated(self, gpu: GpuStatus | None, instance: Instance | None) -> GpuStatus | None:
        if gpu is None or instance is None or instance.state is not InstanceState.RUNNING:
            return None
        if not instance.address or instance.ssh_port is None:
            return None
        ports = {str(inside): outside for inside, outside in instance.ports}
        return gpu.model_copy(update={"address": instance.address, "ssh_port": instance.ssh_port, "ports": ports})

    async def _adopted(self, pair: GpuStandbyPair) -> GpuStatus | None:
        """A machine that is rented already: find it, let us and the standby in, pin its host key at first contact."""
        vast = pair.spec.gpu.vast
        if vast is None or vast.instance_id is None or pair.status.gpu is not None or not pair.status.standbys:
            return None
        transfer_key = pair.status.standbys[0].transfer_key
        provider = await self._members.provider(pair)
        if provider is None or not transfer_key:
            return None
        found = (await provider.list()).by_contract(vast.instance_id)
        if found is None or found.state is not InstanceState.RUNNING or not found.address or found.ssh_port is None:
            return None
        await provider.attach_key(vast.instance_id, await self._members.operator_public_key(pair))
        await provider.attach_key(vast.instance_id, transfer_key)
        return GpuStatus(
            provider_id=names.vast_provider_id(vast.instance_id),
            address=found.address,
            ssh_port=found.ssh_port,
            ports={str(inside): outside for inside, outside in found.ports},
            host_key=await self._context.connections.host_key(found.address, found.ssh_port, 5.0),
            gpu_name=found.gpu_name,
            price_per_hour=f"{found.price:.4f}",
        )


def contract_of(gpu: GpuStatus | None) -> int:
    text = gpu.provider_id.removeprefix("vast://") if gpu is not None else ""
    return int(text) if text.isdecimal() else 0


def _service_view(document: Document | None, pair: GpuStandbyPair) -> ServiceView:
    if document is None:
        return ServiceView.MISSING
    ours = service_objects.is_ours(document, pair) and not service_objects.has_selector(document)
    return ServiceView.OURS if ours else ServiceView.FOREIGN


def _word(instance: Instance) -> ProviderWord:
    match instance.state:
        case InstanceState.STOPPED | InstanceState.OFFLINE | InstanceState.BROKEN | InstanceState.ENDING:
            return ProviderWord.ENDED
        case InstanceState.RUNNING:
            return ProviderWord.RUNNING
        case InstanceState.BOOTING | InstanceState.UNKNOWN:
            return ProviderWord.NO_OPINION


def _moving_to_dead(pair: GpuStandbyPair, verdict: Verdict) -> bool:
    move = pair.status.move
    return move is not None and move.to is Side.GPU and move.replacement is None and verdict.kind is VerdictKind.DEAD
