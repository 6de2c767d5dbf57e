"""The provider itself: one World, one backend, and what the API's calls do to them.

Every change is saved before its call is answered, and the machines follow in a loop that is driven by what is seen,
never by what was meant to happen: a server that dies anywhere goes on where it was.
"""

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from . import instances as states
from .backend import Backend, Death
from .instances import MachineState, Todo
from .market import is_free, seeded_offers
from .model import Call, Instance, Offer, Phase, Settings, SshKey, World

log = logging.getLogger(__name__)

CALLS_KEPT = 300
IDLE_TICKS = 4  # where nothing moves, the machines are looked at less often
DESTROYED_KEPT = 100  # all of it must fit into one ConfigMap


class Provider:
    def __init__(
        self,
        backend: Backend,
        api_key: str,
        clock: Callable[[], float] = time.time,
        settings: Settings | None = None,
        tick_seconds: float = 0.1,
    ) -> None:
        self.backend = backend
        self.api_key = api_key
        self.clock = clock
        self.world = World(settings=settings or Settings())
        self.started = self.world.settings.model_copy()
        self.requests: deque[dict[str, Any]] = deque(maxlen=500)
        self.last_call: dict[str, float] = {}  # operation → when, for the rate limits
        self._tick = tick_seconds
        self._seeded = seeded_offers(self.world.seed)
        self._busy: dict[int, asyncio.Task[None]] = {}
        self._done_at: dict[int, float] = {}
        self._saving = asyncio.Lock()
        self._loop: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    # -- life of the server

    async def open(self) -> None:
        await self.backend.open()
        saved = await self.backend.load()
        if saved:
            self.world = World.model_validate_json(saved)
            self._seeded = seeded_offers(self.world.seed)
        self._loop = asyncio.create_task(self._follow())

    async def close(self) -> None:
        tasks = [task for task in (self._loop, *self._busy.values()) if task is not None]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.backend.close()

    async def save(self) -> None:
        """Write the world down, and look at the machines soon."""
        self._wake.set()
        async with self._saving:
            await self.backend.save(self.world.model_dump_json())

    async def reset(self) -> None:
        """Forget everything; the loop removes what is left of machines and disks."""
        self.world = World(
            seed=self.world.seed, settings=self.started.model_copy(), next_instance=self.world.next_instance
        )
        self.requests.clear()
        self.last_call.clear()
        await self.save()

    async def _follow(self) -> None:
        while True:
            try:
                await self.step()
            except Exception:
                log.exception("looking after the machines failed")
            # Not wait_for: before python 3.12 it can swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._tick if self._moving() else self._tick * IDLE_TICKS):
                    await self._wake.wait()
            self._wake.clear()

    def _moving(self) -> bool:
        resting = (Phase.RUNNING, Phase.STOPPED, Phase.OFFLINE, Phase.FAILED, Phase.OUTBID, Phase.ENDED)
        return bool(self._busy) or any(
            one.phase not in resting or (one.phase is Phase.RUNNING and any(not key.written for key in one.keys))
            for one in self.world.instances.values()
        )

    async def step(self) -> None:
        """Look once, move every record, start what has to be done."""
        looked_at = time.monotonic()
        seen = await self.backend.look()
        now = self.clock()
        changed = False
        todo: list[tuple[int, Todo]] = []
        for instance in list(self.world.instances.values()):
            if instance.id in self._busy or self._done_at.get(instance.id, 0.0) > looked_at:
                continue  # what was seen may be older than what was done
            before = _progress(instance)
            machine = seen.machines.get(instance.id)
            free = is_free(instance.offer, self.world.instances.values(), but=instance.id)
            orders = states.advance(instance, now, machine, self.world.settings, instance.id in seen.disks, free)
            leaving = machine is not None and machine.state is MachineState.LEAVING
            todo += [(instance.id, order) for order in orders if not (order is Todo.POWER_OFF and leaving)]
            if instance.destroyed_at is not None:
                self._bury(instance)
            changed = changed or _progress(instance) != before
        if changed:
            await self.save()
        for number, order in todo:
            self._start(number, order)
        for number in (set(seen.machines) | seen.disks) - set(self.world.instances):
            self._start(number, Todo.ERASE)

    def _start(self, number: int, order: Todo) -> None:
        if number not in self._busy:
            self._busy[number] = asyncio.create_task(self._do(number, order))

    async def _do(self, number: int, order: Todo) -> None:
        try:
            instance = self.world.instances.get(number)
            match order:
                case Todo.POWER_OFF:
                    await self.backend.power_off(number)
                case Todo.ERASE:
                    await self.backend.erase(number)
                case Todo.BOOT if instance is not None:
                    await self.backend.boot(instance)
                case Todo.WRITE_KEYS if instance is not None:
                    await self.write_keys(instance)
                case _:
                    pass  # destroyed meanwhile
        except Exception:
            log.exception("%s of instance %s failed", order, number)
        finally:
            self._done_at[number] = time.monotonic()
            self._busy.pop(number, None)

    async def write_keys(self, instance: Instance, removed: Sequence[str] = (), alone: bool = False) -> None:
        keys = [key for key in instance.keys if not key.written]
        await self.backend.write_keys(instance, removed, alone)
        for key in keys:
            key.written = True
        await self.save()

    def _bury(self, instance: Instance) -> None:
        self.world.instances.pop(instance.id, None)
        self._done_at.pop(instance.id, None)
        buried = instance.model_copy(update={"onstart": "", "api_key": ""})
        self.world.destroyed = [*self.world.destroyed, buried][-DESTROYED_KEPT:]

    # -- the market

    def offers(self) -> list[Offer]:
        return list((self._seeded | self.world.offers).values())

    def offer(self, number: int) -> Offer | None:
        return self.world.offers.get(number) or self._seeded.get(number)

    def available(self, offer: Offer) -> bool:
        return offer.listed and is_free(offer, self.world.instances.values())

    # -- instances

    def get(self, number: int) -> Instance | None:
        return self.world.instances.get(number)

    def visible(self) -> list[Instance]:
        """What a reader sees: a new instance only after the read-after-write lag."""
        now, lag = self.clock(), self.world.settings.readLagSeconds
        return [one for one in self.world.instances.values() if now - one.created_at >= lag]

    def create(self, offer: Offer, body: dict[str, Any], refused_bid: bool) -> Instance:
        now = self.clock()
        price = body.get("price")
        instance = Instance(
            id=self.world.next_instance,
            label=body.get("label"),
            offer=offer,
            api_key=secrets.token_hex(32),
            image=str(body.get("image")),
            env={str(key): str(value) for key, value in (body.get("env") or {}).items()},
            onstart=str(body.get("onstart") or ""),
            runtype=str(body.get("runtype") or "ssh"),
            disk=float(body.get("disk") or 8.0),
            bid=None if price is None else float(price),
            created_at=now,
            since=now,
            keys=[key.model_copy(update={"attached_at": now, "written": False}) for key in self.world.account_keys],
            nvidia_smi=offer.nvidia_smi,
            boot_fault=offer.boot,
        )
        instance.ports = states.map_ports(instance, random.SystemRandom())
        instance.enter(Phase.PROVISIONING, now)
        if refused_bid:
            instance.intended = "stopped"
            instance.enter(Phase.OUTBID, now)
        elif body.get("target_state") == "stopped":
            instance.intended = "stopped"
            instance.enter(Phase.STOPPED, now)
        self.world.next_instance += random.SystemRandom().randint(1, 9)
        self.world.created += 1
        self.world.instances[instance.id] = instance
        return instance

    def start(self, instance: Instance) -> bool:
        free = is_free(instance.offer, self.world.instances.values(), but=instance.id)
        return states.start(instance, self.clock(), free)

    def stop(self, instance: Instance) -> None:
        states.stop(instance, self.clock())

    def reboot(self, instance: Instance) -> None:
        if instance.phase is Phase.RUNNING:
            instance.enter(Phase.REBOOTING, self.clock())

    def destroy(self, instance: Instance) -> None:
        if instance.phase is not Phase.DESTROYING:
            instance.enter(Phase.DESTROYING, self.clock())

    def attach(self, instance: Instance, text: str) -> SshKey:
        """Attaching a key again writes it again: that is how a wiped one comes back."""
        for key in instance.keys:
            if key.public_key == text:
                key.written, key.attached_at = False, self.clock()
                return key
        key = self.new_key(text)
        instance.keys.append(key)
        return key

    def new_key(self, text: str) -> SshKey:
        key = SshKey(id=self.world.next_key, public_key=text, attached_at=self.clock())
        self.world.next_key += 1
        return key

    async def kill(self, instance: Instance, death: Death) -> None:
        await self.cut(instance, Phase.OFFLINE, death)

    async def cut(self, instance: Instance, phase: Phase, death: Death = Death.POWER) -> None:
        """Power off at once, and alone: the loop would do it in its own, louder way."""
        while (busy := self._busy.get(instance.id)) is not None:
            await asyncio.wait({busy})
        instance.enter(phase, self.clock())
        instance.dark = death is not Death.POWER
        task = asyncio.create_task(self._power_off(instance.id, death))
        self._busy[instance.id] = task
        await task

    async def _power_off(self, number: int, death: Death) -> None:
        try:
            await self.save()
            match death:
                case Death.POWER:
                    await self.backend.power_off(number)
                case Death.SILENT:
                    await self.backend.darken(number)
                case Death.CONTAINER:
                    await self.backend.collapse(number)
        finally:
            self._done_at[number] = time.monotonic()
            self._busy.pop(number, None)

    def revive(self, instance: Instance) -> None:
        """The machine's power comes back; it boots its containers with other port numbers, or learns of a stop."""
        if instance.phase not in (Phase.OFFLINE, Phase.OUTBID, Phase.QUEUED):
            return
        if instance.intended == "stopped" and instance.phase is Phase.OFFLINE:
            instance.dark = False
            instance.enter(Phase.STOPPED, self.clock())
        else:
            states.begin_boot(instance, self.clock())

    # -- records

    def record(self, call: Call) -> None:
        self.world.calls = [*self.world.calls, call][-CALLS_KEPT:]

    def search_budget(self, rows: int) -> bool:
        """Whether today's search rows are not used up; counts these in."""
        day = time.strftime("%Y-%m-%d", time.gmtime(self.clock()))
        used = self.world.search_rows.get(day, 0)
        if used >= self.world.settings.searchRowsPerDay:
            return False
        self.world.search_rows = {day: used + rows}
        return True


def _progress(instance: Instance) -> tuple[object, ...]:
    return (instance.phase, instance.since, instance.boot, instance.address, instance.destroyed_at)
