"""The live connections of one pair: to its GPU machine, its standby and its provider, and the watches over them.

Disposable: everything here is made again from the API after a restart. A connection is replaced when what it was
made from (address, host key, secret) has changed.
"""

import asyncio
import logging
from collections.abc import Callable

from gpu_standby.api import names
from gpu_standby.api.pair import GpuStandbyPair, GpuStatus
from gpu_standby.controllers.context import Context
from gpu_standby.controllers.provisions import Provisions
from gpu_standby.controllers.watch import GpuWatch, StandbyWatch
from gpu_standby.core.evidence import MachineAddress
from gpu_standby.ports import GpuProvider, Kind

log = logging.getLogger(__name__)

AGENT_PORT = 2222
AGENT_USER = "gpu-standby"


def machine_address(gpu: GpuStatus | None) -> MachineAddress | None:
    if gpu is None or not gpu.address or not gpu.host_key:
        return None
    return MachineAddress(
        provider_id=gpu.provider_id,
        host=gpu.address,
        port=gpu.ssh_port,
        user=gpu.user,
        host_key=gpu.host_key,
        ports=tuple((int(inside), outside) for inside, outside in sorted(gpu.ports.items())),
    )


class Members:
    def __init__(self, context: Context, provisions: Provisions, namespace: str, changed: Callable[[], None]) -> None:
        self._context = context
        self._provisions = provisions
        self._namespace = namespace
        self._changed = changed
        self.gpu: GpuWatch | None = None
        self.standby: StandbyWatch | None = None
        self.standby_address = ""
        self.standby_running = False
        self.standby_incarnation = ""
        """Changes when the standby's pod was made anew."""
        self._gpu_task: asyncio.Task[None] | None = None
        self._standby_task: asyncio.Task[None] | None = None
        self._gpu_made_from: object = None
        self._standby_made_from: object = None
        self._provider: tuple[str, GpuProvider] | None = None

    async def update(self, pair: GpuStandbyPair) -> None:
        """Make the connections fit the pair. MissingSecret when the user has to make one first."""
        await self._update_standby(pair)
        await self._update_gpu(pair)

    def fit(self, pair: GpuStandbyPair) -> bool:
        """Are both machines connected as the status names them, and does the standby answer there?"""
        address = machine_address(pair.status.gpu)
        connected = self.gpu.machine.address if self.gpu is not None else None
        return self.standby is not None and self.standby.answers and connected == address

    async def gpu_key(self, pair: GpuStandbyPair) -> str:
        """The private key that opens the GPU machine."""
        existing = pair.spec.gpu.existing
        if existing is None:
            return (await self._provisions.keys(pair))[0].private
        ref = existing.private_key_secret_ref
        return await self._provisions.user_secret("spec.gpu.existing.privateKeySecretRef", ref.name, ref.key)

    async def standby_host_key(self, pair: GpuStandbyPair) -> str:
        return (await self._provisions.keys(pair))[1].public

    async def operator_public_key(self, pair: GpuStandbyPair) -> str:
        return (await self._provisions.keys(pair))[0].public

    async def provider(self, pair: GpuStandbyPair) -> GpuProvider | None:
        vast = pair.spec.gpu.vast
        if vast is None:
            return None
        ref = vast.api_key_secret_ref
        key = await self._provisions.user_secret("spec.gpu.vast.apiKeySecretRef", ref.name, ref.key)
        if self._provider is None or self._provider[0] != key:
            self._provider = (key, self._context.connections.provider(key))
        return self._provider[1]

    async def _update_gpu(self, pair: GpuStandbyPair) -> None:
        address = machine_address(pair.status.gpu)
        if address is None:
            await self._drop_gpu()
            return
        made_from = (address, await self.gpu_key(pair))
        if made_from != self._gpu_made_from:
            await self._drop_gpu()
            machine = self._context.connections.machine(*made_from)
            self.gpu = GpuWatch(
                machine,
                lambda: self.standby,
                self._context.fleet,
                self._context.clock,
                pair.spec.probe,
                pair.metadata.uid,
                self._changed,
            )
            self._gpu_made_from = made_from
            self._gpu_task = asyncio.create_task(self.gpu.run())
        if self.gpu is not None:
            self.gpu.probe = pair.spec.probe
        self._check(self._gpu_task)

    async def _update_standby(self, pair: GpuStandbyPair) -> None:
        existing = pair.spec.standby.existing
        made_from: tuple[object, ...]
        if existing is not None:
            ref = existing.private_key_secret_ref
            key = await self._provisions.user_secret("spec.standby.existing.privateKeySecretRef", ref.name, ref.key)
            self.standby_address, self.standby_running = existing.address, True
            made_from = (existing, pair.spec.standby, key)
        else:
            keys = await self._provisions.keys(pair)
            await self._look_at_pod(pair)
            if not self.standby_address:
                return
            key = keys[0].private
            made_from = (self.standby_address, self.standby_incarnation, keys)
        if made_from != self._standby_made_from:
            await self._drop_standby()
            connections = self._context.connections
            if existing is not None:
                configuration = {
                    "startCommand": pair.spec.standby.start_command,
                    "quiesceCommand": pair.spec.standby.quiesce_command,
                    "stopSeconds": pair.spec.standby.stop_seconds,
                    "workspace": pair.spec.workspace.path,
                }
                standby = connections.standby_host(
                    existing.address,
                    existing.ssh_port,
                    existing.user,
                    existing.host_key,
                    key,
                    existing.path,
                    configuration,
                )
            else:
                standby = connections.standby_pod(self.standby_address, AGENT_PORT, keys[1].public, key)
            self.standby = StandbyWatch(standby, self._context.clock, pair.spec.probe, self._changed)
            self._standby_made_from = made_from
            self._standby_task = asyncio.create_task(self.standby.run())
        if self.standby is not None:
            self.standby.probe = pair.spec.probe
        self._check(self._standby_task)

    async def _look_at_pod(self, pair: GpuStandbyPair) -> None:
        pod = await self._context.cluster.get(Kind.POD, self._namespace, names.standby_pod(pair.metadata.name))
        status = (pod or {}).get("status", {})
        conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
        leaving = pod is None or pod["metadata"].get("deletionTimestamp") is not None
        self.standby_running = conditions.get("Ready") == "True" and not leaving
        if pod is not None and status.get("podIP") and not leaving:
            self.standby_address = status["podIP"]
            self.standby_incarnation = pod["metadata"]["uid"]

    def _check(self, task: asyncio.Task[None] | None) -> None:
        """A watch that died is a bug of ours: say so and make it anew."""
        if task is not None and task.done() and not task.cancelled():
            log.error("a watch ended unexpectedly", exc_info=task.exception())
            if task is self._gpu_task:
                self._gpu_made_from = None
            else:
                self._standby_made_from = None

    async def _drop_gpu(self) -> None:
        await _end(self._gpu_task)
        if self.gpu is not None:
            await self.gpu.machine.close()
        self.gpu, self._gpu_task, self._gpu_made_from = None, None, None

    async def _drop_standby(self) -> None:
        await _end(self._standby_task)
        if self.standby is not None:
            await self.standby.standby.close()
        self.standby, self._standby_task, self._standby_made_from = None, None, None

    async def close(self) -> None:
        await self._drop_gpu()
        await self._drop_standby()


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
