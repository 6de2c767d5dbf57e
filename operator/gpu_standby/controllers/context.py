"""What every controller is given: the ports and this installation's facts."""

from dataclasses import dataclass, field

from gpu_standby.controllers.fleet import Fleet
from gpu_standby.ports import Clock, Cluster, Connections


@dataclass(frozen=True)
class Context:
    cluster: Cluster
    connections: Connections
    clock: Clock
    fleet: Fleet
    installation: str
    """The installation id: part of every label at a provider."""
    image: str
    """Our image: agent and mover, and the workload's when the user names none."""
    gate_script: str = field(repr=False)
    creates_per_hour: int = 10
    watched: str | None = None
    """The one namespace that is served; None: all."""
