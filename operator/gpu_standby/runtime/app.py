"""The running operator: its connections, its fleet, and one controller per object."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gpu_standby.adapters.clock import SystemClock
from gpu_standby.adapters.kubernetes import KubernetesCluster
from gpu_standby.agent.promote import gate_script
from gpu_standby.controllers.context import Context
from gpu_standby.controllers.fleet import Fleet
from gpu_standby.controllers.pair import PairController
from gpu_standby.controllers.replacement import ReplacementController
from gpu_standby.ports import Document
from gpu_standby.runtime import lag
from gpu_standby.runtime.configuration import Configuration
from gpu_standby.runtime.installation import installation_id
from gpu_standby.runtime.wiring import Adapters


class Controller(Protocol):
    async def run(self, stopped: asyncio.Event) -> None: ...
    def wake(self) -> None: ...
    async def release(self, document: Document) -> str | None: ...


Make = Callable[[Context, str, str], Controller]


@dataclass(frozen=True)
class Controlled:
    controller: Controller
    namespace: str
    pair: str
    """The pair it is about."""


class App:
    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.controllers: dict[str, Controlled] = {}
        """By the object's UID."""
        self.fleet: Fleet | None = None
        self._cluster: KubernetesCluster | None = None
        self._connections: Adapters | None = None
        self._context: Context | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Inside kopf's event loop, before any handler."""
        settings = self.configuration
        self._cluster = await KubernetesCluster.connect(settings.pod_name)
        installation = await installation_id(self._cluster, settings.namespace, settings.installation_config_map)
        self._connections, clock = Adapters(settings.vast_url), SystemClock()
        connections = self._connections
        self.fleet = Fleet(connections, clock, settings.canaries)
        self._context = Context(
            cluster=self._cluster,
            connections=connections,
            clock=clock,
            fleet=self.fleet,
            installation=installation,
            image=settings.image,
            gate_script=gate_script(),
            creates_per_hour=settings.creates_per_hour,
            watched=settings.watch_namespace or None,
        )
        self._tasks = [
            asyncio.create_task(self.fleet.run()),
            asyncio.create_task(lag.meter(self.fleet.note_lag)),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._connections is not None:
            await self._connections.close()
        if self._cluster is not None:
            await self._cluster.close()

    def pair(self, uid: str, namespace: str, name: str) -> Controller:
        return self._controller(uid, namespace, name, name, PairController)

    def replacement(self, uid: str, namespace: str, name: str, pair: str) -> Controller:
        return self._controller(uid, namespace, name, pair, ReplacementController)

    def _controller(self, uid: str, namespace: str, name: str, pair: str, make: Make) -> Controller:
        if self._context is None:
            raise RuntimeError("not started")
        if uid not in self.controllers:
            self.controllers[uid] = Controlled(make(self._context, namespace, name), namespace, pair)
        return self.controllers[uid].controller

    def wake_all_of(self, namespace: str, pair: str) -> None:
        """Something that belongs to this pair changed."""
        for controlled in self.controllers.values():
            if (controlled.namespace, controlled.pair) == (namespace, pair):
                controlled.controller.wake()
