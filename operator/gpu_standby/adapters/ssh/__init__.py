"""SSH through asyncssh: GPU machines, the standby's agent, keys. Nothing is read from files, nothing left to agents."""

from gpu_standby.adapters.ssh.keys import generate_key, public_half
from gpu_standby.adapters.ssh.link import Place, host_key
from gpu_standby.adapters.ssh.machine import SshMachine
from gpu_standby.adapters.ssh.standby import HostAgent, SshStandby

__all__ = ["HostAgent", "Place", "SshMachine", "SshStandby", "generate_key", "host_key", "public_half"]
