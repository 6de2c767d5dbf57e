"""GpuReplacement: one rental, from the search for an offer to the proof that the machine is gone."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from gpu_standby.api.conditions import Condition
from gpu_standby.api.model import Model, SecretKeyRef, Time
from gpu_standby.api.pair import Metadata
from gpu_standby.api.spec import OfferSpec, configured

MAX_ATTEMPTS_LISTED = 20
MAX_SHORTLIST = 10


class Why(StrEnum):
    INITIAL = "Initial"
    GPU_LOST = "GpuLost"
    PLANNED = "Planned"


class ReplacementSpec(Model):
    model_config = configured(
        ("self == oldSelf", "the spec of a GpuReplacement cannot change: delete it and make another"),
    )

    pair: str = Field(min_length=1, max_length=40)
    why: Why = Why.PLANNED
    epoch: int = Field(default=0, ge=0)
    offer: OfferSpec | None = None
    """Absent: the pair's own."""
    image: str | None = Field(default=None, max_length=1024)
    require_approval: bool = False


class ReplacementPhase(StrEnum):
    SEARCHING = "Searching"
    AWAITING_APPROVAL = "AwaitingApproval"
    RENTING = "Renting"
    BOOTING = "Booting"
    RESTORING = "Restoring"
    VERIFYING = "Verifying"
    READY = "Ready"
    CALLED_OFF = "CalledOff"
    FAILED = "Failed"


class OutcomeOfAttempt(StrEnum):
    PLANNED = "Planned"
    """The intent is written; the create may or may not have been sent."""
    RENTED = "Rented"
    REFUSED = "Refused"
    UNKNOWN = "Unknown"
    """The answer was lost: nothing more is created until three complete lists over 60 s show nothing."""
    FAILED = "Failed"
    """Rented, then found unfit; to be destroyed."""
    DESTROYED = "Destroyed"


class Attempt(Model):
    number: int = Field(ge=1)
    offer_id: int = Field(ge=0)
    machine_id: int = Field(default=0, ge=0)
    host_id: int = Field(default=0, ge=0)
    label: str = Field(max_length=256)
    price_per_hour: str = Field(default="", max_length=16)
    started_time: Time
    outcome: OutcomeOfAttempt = OutcomeOfAttempt.PLANNED
    reason: str = Field(default="", max_length=256)
    """One word, e.g. OfferGone, Mismatch, SickGpu, BootTimeout."""
    message: str = Field(default="", max_length=256)
    contract: int = Field(default=0, ge=0)
    absent_lists: int = Field(default=0, ge=0)
    """Complete lists, with a working key, that did not show this label (I7, and the look after a lost answer)."""
    last_list_time: Time | None = None
    destroy_time: Time | None = None


class ShortlistEntry(Model):
    offer_id: int
    machine_id: int
    gpu_name: str = Field(max_length=64)
    region: str = Field(default="", max_length=64)
    price_per_hour: str = Field(max_length=16)
    reason: str = Field(default="", max_length=256)


_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}


class RestoreProgress(Model):
    id: str = Field(default="", max_length=128)
    bytes: int = Field(default=0, ge=0)
    bytes_total: int = Field(default=0, ge=0)
    files: int = Field(default=0, ge=0)
    verified_files: int = Field(default=0, ge=0)
    verified_bytes: int = Field(default=0, ge=0)
    manifest: str = Field(default="", max_length=80)
    started_time: Time | None = None
    finished_time: Time | None = None


class ReplacementStatus(Model):
    observed_generation: int = Field(default=0, ge=0)
    phase: ReplacementPhase = ReplacementPhase.SEARCHING
    plan: str = Field(default="", max_length=64)
    """Name of the plan that an approval must give."""
    shortlist: Annotated[list[ShortlistEntry], Field(max_length=MAX_SHORTLIST, json_schema_extra=_ATOMIC)] = []
    attempts: Annotated[list[Attempt], Field(max_length=MAX_ATTEMPTS_LISTED, json_schema_extra=_ATOMIC)] = []
    provider_id: str = Field(default="", max_length=128, alias="providerID")
    address: str = Field(default="", max_length=253)
    ssh_port: int = Field(default=0, ge=0, le=65535)
    ports: Annotated[dict[str, int], Field(max_length=64)] = {}
    host_key: str = Field(default="", max_length=1024)
    gpu_name: str = Field(default="", max_length=64)
    offer_name: str = Field(default="", max_length=128)
    """For the OFFER column: GPU name and region."""
    price_per_hour: str = Field(default="", max_length=16)
    restore: RestoreProgress | None = None
    progress: str = Field(default="", max_length=64)
    """For the PROGRESS column, e.g. "42% of 1.2 GiB"."""
    retired_time: Time | None = None
    """When the pair stopped needing the machine; keepOldSeconds counts from here."""
    fenced_time: Time | None = None
    started_to_collect_time: Time | None = None
    collected_time: Time | None = None
    api_key_secret_ref: SecretKeyRef | None = None
    """As of the newest attempt: its machines can be destroyed when the pair is gone already."""
    message: str = Field(default="", max_length=1024)
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []


class GpuReplacement(Model):
    api_version: Literal["gpustandby.dev/v1alpha1"] = "gpustandby.dev/v1alpha1"
    kind: Literal["GpuReplacement"] = "GpuReplacement"
    metadata: Metadata
    spec: ReplacementSpec
    status: ReplacementStatus = ReplacementStatus()
