"""Carrying out the acts of a pair's plan. Each is idempotent; errors are those of `errors` and go to the caller."""

import json
from datetime import UTC, datetime
from typing import assert_never

from gpu_standby.api import names
from gpu_standby.api.pair import GpuStandbyPair, GpuStatus, MoveStep
from gpu_standby.api.spec import Side
from gpu_standby.controllers.context import Context
from gpu_standby.controllers.members import AGENT_PORT, AGENT_USER, Members
from gpu_standby.controllers.observing import Observer, contract_of
from gpu_standby.core import acts
from gpu_standby.core.moves import PROMOTE_LIMIT_SECONDS, STEP_LIMITS_SECONDS
from gpu_standby.core.moving import target_gpu
from gpu_standby.core.objects import replacement as replacement_objects
from gpu_standby.core.objects import service as service_objects
from gpu_standby.core.observation import PairObservation
from gpu_standby.core.pair import wanted_ports
from gpu_standby.errors import CannotTell, Conflict
from gpu_standby.ports import Document, EventType, Kind, Machine, Standby


def gpu_document(gpu: GpuStatus, pair: GpuStandbyPair) -> Document:
    """A GPU machine as the agent and the mover want it."""
    return {
        "host": gpu.address,
        "port": gpu.ssh_port,
        "user": gpu.user,
        "hostKey": gpu.host_key,
        "path": pair.spec.workspace.path,
        "providerID": gpu.provider_id,
    }


class Actor:
    def __init__(self, context: Context, members: Members, observer: Observer, namespace: str) -> None:
        self._context = context
        self._members = members
        self._observer = observer
        self._namespace = namespace

    async def act(self, act: acts.Act, observation: PairObservation, document: Document) -> dict[str, object]:
        """What it brought, for `core.pair.after`."""
        pair = observation.pair
        uid, stop_seconds = pair.metadata.uid, pair.spec.standby.stop_seconds
        match act:
            case acts.Announce():
                await self.announce(act, document)
            case acts.Consume(annotation):
                body = {"metadata": {"annotations": {annotation: None}}}
                await self._context.cluster.patch(Kind.PAIR, self._namespace, pair.metadata.name, body)
            case acts.InitStandby(epoch):
                await self._standby().init(uid, epoch)
                self._look_again()
            case acts.Promote(epoch) | acts.ResumeStandby(epoch):
                result = await self._standby().promote(uid, epoch, PROMOTE_LIMIT_SECONDS)
                self._look_again()
                return result
            case acts.Demote(epoch):
                await self._standby().demote(uid, epoch, stop_seconds)
                self._look_again()
            case acts.Quiesce(side):
                await self._quiesce(side, pair)
            case acts.StopWorkload(side, epoch):
                await self._stop(side, epoch, pair)
            case acts.StartWorkload():
                await self._start(pair)
            case acts.RequestCycle(request):
                await self._request_cycle(request, pair)
            case acts.RequestRestore(request):
                await self._request_restore(request, observation)
            case acts.Flip(side, epoch, ready):
                await self._flip(side, epoch, ready, observation)
            case acts.Collect(name):
                return await self._collect(name, pair)
            case acts.Replace(why, epoch, serial, require_approval):
                child = replacement_objects.replacement(pair, why, epoch, serial, require_approval=require_approval)
                try:
                    await self._context.cluster.create(child)
                except Conflict:
                    return {}
            case acts.DropReplacement(name):
                await self._context.cluster.delete(Kind.REPLACEMENT, self._namespace, name)
            case acts.StopMachine():
                await self._stop_machine(pair)
            case _:
                assert_never(act)
        return {}

    async def announce(self, act: acts.Announce, document: Document) -> None:
        await self._context.cluster.event(document, EventType(act.level.value), act.reason, act.message)

    def _standby(self) -> Standby:
        if self._members.standby is None:
            raise CannotTell("the standby has no address yet")
        return self._members.standby.standby

    def _machine(self) -> Machine:
        if self._members.gpu is None:
            raise CannotTell("the GPU machine has no address yet")
        return self._members.gpu.machine

    def _look_again(self) -> None:
        if self._members.standby is not None:
            self._members.standby.nudge()

    async def _quiesce(self, side: Side, pair: GpuStandbyPair) -> None:
        limit = STEP_LIMITS_SECONDS[MoveStep.QUIESCE]
        if side is Side.GPU:
            if pair.spec.gpu.quiesce_command is not None:
                await self._machine().quiesce(pair.spec.gpu.quiesce_command, limit)
        elif pair.spec.standby.quiesce_command is not None:
            command = pair.spec.standby.quiesce_command
            await self._standby().quiesce(pair.metadata.uid, pair.status.epoch, command, limit)

    async def _stop(self, side: Side, epoch: int, pair: GpuStandbyPair) -> None:
        if side is Side.GPU:
            await self._machine().stop_workload(pair.spec.standby.stop_seconds)
            self._observer.forget_workload()
        else:
            await self._standby().stop(pair.metadata.uid, epoch, pair.spec.standby.stop_seconds)
            self._look_again()

    async def _start(self, pair: GpuStandbyPair) -> None:
        if pair.spec.gpu.start_command is not None:
            await self._machine().start_workload(pair.spec.gpu.start_command, pair.spec.workspace.path)
        self._observer.forget_workload()

    async def _request_cycle(self, request: str, pair: GpuStandbyPair) -> None:
        await self.write_sync(pair, cycle_request=request)

    async def write_sync(self, pair: GpuStandbyPair, *, cycle_request: str | None = None) -> None:
        document = sync_document(pair, cycle_request=cycle_request, standby=await self.standby_document(pair))
        await self._patch_config(pair, {"sync": json.dumps(document, sort_keys=True)})

    async def standby_document(self, pair: GpuStandbyPair) -> Document:
        """Where the mover finds the agent."""
        existing = pair.spec.standby.existing
        if existing is not None:
            return {
                "host": existing.address,
                "port": existing.ssh_port,
                "user": existing.user,
                "hostKey": existing.host_key,
            }
        return {
            "host": self._members.standby_address,
            "port": AGENT_PORT,
            "user": AGENT_USER,
            "hostKey": await self._members.standby_host_key(pair),
        }

    async def _request_restore(self, request: str, observation: PairObservation) -> None:
        pair = observation.pair
        move = pair.status.move
        gpu = target_gpu(observation, move) if move is not None else None
        if gpu is None:
            raise CannotTell("the GPU that is being moved to is not known any more")
        restore = {
            "id": request,
            "epoch": pair.status.epoch,
            "gpu": gpu_document(gpu, pair),
            "exclude": list(pair.spec.workspace.exclude),
            "final": True,
        }
        await self._patch_config(pair, {"restore": json.dumps(restore, sort_keys=True)})

    async def _patch_config(self, pair: GpuStandbyPair, data: dict[str, str]) -> None:
        name = names.sync_objects(pair.metadata.name)
        existing = await self._context.cluster.get(Kind.CONFIG_MAP, self._namespace, name)
        if existing is None:
            raise CannotTell(f"the ConfigMap {name} is not there yet")
        if all((existing.get("data") or {}).get(key) == value for key, value in data.items()):
            return
        await self._context.cluster.patch(Kind.CONFIG_MAP, self._namespace, name, {"data": data})

    async def _flip(self, side: Side, epoch: int, ready: bool, observation: PairObservation) -> None:
        """Never to a lower epoch: the slice carries its own, and the write is guarded by what was read."""
        pair = observation.pair
        if observation.endpoint is not None and observation.endpoint.epoch > epoch:
            raise Conflict(f"the slice is at epoch {observation.endpoint.epoch} already")
        host = self._members.standby_address
        if side is Side.GPU:
            host = observation.gpu_machine.host if observation.gpu_machine is not None else ""
        address = await self._context.connections.resolve(host) if host else ""
        now = datetime.fromtimestamp(self._context.clock.now(), UTC)
        document = service_objects.endpoint_slice(
            pair,
            side=side,
            address=address,
            ports=wanted_ports(observation, side),
            epoch=epoch,
            ready=ready and bool(address),
            trigger_time=now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            seen=self._observer.slice_document,
        )
        await self._context.cluster.apply(document)

    async def _collect(self, name: str, pair: GpuStandbyPair) -> dict[str, object]:
        if pair.status.gpu is None:
            raise CannotTell("no GPU to collect from")
        standby = self._standby()
        if self._members.gpu is not None and pair.spec.gpu.existing is not None:
            await self.authorize_transfer_key(pair)
        gpu = gpu_document(pair.status.gpu, pair)
        return await standby.collect(pair.metadata.uid, pair.status.epoch, gpu, list(pair.spec.workspace.exclude), name)

    async def authorize_transfer_key(self, pair: GpuStandbyPair) -> None:
        """The standby's key opens the GPU: on an existing machine we append it, at a provider it is attached."""
        transfer_key = pair.status.standbys[0].transfer_key if pair.status.standbys else ""
        if not transfer_key:
            return
        if pair.spec.gpu.existing is not None:
            await self._machine().authorize([transfer_key])
            return
        provider, contract = await self._members.provider(pair), contract_of(pair.status.gpu)
        if provider is not None and contract:
            await provider.attach_key(contract, await self._members.operator_public_key(pair))
            await provider.attach_key(contract, transfer_key)

    async def _stop_machine(self, pair: GpuStandbyPair) -> None:
        provider, contract = await self._members.provider(pair), contract_of(pair.status.gpu)
        if provider is not None and contract:
            await provider.stop(contract)


def sync_document(pair: GpuStandbyPair, *, cycle_request: str | None, standby: Document) -> Document:
    """The `sync` key of the mover's ConfigMap."""
    status = pair.status
    gpu = status.gpu
    leaving = status.move is not None and status.move.step not in (MoveStep.QUIESCE, MoveStep.STOP, MoveStep.DELTA)
    return {
        "epoch": status.epoch,
        "pair": pair.metadata.uid,
        "enabled": status.active is Side.GPU and gpu is not None and bool(gpu.host_key) and not leaving,
        "gpu": gpu_document(gpu, pair) if gpu is not None and gpu.host_key else None,
        "standby": standby,
        "exclude": list(pair.spec.workspace.exclude),
        "periodSeconds": pair.spec.sync.period_seconds,
        "acceptShrink": status.accepted_shrink,
        "cycleRequest": cycle_request,
    }
