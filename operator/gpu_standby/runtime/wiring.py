"""Which adapter serves which port: the only place that knows them all."""

from gpu_standby.adapters import reachability
from gpu_standby.adapters.ssh import SshMachine, SshStandby, generate_key, host_key
from gpu_standby.adapters.ssh.link import Place
from gpu_standby.adapters.ssh.standby import HostAgent
from gpu_standby.adapters.vast import VastAccounts
from gpu_standby.agent import bundle
from gpu_standby.controllers.members import AGENT_USER
from gpu_standby.core.evidence import MachineAddress
from gpu_standby.ports import Document, GpuProvider, KeyPair, Machine, Standby


class Adapters:
    """Implements `ports.Connections`."""

    def __init__(self, vast_url: str) -> None:
        self._accounts = VastAccounts(vast_url)

    def machine(self, address: MachineAddress, private_key: str) -> Machine:
        return SshMachine(address, private_key)

    def standby_pod(self, host: str, port: int, host_key: str, private_key: str) -> Standby:
        return SshStandby(Place(host, port, AGENT_USER, host_key), private_key)

    def standby_host(
        self, host: str, port: int, user: str, host_key: str, private_key: str, path: str, configuration: Document
    ) -> Standby:
        agent = HostAgent(path, bundle.archive(), bundle.version(), configuration)
        return SshStandby(Place(host, port, user, host_key), private_key, agent)

    def provider(self, api_key: str) -> GpuProvider:
        return self._accounts.provider(api_key)

    def generate_key(self, comment: str) -> KeyPair:
        return generate_key(comment)

    async def host_key(self, host: str, port: int, timeout: float) -> str:
        return await host_key(host, port, timeout)

    async def resolve(self, host: str) -> str:
        return await reachability.resolve(host)

    async def service_answers(self, host: str, port: int, path: str | None, timeout: float) -> bool:
        return await reachability.service_answers(host, port, path, timeout)

    async def canary_answers(self, endpoint: str, timeout: float) -> bool:
        return await reachability.canary_answers(endpoint, timeout)

    async def close(self) -> None:
        await self._accounts.close()
