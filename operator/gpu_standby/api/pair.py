"""GpuStandbyPair: a GPU machine and the CPU standby that keeps its copy."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from gpu_standby.api.conditions import Condition
from gpu_standby.api.model import Model, Time

# The API conventions allow no floats in a spec: prices and shares are decimal strings.
from gpu_standby.api.spec import PairSpec, Side

MAX_HISTORY = 10
MAX_SET_ASIDE = 10
MAX_EVIDENCE = 20


class Phase(StrEnum):
    """A word for people. Derived; no logic reads it."""

    PENDING = "Pending"
    SEEDING = "Seeding"
    PROTECTED = "Protected"
    SUSPECT = "Suspect"
    FAILING_OVER = "FailingOver"
    ON_STANDBY = "OnStandby"
    REPLACING = "Replacing"
    RESTORING = "Restoring"
    FAILING_BACK = "FailingBack"
    PAUSED = "Paused"
    BLOCKED = "Blocked"


class MoveStep(StrEnum):
    QUIESCE = "Quiesce"
    STOP = "Stop"
    DELTA = "Delta"
    VERIFY = "Verify"
    PROMOTE = "Promote"
    DEMOTE = "Demote"
    START = "Start"
    FLIP = "Flip"


class MoveReason(StrEnum):
    GPU_LOST = "GpuLost"
    REQUESTED = "Requested"
    GPU_SICK = "GpuSick"
    PROMOTE_UNCONFIRMED = "PromoteUnconfirmed"
    GPU_RETURNED = "GpuReturned"
    REPLACEMENT_READY = "ReplacementReady"
    START_FAILED = "StartFailed"
    PLANNED_REPLACEMENT = "PlannedReplacement"


class Move(Model):
    """The move of the active side that is in flight; written before each step."""

    to: Side
    epoch: int = Field(ge=1)
    step: MoveStep
    reason: MoveReason
    started_time: Time
    step_time: Time
    replacement: str | None = Field(default=None, max_length=63)
    """The GpuReplacement whose machine is being moved to; absent: the machine in status.gpu."""
    decided_time: Time | None = None
    suspected_time: Time | None = None


class GivenUp(Model):
    """The last planned move that was given up; the next try waits a while."""

    step: MoveStep
    reason: str = Field(max_length=256)
    time: Time


class GpuStatus(Model):
    provider_id: str = Field(default="", max_length=128, alias="providerID")
    address: str = Field(default="", max_length=253)
    ssh_port: int = Field(default=0, ge=0, le=65535)
    user: str = Field(default="root", max_length=32)
    ports: Annotated[dict[str, int], Field(max_length=64)] = {}
    """Inside port (as a string) → the port it is reached by."""
    host_key: str = Field(default="", max_length=1024)
    """The whole public key, not its fingerprint: the standby's ssh client must be given it to pin it."""
    gpu_name: str = Field(default="", max_length=64)
    price_per_hour: str = Field(default="", max_length=16)
    replacement: str = Field(default="", max_length=63)
    """The GpuReplacement that rented it; empty for an adopted or an existing machine."""
    last_seen_time: Time | None = None


class StandbyStatus(Model):
    provider_id: str = Field(max_length=128, alias="providerID")
    address: str = Field(default="", max_length=253)
    ssh_port: int = Field(default=0, ge=0, le=65535)
    epoch: int = Field(default=0, ge=0)
    active: Side | None = None
    transfer_key: str = Field(default="", max_length=512)


class SyncStatus(Model):
    last_completed_time: Time | None = None
    covered_time: Time | None = None
    """When the last completed cycle started: the standby's age counts from here."""
    duration_seconds: str = Field(default="", max_length=16)
    files: int = Field(default=0, ge=0)
    bytes: int = Field(default=0, ge=0)
    manifest: str = Field(default="", max_length=80)
    consecutive_failures: int = Field(default=0, ge=0)


class LastFailover(Model):
    suspected_time: Time | None = None
    decided_time: Time | None = None
    flipped_time: Time | None = None
    recovered_time: Time | None = None
    reason: str = Field(default="", max_length=64)
    evidence: Annotated[
        list[Annotated[str, Field(max_length=256)]],
        Field(max_length=MAX_EVIDENCE, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = []
    standby_age_seconds: int | None = None


class SetAside(Model):
    name: str = Field(max_length=128)
    time: Time
    files: int = Field(ge=0)
    bytes: int = Field(ge=0)


class HistoryEntry(Model):
    epoch: int = Field(ge=0)
    to: Side
    reason: str = Field(max_length=64)
    time: Time


_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}


class PairStatus(Model):
    observed_generation: int = Field(default=0, ge=0)
    phase: Phase = Phase.PENDING
    active: Side | None = None
    epoch: int = Field(default=0, ge=0)
    move: Move | None = None
    given_up: GivenUp | None = None
    gpu: GpuStatus | None = None
    standbys: Annotated[list[StandbyStatus], Field(max_length=8, json_schema_extra=_ATOMIC)] = []
    sync: SyncStatus | None = None
    last_failover: LastFailover | None = None
    set_aside: Annotated[list[SetAside], Field(max_length=MAX_SET_ASIDE, json_schema_extra=_ATOMIC)] = []
    history: Annotated[list[HistoryEntry], Field(max_length=MAX_HISTORY, json_schema_extra=_ATOMIC)] = []
    accepted_shrink: int | None = None
    """What `accept-shrink` allowed; forgotten once a cycle has completed."""
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []


class Metadata(Model):
    name: str
    namespace: str
    uid: str
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: list[str] = []
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None


class GpuStandbyPair(Model):
    api_version: Literal["gpustandby.dev/v1alpha1"] = "gpustandby.dev/v1alpha1"
    kind: Literal["GpuStandbyPair"] = "GpuStandbyPair"
    metadata: Metadata
    spec: PairSpec
    status: PairStatus = PairStatus()
