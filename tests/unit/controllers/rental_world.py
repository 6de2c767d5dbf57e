"""A cluster, a GPU market and machines in memory, on virtual time, with everything that goes wrong: lost answers,
lists that lag, doubles, sick GPUs, and a fuse that kills the controller between any two calls of a port."""

import itertools
import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from dataclasses import replace as changed
from decimal import Decimal
from typing import Any

from gpu_standby.api import names
from gpu_standby.controllers.context import Context
from gpu_standby.controllers.fleet import Fleet
from gpu_standby.controllers.replacement import ReplacementController
from gpu_standby.core.evidence import MachineAddress, Outcome, Sample
from gpu_standby.core.market import Instance, InstanceList, InstanceState, Offer, OfferQuery, RentRequest
from gpu_standby.errors import (
    AgentRefused,
    AuthRejected,
    CannotTell,
    Conflict,
    MayHaveHappened,
    OfferGone,
    Refused,
    TargetDown,
)
from gpu_standby.ports import Document, Kind

NAMESPACE = "lab"
PAIR = "trainer"
NAME = "trainer-abc123"
START = 1_800_000_000.0
TRANSFER_KEY = "ssh-ed25519 AAAAtransfer"
HEALTHY = "gpu NVIDIA GeForce RTX 4090, 41, 22.31 W\ngpu-exit 0\nrsync rsync  version 3.2.7  protocol version 31\n"


class Killed(BaseException):
    """kill -9: nothing in the controller may catch it."""


@dataclass
class Fuse:
    """Blows at the n-th call of any port, before or after it took effect."""

    at: int = 0
    after: bool = False
    calls: int = 0

    def before_call(self) -> None:
        self.calls += 1
        if self.calls == self.at and not self.after:
            raise Killed

    def after_call(self) -> None:
        if self.calls == self.at and self.after:
            raise Killed


@dataclass
class VirtualClock:
    time: float = START

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass
class Rented:
    instance: Instance
    visible_from: float = 0.0
    running_from: float = 0.0
    keys: list[str] = field(default_factory=list)
    resurrections: int = 0


@dataclass
class World:
    clock: VirtualClock = field(default_factory=VirtualClock)
    fuse: Fuse = field(default_factory=Fuse)
    objects: dict[tuple[str, str, str], Document] = field(default_factory=dict)
    offers: list[Offer] = field(default_factory=list)
    machines: dict[int, Rented] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)
    creates: list[RentRequest] = field(default_factory=list)
    destroyed: list[int] = field(default_factory=list)
    commands: list[tuple[str, int]] = field(default_factory=list)
    collected: list[str] = field(default_factory=list)
    # What goes wrong:
    on_create: list[str] = field(default_factory=list)
    """One word per create, in order: ok, gone, lost-done, lost-not, behind, double, bid, refused."""
    list_lag: float = 0.0
    boot_seconds: float = 3.0
    provider_down_until: float = 0.0
    provider_calls_while_down: int = 0
    bad_key: bool = False
    sick: set[int] = field(default_factory=set)
    """Machine ids whose nvidia-smi fails."""
    never_boot: set[int] = field(default_factory=set)
    broken: set[int] = field(default_factory=set)
    unreachable: set[str] = field(default_factory=set)
    collect_refused: str = ""
    mover: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    contracts: "itertools.count[int]" = field(default_factory=lambda: itertools.count(5001))
    most_alive: int = 0

    def __post_init__(self) -> None:
        for number in range(6):
            self.offers.append(
                Offer(
                    offer_id=700 + number,
                    machine_id=70 + number,
                    host_id=7 + number,
                    gpu_name="RTX 4090",
                    gpu_count=1,
                    price=Decimal("0.30") + Decimal(number) / 100,
                    min_bid=Decimal(0),
                    reliability=0.99,
                    download_mbps=900.0,
                    direct_ports=16,
                    disk_gb=500.0,
                    region="SE",
                    verified=True,
                    end_time=START + 30 * 86_400,
                )
            )
        foreign = self._instance(9999, "somebody-elses", self.offers[5])
        self.machines[9999] = Rented(changed(foreign, state=InstanceState.RUNNING))
        other = self._instance(
            9998, names.instance_label("inst", NAMESPACE, "pair-uid", "other-replacement", 1), foreign
        )
        self.machines[9998] = Rented(changed(other, state=InstanceState.RUNNING))
        self.put(pair())
        self.put(replacement())
        self.secret("vast", {"api-key": "the-key"})
        ssh = {
            "operator": "PRIVATE",
            "operator.pub": "ssh-ed25519 AAAAoperator",
            "host": "H",
            "host.pub": "ssh-ed25519 Hp",
        }
        self.secret(names.ssh_secret(PAIR), ssh)
        self.put(
            {
                "kind": "ConfigMap",
                "apiVersion": "v1",
                "metadata": {"name": names.sync_objects(PAIR), "namespace": NAMESPACE},
                "data": {},
            }
        )
        self.put(
            {
                "kind": "Pod",
                "apiVersion": "v1",
                "metadata": {"name": names.standby_pod(PAIR), "namespace": NAMESPACE},
                "status": {"podIP": "10.1.1.1"},
            }
        )

    def secret(self, name: str, data: Mapping[str, str]) -> None:
        self.put(
            {
                "kind": "Secret",
                "apiVersion": "v1",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "data": {key: b64encode(value.encode()).decode() for key, value in data.items()},
            }
        )

    def put(self, document: Document) -> Document:
        document = deepcopy(document)
        document["metadata"]["resourceVersion"] = str(int(document["metadata"].get("resourceVersion") or 0) + 1)
        document["metadata"].setdefault("uid", f"uid-of-{document['metadata']['name']}")
        meta = document["metadata"]
        self.objects[(document["kind"], meta["namespace"], meta["name"])] = document
        return document

    def get(self, kind: Kind, name: str) -> Document:
        return self.objects[(kind.value, NAMESPACE, name)]

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.get(Kind.REPLACEMENT, NAME).get("status") or {})

    def ours(self) -> list[Instance]:
        return [
            rented.instance
            for rented in self.machines.values()
            if rented.instance.label.startswith(f"gsp/inst/{NAMESPACE}/pair-uid/uid-1/")
        ]

    def controller(self) -> ReplacementController:
        clock = self.clock
        connections = WorldConnections(self)
        return ReplacementController(
            Context(
                cluster=WorldCluster(self),
                connections=connections,  # type: ignore[arg-type]
                clock=clock,
                fleet=Fleet(connections, clock, ()),  # type: ignore[arg-type]
                installation="inst",
                image="image",
                gate_script="",
            ),
            NAMESPACE,
            NAME,
        )

    async def run(self, until: Callable[[], bool], controller: ReplacementController | None = None) -> None:
        """Rounds on virtual time until something is so; a controller that is killed is started anew."""
        controller = controller or self.controller()
        for _ in range(3000):
            if until():
                return
            try:
                pause = await controller.step()
            except Killed:
                controller = self.controller()
                pause = 1.0
            self.clock.time += max(min(pause, 5.0), 0.01)
            self._mover()
        raise AssertionError(f"not reached: {json.dumps(self.status, indent=1)}\n{self.events}")

    async def release(self, until: Callable[[], bool] | None = None, seconds: float = 1000.0) -> str | None:
        """The finalizer, every two seconds, until it lets go."""
        document = self.get(Kind.REPLACEMENT, NAME)
        document["metadata"].setdefault("deletionTimestamp", "2027-01-15T08:00:00Z")
        controller = self.controller()
        waiting: str | None = "never asked"
        end = self.clock.time + seconds
        while self.clock.time < end:
            try:
                waiting = await controller.release(document)
            except Killed:
                controller = self.controller()
            else:
                if waiting is None or (until is not None and until()):
                    return waiting
            self.clock.time += 2.0
        return waiting

    def phase(self, word: str) -> Callable[[], bool]:
        return lambda: self.status.get("phase") == word

    def _mover(self) -> None:
        config = self.get(Kind.CONFIG_MAP, names.sync_objects(PAIR))
        text = config["data"].get("restore")
        if text and self.mover is not None:
            config["data"]["report"] = json.dumps({"restore": self.mover(json.loads(text))})

    def _instance(self, contract: int, label: str, offer: Any) -> Instance:
        return Instance(
            contract=contract,
            label=label,
            state=InstanceState.BOOTING,
            intended_running=True,
            status_text="",
            machine_id=offer.machine_id,
            host_id=offer.host_id,
            gpu_name=offer.gpu_name,
            gpu_count=offer.gpu_count,
            price=offer.price,
            is_bid=False,
            address="",
            ports=(),
            start_time=self.clock.time,
            end_time=0.0,
        )

    def make(self, request: RentRequest, **different: Any) -> int:
        offer = next(o for o in self.offers if o.offer_id == request.offer_id)
        contract = next(self.contracts)
        instance = changed(self._instance(contract, request.label, offer), **different)
        now = self.clock.time
        self.machines[contract] = Rented(instance, now + self.list_lag, now + self.boot_seconds)
        alive = [m for m in self.ours() if m.state is not InstanceState.STOPPED]
        self.most_alive = max(self.most_alive, len(alive))
        return contract

    def advance(self) -> None:
        for rented in self.machines.values():
            instance = rented.instance
            if instance.state is not InstanceState.BOOTING:
                continue
            if instance.machine_id in self.broken:
                rented.instance = changed(instance, state=InstanceState.BROKEN, status_text="OCI runtime create failed")
            elif instance.machine_id in self.never_boot or self.clock.time < rented.running_from:
                continue
            else:
                rented.instance = changed(
                    instance,
                    state=InstanceState.RUNNING,
                    address=f"203.0.113.{instance.contract % 200}",
                    ports=((22, 40_000 + instance.contract % 1000), (8080, 41_000 + instance.contract % 1000)),
                )


class WorldCluster:
    def __init__(self, world: World) -> None:
        self._world = world

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        self._world.fuse.before_call()
        found = deepcopy(self._world.objects.get((kind.value, namespace, name)))
        self._world.fuse.after_call()
        return found

    async def list(
        self, kind: Kind, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> Sequence[Document]:
        self._world.fuse.before_call()
        found = [
            deepcopy(d) for (k, ns, _), d in self._world.objects.items() if k == kind.value and namespace in (None, ns)
        ]
        self._world.fuse.after_call()
        return found

    async def apply_status(self, document: Document) -> Document:
        world = self._world
        world.fuse.before_call()
        meta = document["metadata"]
        current = world.objects[(document["kind"], meta["namespace"], meta["name"])]
        if meta.get("resourceVersion") != current["metadata"]["resourceVersion"]:
            raise Conflict("the object has been modified")
        written = world.put({**current, "status": deepcopy(document["status"])})
        world.fuse.after_call()
        return deepcopy(written)

    async def patch(self, kind: Kind, namespace: str, name: str, body: Document) -> Document:
        world = self._world
        world.fuse.before_call()
        current = deepcopy(world.objects[(kind.value, namespace, name)])
        for key, value in (body.get("data") or {}).items():
            current.setdefault("data", {})[key] = value
        for key, value in (body.get("metadata", {}).get("annotations") or {}).items():
            annotations = current["metadata"].setdefault("annotations", {})
            annotations.pop(key, None) if value is None else annotations.update({key: value})
        written = world.put(current)
        world.fuse.after_call()
        return deepcopy(written)

    async def event(self, involved: Document, kind: str, reason: str, message: str) -> None:
        self._world.fuse.before_call()
        self._world.events.append((reason, message))
        self._world.fuse.after_call()

    async def create(self, document: Document) -> Document:
        raise AssertionError("nothing is created by a replacement")

    async def apply(self, document: Document) -> Document:
        raise AssertionError("nothing is applied by a replacement")

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str | None = None, grace_seconds: int | None = None
    ) -> None:
        raise AssertionError("nothing is deleted by a replacement")


class WorldProvider:
    def __init__(self, world: World, api_key: str) -> None:
        self._world = world
        self._api_key = api_key

    def _call(self) -> None:
        self._world.fuse.before_call()
        self._world.advance()
        if self._world.bad_key or self._api_key != "the-key":
            raise AuthRejected("Invalid user key")
        if self._world.clock.time < self._world.provider_down_until:
            self._world.provider_calls_while_down += 1
            raise CannotTell("HTTP 503")

    async def search(self, query: OfferQuery) -> Sequence[Offer]:
        self._call()
        taken = {m.instance.machine_id for m in self._world.machines.values()}
        self._world.fuse.after_call()
        return [o for o in self._world.offers if o.machine_id not in taken]

    async def create(self, request: RentRequest) -> int:
        self._call()
        world = self._world
        world.creates.append(request)
        word = world.on_create.pop(0) if world.on_create else "ok"
        match word:
            case "gone":
                raise OfferGone("no_such_ask")
            case "refused":
                raise Refused("invalid_args")
            case "lost-not":
                raise MayHaveHappened("HTTP 500")
            case "lost-done":
                world.make(request)
                raise MayHaveHappened("timed out")
            case "behind":
                raise Refused("the bid is too low", world.make(request, state=InstanceState.STOPPED))
            case "double":
                world.make(request)
                contract = world.make(request)
            case "bid":
                contract = world.make(request, is_bid=True)
            case "dear":
                contract = world.make(request, price=Decimal("3.5"))
            case _:
                contract = world.make(request)
        world.fuse.after_call()
        return contract

    async def list(self) -> InstanceList:
        self._call()
        world = self._world
        shown = tuple(r.instance for r in world.machines.values() if r.visible_from <= world.clock.time)
        listed = InstanceList(world.clock.time, shown)
        world.fuse.after_call()
        return listed

    async def start(self, contract: int) -> None:
        self._call()
        self._world.commands.append(("start", contract))
        rented = self._world.machines[contract]
        rented.running_from = self._world.clock.time + self._world.boot_seconds
        rented.instance = changed(rented.instance, state=InstanceState.BOOTING, intended_running=True)
        self._world.fuse.after_call()

    async def stop(self, contract: int) -> None:
        self._call()
        self._world.commands.append(("stop", contract))
        rented = self._world.machines[contract]
        rented.instance = changed(
            rented.instance, state=InstanceState.STOPPED, intended_running=False, address="", ports=()
        )
        self._world.fuse.after_call()

    async def destroy(self, contract: int) -> None:
        self._call()
        self._world.destroyed.append(contract)
        rented = self._world.machines.get(contract)
        if rented is not None and rented.resurrections > 0:
            rented.resurrections -= 1
        else:
            self._world.machines.pop(contract, None)
        self._world.fuse.after_call()

    async def label(self, contract: int, label: str) -> None:
        self._call()
        rented = self._world.machines[contract]
        rented.instance = changed(rented.instance, label=label)
        self._world.fuse.after_call()

    async def attach_key(self, contract: int, public_key: str) -> None:
        self._call()
        self._world.machines[contract].keys.append(public_key)
        self._world.fuse.after_call()


class WorldMachine:
    def __init__(self, world: World, address: MachineAddress) -> None:
        self._world, self.address = world, address

    def _rented(self) -> Rented | None:
        for rented in self._world.machines.values():
            instance = rented.instance
            if instance.address == self.address.host and instance.ssh_port == self.address.port:
                return rented
        return None

    async def confirm(self, timeout: float) -> Sample:
        self._world.fuse.before_call()
        now, rented = self._world.clock.time, self._rented()
        self._world.fuse.after_call()
        if rented is None or self.address.host in self._world.unreachable:
            return Sample(now, now, Outcome.TIMED_OUT)
        if "ssh-ed25519 AAAAoperator" not in rented.keys:
            return Sample(now, now, Outcome.AUTH_FAILED)
        return Sample(now, now, Outcome.ANSWERED, held=False)

    async def run(self, command: str, *, timeout: float, stdin: str | None = None) -> str:
        self._world.fuse.before_call()
        rented = self._rented()
        self._world.fuse.after_call()
        if rented is None or self.address.host in self._world.unreachable:
            raise TargetDown("silent")
        if rented.instance.machine_id in self._world.sick:
            return "gpu Unable to determine the device handle: GPU is lost\ngpu-exit 15\nrsync rsync version 3.2.7\n"
        return HEALTHY

    async def stop_workload(self, stop_seconds: int) -> None:
        if self._rented() is None or self.address.host in self._world.unreachable:
            raise TargetDown("silent")
        self._world.commands.append(("stop workload", 0))

    async def close(self) -> None:
        return None


class WorldStandby:
    def __init__(self, world: World) -> None:
        self._world = world

    async def collect(self, pair_uid: str, epoch: int, gpu: Document, exclude: Sequence[str], name: str) -> Document:
        if self._world.collect_refused:
            raise AgentRefused(self._world.collect_refused, "")
        self._world.collected.append(name)
        return {"files": 3, "bytes": 300, "deleted": 0}

    async def close(self) -> None:
        return None


class WorldConnections:
    def __init__(self, world: World) -> None:
        self._world = world

    def provider(self, api_key: str) -> WorldProvider:
        return WorldProvider(self._world, api_key)

    def machine(self, address: MachineAddress, private_key: str) -> WorldMachine:
        assert private_key == "PRIVATE"
        return WorldMachine(self._world, address)

    def standby_pod(self, host: str, port: int, host_key: str, private_key: str) -> WorldStandby:
        return WorldStandby(self._world)

    async def host_key(self, host: str, port: int, timeout: float) -> str:
        self._world.fuse.before_call()
        self._world.fuse.after_call()
        return f"ssh-ed25519 HOSTKEY-{host}"


def pair(**status: Any) -> Document:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "GpuStandbyPair",
        "metadata": {"name": PAIR, "namespace": NAMESPACE, "uid": "pair-uid", "generation": 1},
        "spec": {
            "gpu": {
                "vast": {
                    "apiKeySecretRef": {"name": "vast", "key": "api-key"},
                    "image": "pytorch/pytorch:2",
                    "offer": {"gpuName": "RTX 4090", "maxPricePerHour": "0.60", "regions": ["SE"]},
                }
            },
            "standby": {"pod": {"command": ["/workspace/serve.sh"]}},
            "service": {"name": "trainer", "ports": [{"port": 80, "gpuPort": 8080, "standbyPort": 8080}]},
        },
        "status": {
            "active": "Standby",
            "epoch": 4,
            "sync": {"lastCompletedTime": "2027-01-15T07:00:00Z", "coveredTime": "2027-01-15T06:59:50Z"},
            "standbys": [{"providerID": "pod://trainer-standby-0", "transferKey": TRANSFER_KEY}],
            **status,
        },
    }


def replacement(**spec: Any) -> Document:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "GpuReplacement",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "uid": "uid-1", "generation": 1},
        "spec": {"pair": PAIR, "why": "GpuLost", "epoch": 4, **spec},
    }


def good_mover(wanted: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": wanted["id"],
        "state": "Done",
        "files": 12,
        "bytes": 1000,
        "bytesTotal": 1000,
        "verifiedFiles": 12,
        "verifiedBytes": 1000,
        "manifest": "sha256:abc",
    }
