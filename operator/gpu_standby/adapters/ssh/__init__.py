"""SSH through asyncssh: GPU machines, the standby's agent, keys. Nothing is read from files, nothing left to agents."""

from gpu_standby.adapters.ssh.keys import generate_key
from gpu_standby.adapters.ssh.link import host_key
from gpu_standby.adapters.ssh.machine import SshMachine
from gpu_standby.adapters.ssh.standby import SshStandby

__all__ = ["SshMachine", "SshStandby", "generate_key", "host_key"]
