"""GpuStandbyPair: a GPU machine and the CPU standby that keeps its copy."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from gpu_standby.api.conditions import Condition
from gpu_standby.api.model import Model, SecretKeyRef, Time, rules

MAX_HISTORY = 10
MAX_SET_ASIDE = 10
MAX_EVIDENCE = 20

Decimal = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]{1,6})?$", max_length=16)]
"""A decimal string: the API conventions allow no floats in a spec."""

AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00]*$", max_length=512)]
Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
User = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$", max_length=32)]
HostKey = Annotated[str, Field(pattern=r"^(ssh|ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?$", max_length=1024)]
Command = Annotated[str, Field(min_length=1, max_length=1024)]


def _config(*validations: tuple[str, str]) -> ConfigDict:
    return ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        serialize_by_alias=True,
        json_schema_extra=rules(*validations),
    )


class Side(StrEnum):
    GPU = "GPU"
    STANDBY = "Standby"


# --- spec -----------------------------------------------------------------------------------------------


class WorkspaceSpec(Model):
    """What is kept: one folder, the same path on both sides."""

    model_config = _config(
        (
            "self.path != '/' && !self.path.endsWith('/') && !self.path.contains('/../') && !self.path.endsWith('/..')",
            "workspace.path must be an absolute folder below / without '..' and without a trailing slash, e.g. /workspace",
        ),
    )

    path: AbsolutePath = "/workspace"
    exclude: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]],
        Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = []


class OfferType(StrEnum):
    ON_DEMAND = "OnDemand"
    INTERRUPTIBLE = "Interruptible"


class OfferSpec(Model):
    """Which machines will do. Names as Vast.ai writes them ("RTX 4090", with the space)."""

    gpu_name: str = Field(min_length=1, max_length=64)
    gpu_count: int = Field(default=1, ge=1, le=16)
    disk_gib: int = Field(default=50, ge=8, le=65536, alias="diskGiB")
    max_price_per_hour: Decimal
    min_reliability: Decimal = "0.95"
    min_download_mbps: int = Field(default=100, ge=0, le=1_000_000)
    regions: Annotated[
        list[Annotated[str, Field(pattern=r"^[A-Z]{2}$")]],
        Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = []
    type: OfferType = OfferType.ON_DEMAND


class VastSpec(Model):
    """A machine rented on Vast.ai."""

    model_config = _config(
        (
            "!has(oldSelf.instanceId) || has(self.instanceId) && self.instanceId == oldSelf.instanceId",
            "gpu.vast.instanceId cannot change: it names the machine that was adopted when the pair was made",
        ),
    )

    api_key_secret_ref: SecretKeyRef
    instance_id: int | None = Field(default=None, ge=1)
    image: str = Field(min_length=1, max_length=1024)
    offer: OfferSpec


class ExistingHost(Model):
    """A machine of the user's own, reached by SSH."""

    address: Host
    ssh_port: Port = 22
    user: User = "root"
    private_key_secret_ref: SecretKeyRef
    host_key: HostKey


class GpuSpec(Model):
    model_config = _config(
        (
            "has(self.vast) != has(self.existing)",
            "exactly one of gpu.vast and gpu.existing must be set: remove the other",
        ),
        (
            "has(self.vast) == has(oldSelf.vast)",
            "gpu cannot change its kind (vast | existing): make a new pair",
        ),
    )

    vast: VastSpec | None = None
    existing: ExistingHost | None = None
    start_command: Command | None = None
    quiesce_command: Command | None = None


class PodStandbySpec(Model):
    """A StatefulSet of one and a volume in this cluster."""

    model_config = _config(
        (
            "self.storage == oldSelf.storage",
            "standby.pod.storage cannot change: a StatefulSet's claim is fixed; grow the claim itself",
        ),
    )

    storage: str = Field(default="20Gi", pattern=r"^[0-9]+(Mi|Gi|Ti)$", max_length=16)
    storage_class_name: str | None = Field(default=None, max_length=253)
    image: str | None = Field(default=None, min_length=1, max_length=1024)
    command: Annotated[
        list[Annotated[str, Field(max_length=1024)]],
        Field(max_length=64, min_length=1, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ]
    run_as_user: int = Field(default=10001, ge=1, le=2_147_483_647)
    env: Annotated[
        list[dict[str, Any]],
        Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = []
    env_from: Annotated[
        list[dict[str, Any]],
        Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = []
    resources: dict[str, Any] | None = None


class ExistingStandbySpec(ExistingHost):
    """An SSH host of the user's own that keeps the copy under `path`."""

    user: User = "gpu-standby"
    path: AbsolutePath = "/srv/standby"


class StandbySpec(Model):
    model_config = _config(
        (
            "has(self.pod) != has(self.existing)",
            "exactly one of standby.pod and standby.existing must be set: remove the other",
        ),
        (
            "has(self.pod) == has(oldSelf.pod)",
            "standby cannot change its kind (pod | existing): make a new pair",
        ),
        (
            "!has(self.existing) || has(self.startCommand)",
            "standby.startCommand must be set with standby.existing: it is what runs while the standby is active",
        ),
        (
            "!has(self.pod) || !has(self.startCommand)",
            "standby.startCommand is for standby.existing: for a pod put it into standby.pod.command",
        ),
    )

    pod: PodStandbySpec | None = None
    existing: ExistingStandbySpec | None = None
    start_command: Command | None = None
    quiesce_command: Command | None = None
    stop_seconds: int = Field(default=10, ge=1, le=600)


class ServicePort(Model):
    name: str = Field(default="http", pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=15)
    port: Port
    gpu_port: Port
    standby_port: Port


class ServiceSpec(Model):
    """The Service we make, without a selector, whose one endpoint we move."""

    name: str = Field(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=50)
    ports: Annotated[
        list[ServicePort],
        Field(
            min_length=1,
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]


class SyncSpec(Model):
    period_seconds: int = Field(default=30, ge=1, le=86_400)


class ServiceProbe(Model):
    """Does the workload answer on the GPU? A silent port counts only after it has answered once."""

    port: Port
    http_path: str | None = Field(default=None, pattern=r"^/", max_length=512)


class ProbeSpec(Model):
    model_config = _config(
        (
            "self.confirmPeriodSeconds <= self.periodSeconds",
            "probe.confirmPeriodSeconds must be at most probe.periodSeconds",
        ),
    )

    period_seconds: int = Field(default=5, ge=1, le=300)
    timeout_seconds: int = Field(default=2, ge=1, le=60)
    confirm_period_seconds: int = Field(default=1, ge=1, le=60)
    failure_threshold: int = Field(default=3, ge=2, le=20)
    service: ServiceProbe | None = None


class FailoverMode(StrEnum):
    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class FailoverSpec(Model):
    mode: FailoverMode = FailoverMode.AUTOMATIC
    max_standby_age_seconds: int = Field(default=900, ge=1, le=2_592_000)


class RecoveryMode(StrEnum):
    AUTOMATIC = "Automatic"
    APPROVE = "Approve"
    OFF = "Off"


class FailbackMode(StrEnum):
    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class RecoverySpec(Model):
    mode: RecoveryMode = RecoveryMode.AUTOMATIC
    grace_seconds: int = Field(default=30, ge=0, le=86_400)
    attempts: int = Field(default=5, ge=1, le=20)
    boot_timeout_seconds: int = Field(default=240, ge=10, le=3600)
    keep_old_seconds: int = Field(default=86_400, ge=0, le=2_592_000)
    failback: FailbackMode = FailbackMode.AUTOMATIC


class DeletionPolicy(StrEnum):
    RETAIN = "Retain"
    DELETE = "Delete"


class PairSpec(Model):
    workspace: WorkspaceSpec = WorkspaceSpec()
    gpu: GpuSpec
    standby: StandbySpec
    service: ServiceSpec
    sync: SyncSpec = SyncSpec()
    probe: ProbeSpec = ProbeSpec()
    failover: FailoverSpec = FailoverSpec()
    recovery: RecoverySpec = RecoverySpec()
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN


# --- status ---------------------------------------------------------------------------------------------


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
