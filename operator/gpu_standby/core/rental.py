"""The words of a GpuReplacement's plan: what is observed, what the process remembers, what is intended.

The status is the memory; `Memory` holds only what may be forgotten at any instruction: what the provider showed at the
last look, what was tried and when. Losing it costs time, never a machine. The one thing that must not be taken for
granted after a restart is "no create was sent": that is `planned_here`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gpu_standby.api import names
from gpu_standby.api.pair import GpuStandbyPair
from gpu_standby.api.replacement import GpuReplacement, ReplacementStatus
from gpu_standby.core.budget import Budget
from gpu_standby.core.evidence import MachineAddress
from gpu_standby.core.market import Instance, InstanceList, Offer, OfferQuery, RentRequest

# --- what came of what was tried --------------------------------------------------------------------------


class CreateKind(StrEnum):
    CREATED = "Created"
    REFUSED = "Refused"
    """Certainly not made; this offer is done with."""
    OFFER_GONE = "OfferGone"
    LEFT_BEHIND = "LeftBehind"
    """Refused, and yet a machine was made."""
    LOST = "Lost"
    """Nobody knows."""
    POSTPONED = "Postponed"
    """Certainly not made, and the same may be asked again later (no credit, key rejected, too fast)."""


@dataclass(frozen=True)
class CreateResult:
    kind: CreateKind
    time: float
    contract: int = 0
    text: str = ""
    again_at: float = 0.0


class InspectionKind(StrEnum):
    HEALTHY = "Healthy"
    SICK = "Sick"
    NOT_YET = "NotYet"
    """It does not answer, or rsync is not there yet."""
    AUTH_FAILED = "AuthFailed"
    """It is there, and does not know our key yet."""


@dataclass(frozen=True)
class Inspection:
    contract: int
    time: float
    kind: InspectionKind
    text: str = ""
    times_sick: int = 0
    """In a row."""


@dataclass(frozen=True)
class Greeting:
    """First contact: which host key is presented."""

    contract: int
    time: float
    host: str
    port: int
    key: str = ""
    text: str = ""


@dataclass(frozen=True)
class OffersSeen:
    time: float
    query: OfferQuery
    offers: tuple[Offer, ...]


class TroubleKind(StrEnum):
    UNREACHABLE = "ProviderUnreachable"
    KEY_REJECTED = "ApiKeyRejected"
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason
    NO_CREDIT = "NoCredit"


@dataclass(frozen=True)
class Trouble:
    """Why nothing can be asked of the provider for the moment, and until when."""

    kind: TroubleKind
    text: str
    until: float
    count: int = 1


@dataclass(frozen=True)
class Seen:
    """When a value last changed: the clock of everything that is limited by progress."""

    value: str
    since: float


@dataclass(frozen=True)
class Memory:
    planned_here: frozenset[int] = frozenset()
    """Attempts whose intent this process wrote, and whose create it has not sent."""
    creates: Mapping[int, CreateResult] = field(default_factory=dict)
    instances: InstanceList | None = None
    before: InstanceList | None = None
    """The list before that."""
    seen: frozenset[int] = frozenset()
    """Contracts that some list has shown."""
    offers: OffersSeen | None = None
    searches_in_vain: int = 0
    """In a row: searches that found nothing that fits."""
    keys_sent: Mapping[tuple[int, str], float] = field(default_factory=dict)
    destroys_sent: Mapping[int, float] = field(default_factory=dict)
    labels_sent: Mapping[int, float] = field(default_factory=dict)
    states_sent: Mapping[int, float] = field(default_factory=dict)
    greeting: Greeting | None = None
    inspection: Inspection | None = None
    collect_tried: float = 0.0
    collect_text: str = ""
    collected: str = ""
    """Name of the collection that is done."""
    restore_sent: float = 0.0
    progress: Seen | None = None
    trouble: Trouble | None = None


# --- what is observed -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RestoreReport:
    """What the mover says of one restore."""

    id: str = ""
    state: str = ""
    files: int = 0
    bytes: int = 0
    bytes_total: int = 0
    verified_files: int = 0
    verified_bytes: int = 0
    manifest: str = ""
    error: str = ""
    started_time: float = 0.0
    finished_time: float = 0.0
    wanted: Mapping[str, Any] = field(default_factory=dict)
    """What the ConfigMap asks for at present."""


@dataclass(frozen=True)
class Observation:
    replacement: GpuReplacement
    pair: GpuStandbyPair | None
    """None: certainly gone."""
    installation: str
    memory: Memory
    public_key: str = ""
    """The operator's own, of the pair's Secret; empty: not there (yet)."""
    budget: Budget = field(default_factory=lambda: Budget(0, ()))
    siblings: tuple[GpuReplacement, ...] = ()
    """The pair's other GpuReplacements: their machines are not rented again."""
    restore: RestoreReport = field(default_factory=RestoreReport)
    sync_objects: bool = False
    """The ConfigMap that the mover reads is there."""

    def label(self, attempt: int, *, ready: bool = False) -> str:
        metadata = self.replacement.metadata
        return names.instance_label(
            self.installation, metadata.namespace, self.pair_uid, metadata.uid, attempt, ready=ready
        )

    @property
    def pair_uid(self) -> str:
        """From the label of an attempt when the pair is gone: the labels at the provider still carry it."""
        if self.pair is not None:
            return self.pair.metadata.uid
        for attempt in self.replacement.status.attempts:
            parts = attempt.label.split("/")
            if len(parts) >= 6:
                return parts[3]
        return ""

    def ours(self, instance: Instance) -> int | None:
        """The attempt an instance was rented by, from its label alone; None: not of this replacement."""
        parts = instance.label.split("/")
        metadata = self.replacement.metadata
        mine = ["gsp", self.installation, metadata.namespace]
        if len(parts) not in (6, 7) or parts[:3] != mine or parts[4] != metadata.uid or not parts[5].isdigit():
            return None
        return int(parts[5])


# --- what is intended -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """A complete list."""


@dataclass(frozen=True)
class Search:
    query: OfferQuery


@dataclass(frozen=True)
class Create:
    attempt: int
    request: RentRequest


@dataclass(frozen=True)
class Destroy:
    contract: int


@dataclass(frozen=True)
class StopMachine:
    contract: int


@dataclass(frozen=True)
class StartMachine:
    contract: int


@dataclass(frozen=True)
class SetLabel:
    contract: int
    label: str


@dataclass(frozen=True)
class AttachKey:
    contract: int
    public_key: str


@dataclass(frozen=True)
class Greet:
    contract: int
    host: str
    port: int


@dataclass(frozen=True)
class Inspect:
    contract: int
    address: MachineAddress
    workspace: str
    gpu_count: int


@dataclass(frozen=True)
class AskRestore:
    """Write the request into the pair's ConfigMap."""

    request: Mapping[str, Any]


@dataclass(frozen=True)
class Collect:
    """Stop the workload there, then have the standby set aside what the machine has beyond the last sync."""

    address: MachineAddress
    name: str


@dataclass(frozen=True)
class ConsumeApproval:
    plan: str


@dataclass(frozen=True)
class Announce:
    reason: str
    message: str
    warning: bool = False


Intent = (
    Look
    | Search
    | Create
    | Destroy
    | StopMachine
    | StartMachine
    | SetLabel
    | AttachKey
    | Greet
    | Inspect
    | AskRestore
    | Collect
    | ConsumeApproval
    | Announce
)


@dataclass(frozen=True)
class Plan:
    status: ReplacementStatus
    """Written, guarded, before any intent is carried out."""
    intents: tuple[Intent, ...]
    requeue_seconds: float
    released: bool = False
    """Only when deleting: everything is proven gone."""
    waiting: str = ""
    """Only when deleting: what is waited for."""
