"""A rented machine and the pair's standby, as a replacement meets them: first contact, the check, the collection.

What goes wrong comes back as a fact with its time; nothing here decides.
"""

from base64 import b64decode
from binascii import Error as BadBase64
from dataclasses import replace

from gpu_standby.api import names
from gpu_standby.api.model import SecretKeyRef
from gpu_standby.api.pair import GpuStandbyPair
from gpu_standby.controllers.context import Context
from gpu_standby.controllers.members import AGENT_PORT
from gpu_standby.core import qualification, rental
from gpu_standby.core.evidence import MachineAddress, Outcome
from gpu_standby.core.rental import Greeting, Inspection, InspectionKind, Memory, Observation
from gpu_standby.errors import (
    AgentRefused,
    AuthRejected,
    CannotTell,
    CommandFailed,
    MayHaveHappened,
    TargetDown,
)
from gpu_standby.ports import Document, Kind, Standby

GREETING_SECONDS = 5.0
CONFIRM_SECONDS = 5.0
STOP_SECONDS = 10


class Secrets:
    """Read fresh each time, kept nowhere."""

    def __init__(self, context: Context, namespace: str) -> None:
        self._context = context
        self._namespace = namespace

    async def read(self, ref: SecretKeyRef | None) -> str:
        if ref is None:
            return ""
        secret = await self._context.cluster.get(Kind.SECRET, self._namespace, ref.name)
        value = ((secret or {}).get("data") or {}).get(ref.key)
        if not value:
            return ""
        try:
            return b64decode(value).decode()
        except (BadBase64, UnicodeDecodeError):
            return ""

    async def own_key(self, pair: GpuStandbyPair, key: str) -> str:
        return await self.read(SecretKeyRef(name=names.ssh_secret(pair.metadata.name), key=key))


class Machines:
    def __init__(self, context: Context, namespace: str, secrets: Secrets) -> None:
        self._context = context
        self._namespace = namespace
        self._secrets = secrets

    @property
    def _now(self) -> float:
        return self._context.clock.now()

    async def greet(self, intent: rental.Greet) -> Greeting:
        try:
            key = await self._context.connections.host_key(intent.host, intent.port, GREETING_SECONDS)
        except (TargetDown, CannotTell) as error:
            return Greeting(intent.contract, self._now, intent.host, intent.port, text=str(error))
        return Greeting(intent.contract, self._now, intent.host, intent.port, key=key)

    async def inspect(self, intent: rental.Inspect, observation: Observation, before: Inspection | None) -> Inspection:
        def found(kind: InspectionKind, text: str = "") -> Inspection:
            sick_before = before.times_sick if before is not None and before.contract == intent.contract else 0
            times = sick_before + 1 if kind is InspectionKind.SICK else 0
            return Inspection(intent.contract, self._now, kind, text, times)

        private_key = await self._private_key(observation)
        if not private_key:
            return found(InspectionKind.NOT_YET, "the operator's own key is not there yet")
        machine = self._context.connections.machine(intent.address, private_key)
        try:
            sample = await machine.confirm(CONFIRM_SECONDS)
            if sample.outcome is Outcome.AUTH_FAILED:
                return found(InspectionKind.AUTH_FAILED, sample.detail)
            if sample.outcome is not Outcome.ANSWERED:
                return found(InspectionKind.NOT_YET, f"no SSH yet ({sample.outcome.value}): {sample.detail}")
            output = await machine.run(
                qualification.command(intent.workspace), timeout=qualification.INSPECTION_SECONDS
            )
        except AuthRejected as error:
            return found(InspectionKind.AUTH_FAILED, str(error))
        except MayHaveHappened:
            return found(InspectionKind.SICK, f"nvidia-smi did not come back in {qualification.INSPECTION_SECONDS} s")
        except (TargetDown, CannotTell, CommandFailed) as error:
            return found(InspectionKind.NOT_YET, str(error))
        finally:
            await machine.close()
        fitness = qualification.read(output, intent.gpu_count)
        if fitness.gpu_problem:
            return found(InspectionKind.SICK, fitness.gpu_problem)
        if fitness.not_yet:
            return found(InspectionKind.NOT_YET, fitness.not_yet)
        return found(InspectionKind.HEALTHY)

    async def _private_key(self, observation: Observation) -> str:
        if observation.pair is None:
            return ""
        return await self._secrets.own_key(observation.pair, "operator")

    async def collect(self, intent: rental.Collect, observation: Observation, memory: Memory) -> Memory:
        pair = observation.pair
        memory = replace(memory, collect_tried=self._now)
        if pair is None:
            return memory
        try:
            await self._stop_workload(intent.address, observation)
            standby = await self._standby(pair)
            try:
                gpu = _gpu_document(intent.address, pair)
                exclude = list(pair.spec.workspace.exclude)
                told = await standby.collect(pair.metadata.uid, pair.status.epoch, gpu, exclude, intent.name)
            finally:
                await standby.close()
        except (TargetDown, CannotTell, MayHaveHappened, CommandFailed, AgentRefused) as error:
            return replace(memory, collect_text=str(error))
        text = f"{told.get('files', 0)} files, {told.get('bytes', 0)} bytes set aside as {intent.name}"
        return replace(memory, collected=intent.name, collect_text=text)

    async def _stop_workload(self, address: MachineAddress, observation: Observation) -> None:
        machine = self._context.connections.machine(address, await self._private_key(observation))
        try:
            await machine.stop_workload(STOP_SECONDS)
        finally:
            await machine.close()

    async def _standby(self, pair: GpuStandbyPair) -> Standby:
        existing, connections = pair.spec.standby.existing, self._context.connections
        if existing is not None:
            ref = existing.private_key_secret_ref
            key = await self._secrets.read(ref)
            if not key:
                raise CannotTell(f"the Secret {ref.name!r} with the key {ref.key!r} is not there")
            configuration = {
                "startCommand": pair.spec.standby.start_command,
                "quiesceCommand": pair.spec.standby.quiesce_command,
                "stopSeconds": pair.spec.standby.stop_seconds,
                "workspace": pair.spec.workspace.path,
            }
            return connections.standby_host(
                existing.address,
                existing.ssh_port,
                existing.user,
                existing.host_key,
                key,
                existing.path,
                configuration,
            )
        operator, host = await self._secrets.own_key(pair, "operator"), await self._secrets.own_key(pair, "host.pub")
        pod = await self._context.cluster.get(Kind.POD, self._namespace, names.standby_pod(pair.metadata.name))
        address = ((pod or {}).get("status") or {}).get("podIP")
        if not address:
            raise CannotTell("the standby's pod has no address")
        return connections.standby_pod(address, AGENT_PORT, host, operator)


def _gpu_document(address: MachineAddress, pair: GpuStandbyPair) -> Document:
    return {
        **address.reach_document(),
        "path": pair.spec.workspace.path,
        "providerID": address.provider_id,
    }
