"""What a user asks for in a pair: the machines, the Service, how closely to look, when to act."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from gpu_standby.api.model import Model, SecretKeyRef, matching, rules

# The API conventions allow no floats in a spec: prices and shares are decimal strings.
Price = Annotated[
    str,
    matching(
        r"^(0*[1-9][0-9]*(\.[0-9]{1,6})?|0+\.0{0,5}[1-9][0-9]{0,5})$",
        'must be a price above zero, a decimal in quotes, e.g. "0.60"',
        16,
    ),
]
Share = Annotated[
    str,
    matching(r"^(0(\.[0-9]{1,6})?|1(\.0{1,6})?)$", 'must be a decimal between 0 and 1 in quotes, e.g. "0.95"', 16),
]
Region = Annotated[str, matching(r"^[A-Z]{2}$", 'must be a country code of two capital letters, e.g. "SE"', 2)]
Folder = Annotated[
    str,
    matching(
        r"^(/[^/\x00-\x1f]*[^/.\x00-\x1f][^/\x00-\x1f]*)+$",
        "must be an absolute folder below / without '.', '..' and a trailing slash, e.g. /workspace",
        512,
    ),
]
Host = Annotated[
    str,
    matching(
        r"^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$",
        "must be a host name or an IP address alone; the port has a field",
        253,
    ),
]
Port = Annotated[int, Field(ge=1, le=65535)]
User = Annotated[str, matching(r"^[a-z_][a-z0-9_-]*$", "must be a Unix user's name, e.g. root", 32)]
HostKey = Annotated[
    str,
    matching(
        r"^(ssh|ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?$",
        "must be the whole public host key, no fingerprint: what `ssh-keyscan -t ed25519 HOST` prints after the host",
        1024,
    ),
]
Command = Annotated[str, Field(min_length=1, max_length=1024)]

_OF_THE_SYSTEM = "self.path.matches(r'^/(bin|boot|etc|lib|lib64|run|sbin|usr|var)$|^/(dev|proc|sys)(/|$)')"


def configured(*validations: tuple[str, str]) -> ConfigDict:
    return ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        serialize_by_alias=True,
        json_schema_extra=rules(*validations),
    )


def _either(first: str, second: str, field: str) -> tuple[tuple[str, str], tuple[str, str], tuple[str, str]]:
    """Exactly one member of a union, and the same for good."""
    one, other, told = f"has(self.{first})", f"has(self.{second})", f"{field}.{first} and {field}.{second}"
    return (
        (f"!({one} && {other})", f"exactly one of {told} must be set: remove the other"),
        (f"{one} || {other}", f"exactly one of {told} must be set: add the one that is meant"),
        (f"{one} == has(oldSelf.{first})", f"{field} cannot change its kind ({first} | {second}): make a new pair"),
    )


class Side(StrEnum):
    GPU = "GPU"
    STANDBY = "Standby"


class WorkspaceSpec(Model):
    """What is kept: one folder, the same path on both sides."""

    model_config = configured(
        (
            f"!{_OF_THE_SYSTEM}",
            "workspace.path must not be a folder of the system, for a restore replaces all of it: choose a folder of "
            "your own, e.g. /workspace",
        ),
        (
            "self.path == oldSelf.path",
            "workspace.path cannot change: the copy and the machines were made with it; make a new pair",
        ),
    )

    path: Folder = "/workspace"
    exclude: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]],
        Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = []
    """Patterns of rsync: what is neither copied nor touched by a restore."""


class OfferType(StrEnum):
    ON_DEMAND = "OnDemand"
    INTERRUPTIBLE = "Interruptible"


class OfferSpec(Model):
    """Which machines will do; the cheapest of them is rented."""

    gpu_name: str = Field(min_length=1, max_length=64)
    """As Vast.ai writes it, with the space: "RTX 4090"."""
    gpu_count: int = Field(default=1, ge=1, le=16)
    disk_gib: int = Field(default=50, ge=8, le=65536, alias="diskGiB")
    max_price_per_hour: Price
    """US dollars, all in: GPU and disk."""
    min_reliability: Share = "0.95"
    min_download_mbps: int = Field(default=100, ge=0, le=1_000_000)
    regions: Annotated[
        list[Region],
        Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = []
    """Country codes; none: anywhere."""
    type: OfferType = OfferType.ON_DEMAND


class VastSpec(Model):
    """A machine rented on Vast.ai."""

    model_config = configured(
        (
            "has(self.instanceId) == has(oldSelf.instanceId) && "
            "(!has(self.instanceId) || self.instanceId == oldSelf.instanceId)",
            "gpu.vast.instanceId cannot change: it names the machine that was adopted when the pair was made; "
            "make a new pair",
        ),
    )

    api_key_secret_ref: SecretKeyRef
    instance_id: int | None = Field(default=None, ge=1, le=9_007_199_254_740_991)
    """A machine that runs already and is taken over; it is never destroyed by us."""
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
    """The side that does the work; exactly one of vast and existing."""

    model_config = configured(*_either("vast", "existing", "gpu"))

    vast: VastSpec | None = None
    existing: ExistingHost | None = None
    start_command: Command | None = None
    """Runs the workload in the foreground; started by us after a restore. Absent: the image starts it."""
    quiesce_command: Command | None = None
    """Makes the workload write what it holds, before it is stopped on purpose."""


class PodStandbySpec(Model):
    """A StatefulSet of one and a volume in this cluster."""

    model_config = configured(
        (
            "self.storage == oldSelf.storage",
            "standby.pod.storage cannot change: a StatefulSet's claim is fixed; grow the claim itself",
        ),
        (
            "has(self.storageClassName) == has(oldSelf.storageClassName) && "
            "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
            "standby.pod.storageClassName cannot change: a StatefulSet's claim is fixed; make a new pair",
        ),
    )

    storage: Annotated[str, matching(r"^[1-9][0-9]*(Mi|Gi|Ti)$", 'must be a size in Mi, Gi or Ti, e.g. "20Gi"', 16)] = (
        "20Gi"
    )
    storage_class_name: str | None = Field(default=None, max_length=253)
    image: str | None = Field(default=None, min_length=1, max_length=1024)
    """The workload's; ours by default."""
    command: Annotated[
        list[Annotated[str, Field(max_length=1024)]],
        Field(max_length=64, min_length=1, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ]
    """What runs while the standby is the active side."""
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

    model_config = configured(
        (
            f"!{_OF_THE_SYSTEM}",
            "standby.existing.path must not be a folder of the system: choose one for the copy alone, e.g. "
            "/srv/standby",
        ),
    )

    user: User = "gpu-standby"
    path: Folder = "/srv/standby"


class StandbySpec(Model):
    """The side that keeps the copy and steps in; exactly one of pod and existing."""

    model_config = configured(
        *_either("pod", "existing", "standby"),
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
    """Makes the workload write what it holds, before it is stopped on purpose."""
    stop_seconds: int = Field(default=10, ge=1, le=600)
    """Between TERM and KILL, on either side."""


class ServicePort(Model):
    name: Annotated[
        str,
        matching(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "must be lower-case letters, digits and dashes, e.g. http", 15),
    ] = "http"
    port: Port
    """The Service's."""
    gpu_port: Port
    """Where the workload listens on the GPU machine (inside its container)."""
    standby_port: Port


class ServiceSpec(Model):
    """The Service we make, without a selector, whose one endpoint we move."""

    model_config = configured(
        (
            "self.ports.all(one, self.ports.exists_one(other, other.port == one.port))",
            "service.ports must all have a port of their own: two have the same",
        ),
        (
            "self == oldSelf",
            "service cannot change: clients hold the Service, and machines were rented with its ports; make a new pair",
        ),
    )

    name: Annotated[
        str,
        matching(
            r"^[a-z]([a-z0-9-]*[a-z0-9])?$",
            "must be lower-case letters, digits and dashes, and begin with a letter: it is a Service's name",
            50,
        ),
    ]
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
    """From the start of one cycle to the start of the next: what a sudden death may cost."""


class ServiceProbe(Model):
    """Does the workload answer on the GPU? A silent port counts only after it has answered once."""

    port: Port
    http_path: Annotated[str, matching(r"^/", "must begin with a slash, e.g. /healthz", 512)] | None = None
    """Absent: a TCP connection is enough."""


class ProbeSpec(Model):
    """How the GPU machine is watched."""

    model_config = configured(
        (
            "self.confirmPeriodSeconds <= self.periodSeconds",
            "probe.confirmPeriodSeconds must be at most probe.periodSeconds",
        ),
    )

    period_seconds: int = Field(default=5, ge=1, le=300)
    timeout_seconds: int = Field(default=2, ge=1, le=60)
    confirm_period_seconds: int = Field(default=1, ge=1, le=60)
    """Between the looks that follow a first miss."""
    failure_threshold: int = Field(default=3, ge=2, le=20)
    """Misses in a row, the first included, before the machine may be taken for dead."""
    service: ServiceProbe | None = None


class FailoverMode(StrEnum):
    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class FailoverSpec(Model):
    mode: FailoverMode = FailoverMode.AUTOMATIC
    max_standby_age_seconds: int = Field(default=900, ge=1, le=2_592_000)
    """A copy older than this is not made active without a human's word."""


class RecoveryMode(StrEnum):
    AUTOMATIC = "Automatic"
    APPROVE = "Approve"
    OFF = "Off"


class FailbackMode(StrEnum):
    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class RecoverySpec(Model):
    """What is done about the GPU once the standby is the active side."""

    mode: RecoveryMode = RecoveryMode.AUTOMATIC
    """Approve: the plan and its price stand in the replacement's status until a human says yes."""
    grace_seconds: int = Field(default=30, ge=0, le=86_400)
    """How long the old machine may come back before another is rented."""
    attempts: int = Field(default=5, ge=1, le=20)
    boot_timeout_seconds: int = Field(default=240, ge=10, le=3600)
    keep_old_seconds: int = Field(default=86_400, ge=0, le=2_592_000)
    """How long a machine that was replaced, and could not be reached, is kept for what it may still hold."""
    failback: FailbackMode = FailbackMode.AUTOMATIC


class DeletionPolicy(StrEnum):
    RETAIN = "Retain"
    DELETE = "Delete"


class PairSpec(Model):
    model_config = configured(
        (
            "!has(self.gpu.existing) || !has(self.standby.existing) || "
            "self.gpu.existing.address != self.standby.existing.address || "
            "self.gpu.existing.sshPort != self.standby.existing.sshPort",
            "gpu.existing and standby.existing are the same machine: the copy must stand on another one",
        ),
    )

    workspace: WorkspaceSpec = WorkspaceSpec()
    gpu: GpuSpec
    standby: StandbySpec
    service: ServiceSpec
    sync: SyncSpec = SyncSpec()
    probe: ProbeSpec = ProbeSpec()
    failover: FailoverSpec = FailoverSpec()
    recovery: RecoverySpec = RecoverySpec()
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    """What becomes of the standby's copy when the pair is deleted. Rented machines are destroyed either way."""
