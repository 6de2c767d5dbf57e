"""What the stand-in remembers: one `World`, saved as JSON, so that a restart of the server forgets nothing.

Times are epoch seconds. Nothing here decides: market.py prices, instances.py moves, wire.py speaks.
"""

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

GpuMode = Literal["ok", "fail", "hang", "xid", "missing"]
BootFault = Literal["ok", "stuck", "oci"]


class Phase(StrEnum):
    """Where an instance really is; what the API says of it is wire.status's business."""

    PROVISIONING = "provisioning"  # actual_status null
    LOADING = "loading"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    STARTING = "starting"  # a started one says `exited` for some reads before `loading`
    QUEUED = "queued"  # its GPU is somebody else's now; it starts when that is free again
    REBOOTING = "rebooting"
    OFFLINE = "offline"  # the host is gone
    FAILED = "failed"  # died at boot: created, stopped/stopped
    OUTBID = "outbid"
    OUTBID_LOADING = "outbid-loading"
    ENDED = "ended"  # the host's listing ended
    DESTROYING = "destroying"


class Offer(BaseModel):
    """One ask on one machine. `slots` are the GPUs of the machine it would take."""

    model_config = ConfigDict(extra="forbid")

    id: int
    machine_id: int
    host_id: int
    slots: tuple[int, ...]
    machine_gpus: int
    gpu_name: str
    gpu_ram: int  # MB per GPU
    compute_cap: int
    cuda_max_good: float
    driver_version: str
    total_flops: float
    dlperf: float
    cpu_name: str
    cpu_cores: int | None
    cpu_ram: int  # MB of the whole machine
    disk_space: float
    disk_bw: float
    dph_base: float
    min_bid: float
    storage_cost: float  # $/GB/month
    inet_up: float
    inet_down: float
    inet_up_cost: float
    inet_down_cost: float
    reliability: float
    verification: Literal["verified", "unverified", "deverified"]
    hosting_type: int
    direct_port_count: int
    static_ip: bool
    public_ipaddr: str
    geolocation: str | None
    geocode: str | None
    duration: float  # seconds left on the host's listing
    external: bool | None = False
    listed: bool = True
    boot: BootFault = "ok"  # what becomes of an instance rented here
    nvidia_smi: GpuMode = "ok"


class SshKey(BaseModel):
    id: int
    public_key: str
    attached_at: float
    written: bool = False


class Instance(BaseModel):
    """One contract, from the create to long after its end."""

    id: int
    label: str | None
    offer: Offer
    api_key: str
    image: str
    env: dict[str, str]
    onstart: str
    runtype: str
    disk: float
    bid: float | None  # None: on demand
    created_at: float
    phase: Phase = Phase.PROVISIONING
    since: float  # when the phase began
    intended: Literal["running", "stopped"] = "running"
    boot: int = 1
    ports: dict[str, int] = Field(default_factory=dict)  # "8080/tcp" → outside number; new at each start
    address: str | None = None
    running_since: float | None = None
    keys: list[SshKey] = Field(default_factory=list)
    nvidia_smi: GpuMode = "ok"
    boot_fault: BootFault = "ok"
    refuse_start: bool = False
    dark: bool = False  # dead without a word: its address swallows everything
    row: dict[str, Any] = Field(default_factory=dict)  # what the API shall say instead, field by field
    history: list[tuple[float, Phase]] = Field(default_factory=list)
    destroyed_at: float | None = None

    @property
    def holds_gpu(self) -> bool:
        """A stopped instance keeps its disk and gives its GPU back to the market."""
        return self.destroyed_at is None and self.phase not in (
            Phase.STOPPED,
            Phase.QUEUED,
            Phase.FAILED,
            Phase.OUTBID,
            Phase.OUTBID_LOADING,
            Phase.ENDED,
        )

    def enter(self, phase: Phase, now: float) -> None:
        self.phase, self.since = phase, now
        self.history = [*self.history, (now, phase)][-50:]


class Settings(BaseModel):
    """What a test may turn; the defaults are a kind, quick Vast."""

    model_config = ConfigDict(extra="forbid")

    provisionSeconds: float = Field(default=0.2, ge=0)  # actual_status null
    bootSeconds: float = Field(default=1.0, ge=0)  # `created` and `loading`, at least
    exitedSeconds: float = Field(default=0.3, ge=0)  # `exited` after a start
    attachLagSeconds: float = Field(default=1.0, ge=0)  # from running, or the attach if later, to authorized_keys
    destroySeconds: float = Field(default=0.3, ge=0)  # `destroying` is still listed
    heartbeatSeconds: float = Field(default=0.0, ge=0)  # a dead machine is called running for so long
    readLagSeconds: float = Field(default=0.0, ge=0)  # a new instance is not seen for so long
    rateLimitScale: float = Field(default=0.0, ge=0)  # 1: the real intervals per endpoint; 0: none
    searchRowsPerDay: int = Field(default=20000, ge=0)
    searchAbsence: float = Field(default=0.0, ge=0, le=1)  # chance of an offer to be left out of a search
    credit: float = 25.0


class Fault(BaseModel):
    """One thing that goes wrong with calls of one operation, `times` times (None: until cleared)."""

    model_config = ConfigDict(extra="forbid")

    fault: Literal[
        "status",
        "timeout",
        "reset",
        "html-403",
        "429-text",
        "429-detail",
        "429-json",
        "429-search-quota",
        "wrong-key",
        "login-required",
        "lacks-permission",
        "deprecated",
        "deprecated-200",
        "commit-then-500",
        "commit-then-timeout",
        "commit-then-reset",
        "no_such_ask",
        "no_such_ask-410",
        "insufficient_credit",
        "spend_rate_limit",
        "resources_unavailable",
        "slow",
    ]
    on: str = "any"  # search create list show state destroy reboot ssh user … any
    status: int = 500
    seconds: float = 30.0  # of a timeout or of slowness
    retryAfter: int | None = None
    after: int = 0  # so many calls pass before
    times: int | None = None
    hits: int = 0


class Call(BaseModel):
    """One call that changes something, for assertions. Never a key or a header."""

    time: float
    op: str
    method: str
    path: str
    body: Any = None
    status: int | None = None
    instance: int | None = None
    fault: str | None = None


class World(BaseModel):
    """Everything that outlives a restart of the server."""

    seed: int = 1
    next_instance: int = 24_000_001
    next_key: int = 700_001
    settings: Settings = Field(default_factory=Settings)
    instances: dict[int, Instance] = Field(default_factory=dict)
    destroyed: list[Instance] = Field(default_factory=list)
    offers: dict[int, Offer] = Field(default_factory=dict)  # only those that differ from the seeded market
    account_keys: list[SshKey] = Field(default_factory=list)
    faults: list[Fault] = Field(default_factory=list)
    create_calls: int = 0
    created: int = 0
    calls: list[Call] = Field(default_factory=list)
    search_rows: dict[str, int] = Field(default_factory=dict)  # day → rows
