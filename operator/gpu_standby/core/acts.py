"""What the pair's plan may ask the shell to do. Each is idempotent and carries its own identity."""

from dataclasses import dataclass
from enum import StrEnum

from gpu_standby.api.replacement import Why
from gpu_standby.api.spec import Side


class EventLevel(StrEnum):
    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True)
class Announce:
    reason: str
    message: str
    level: EventLevel = EventLevel.NORMAL


@dataclass(frozen=True)
class InitStandby:
    """A new standby of a pair whose GPU is active gets its record: the only act that makes one (I2)."""

    epoch: int


@dataclass(frozen=True)
class Promote:
    epoch: int


@dataclass(frozen=True)
class Demote:
    epoch: int


@dataclass(frozen=True)
class ResumeStandby:
    """After a planned move was given up: promote of the same epoch starts the workload again."""

    epoch: int


@dataclass(frozen=True)
class Quiesce:
    """Let the application of the side that is being left save itself."""

    side: Side


@dataclass(frozen=True)
class StopWorkload:
    side: Side
    epoch: int


@dataclass(frozen=True)
class StartWorkload:
    """On the GPU that is being moved to."""


@dataclass(frozen=True)
class RequestCycle:
    """One sync cycle that starts after the request was seen."""

    request: str


@dataclass(frozen=True)
class RequestRestore:
    """The final delta to the GPU that is being moved to, verified hash by hash."""

    request: str


@dataclass(frozen=True)
class Flip:
    """Point the EndpointSlice at one side."""

    side: Side
    epoch: int
    ready: bool = True


@dataclass(frozen=True)
class Collect:
    """Set aside on the standby what the GPU has beyond the last sync (I3)."""

    name: str


@dataclass(frozen=True)
class Replace:
    """Make the GpuReplacement."""

    why: Why
    epoch: int
    serial: int
    require_approval: bool


@dataclass(frozen=True)
class DropReplacement:
    """Superseded or called off: its finalizer does the rest."""

    name: str
    reason: str


@dataclass(frozen=True)
class StopMachine:
    """Fence: ask the provider to stop the former active machine."""

    provider_id: str


@dataclass(frozen=True)
class Consume:
    """A command annotation has been taken up."""

    annotation: str


Act = (
    Announce
    | InitStandby
    | Promote
    | Demote
    | ResumeStandby
    | Quiesce
    | StopWorkload
    | StartWorkload
    | RequestCycle
    | RequestRestore
    | Flip
    | Collect
    | Replace
    | DropReplacement
    | StopMachine
    | Consume
)
