"""Condition types and reasons (KEP-1623 style), and the one rule of setting them."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Literal

from pydantic import Field

from gpu_standby.api.model import Model, WholeTime

Status = Literal["True", "False", "Unknown"]


class Condition(Model):
    type: str = Field(max_length=64)
    status: Status
    reason: str = Field(max_length=128)
    message: str = Field(default="", max_length=1024)
    observed_generation: int = Field(default=0, ge=0)
    last_transition_time: WholeTime


class PairCondition(StrEnum):
    READY = "Ready"
    GPU_HEALTHY = "GpuHealthy"
    SERVICE_HEALTHY = "ServiceHealthy"
    STANDBY_READY = "StandbyReady"
    SYNCED = "Synced"
    FAILOVER_POSSIBLE = "FailoverPossible"
    FAILBACK_POSSIBLE = "FailbackPossible"
    FENCED = "Fenced"
    PROBER_HEALTHY = "ProberHealthy"
    PAUSED = "Paused"


class ReplacementCondition(StrEnum):
    RENTED = "Rented"
    BOOTED = "Booted"
    RESTORED = "Restored"
    VERIFIED = "Verified"
    READY = "Ready"


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    condition = find(conditions, kind)
    return condition is not None and condition.status == "True"


def put(
    conditions: Sequence[Condition],
    kind: str,
    status: Status,
    reason: str,
    message: str,
    *,
    now: float,
    generation: int,
) -> tuple[Condition, ...]:
    """Set one condition; `lastTransitionTime` moves only when `status` does."""
    old = find(conditions, kind)
    since = old.last_transition_time if old is not None and old.status == status else now
    new = Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:1024],
        observed_generation=generation,
        last_transition_time=float(int(since)),
    )
    return (*(condition for condition in conditions if condition.type != kind), new)
