"""What was observed about a machine, with its time: the verdict's only input."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    ANSWERED = "Answered"
    REFUSED = "Refused"
    CLOSED = "Closed"
    TIMED_OUT = "TimedOut"
    WRONG_HOST_KEY = "WrongHostKey"
    AUTH_FAILED = "AuthFailed"
    """Something with the right host key is there, but our key is not accepted."""
    CANNOT_TELL = "CannotTell"
    """Our own fault: no evidence at all."""

    @property
    def is_sign_of_life(self) -> bool:
        return self in (Outcome.ANSWERED, Outcome.AUTH_FAILED)

    @property
    def is_miss(self) -> bool:
        return self in (Outcome.REFUSED, Outcome.CLOSED, Outcome.TIMED_OUT, Outcome.WRONG_HOST_KEY)


class GpuHealth(StrEnum):
    OK = "ok"
    MISSING = "missing"
    """There is no nvidia-smi: a machine without a GPU, no opinion."""
    FAILED = "failed"
    HUNG = "hung"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Sample:
    """One attempt of the operator to be answered by a machine over SSH."""

    started: float
    finished: float
    outcome: Outcome
    detail: str = ""
    health: GpuHealth = GpuHealth.UNKNOWN
    held: bool = True
    """On the session that is held open; False: a confirmation on a fresh connection."""
    presented_key: str = ""
    """With WRONG_HOST_KEY: the key that was presented."""


@dataclass(frozen=True)
class Witness:
    """The standby's word: could *it* reach the GPU?"""

    started: float
    finished: float
    outcome: Outcome
    detail: str = ""


class ProviderWord(StrEnum):
    RUNNING = "Running"
    ENDED = "Ended"
    """The provider says stopped, exited or offline."""
    NO_OPINION = "NoOpinion"


@dataclass(frozen=True)
class ProviderStatement:
    time: float
    word: ProviderWord
    detail: str = ""


@dataclass(frozen=True)
class ProberState:
    """Can our own observations be believed?"""

    distrusted_until: float = 0.0
    """After a lag of our event loop nothing is testified until then."""
    last_canary_time: float = 0.0
    """When a canary last answered."""
    last_canary_failure: float = 0.0
    canaries: tuple[str, ...] = ()


@dataclass(frozen=True)
class StandbySample:
    """One answer (or none) of the standby's agent."""

    started: float
    finished: float
    outcome: Outcome
    detail: str = ""
    pair_uid: str = ""
    """Empty: the disk has no state yet."""
    epoch: int = 0
    active: str = ""
    has_state: bool = False
    covered_time: float = 0.0
    """Start of the last completed cycle by the standby's own record; 0: never synced."""
    completed_time: float = 0.0
    files: int = 0
    bytes: int = 0
    manifest: str = ""
    gate: str = ""
    transfer_key: str = ""
    free_bytes: int = 0
    agent_version: str = ""


@dataclass(frozen=True)
class MachineAddress:
    """How a GPU machine is reached; `ports` maps an inside port to the one outside."""

    provider_id: str
    host: str
    port: int
    user: str
    host_key: str
    ports: tuple[tuple[int, int], ...] = ()

    def reach_document(self) -> dict[str, Any]:
        """As the agent's `reach` wants it."""
        return {"host": self.host, "port": self.port, "user": self.user, "hostKey": self.host_key}

    def outside_port(self, inside: int) -> int:
        return dict(self.ports).get(inside, inside)
