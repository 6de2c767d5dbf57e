"""Would a failover work now, and what would it lose? Would a failback?"""

from dataclasses import dataclass
from enum import StrEnum

from gpu_standby.api.names import ANNOTATION_PAUSE
from gpu_standby.api.pair import MoveReason
from gpu_standby.api.replacement import ReplacementPhase
from gpu_standby.api.spec import FailbackMode, Side
from gpu_standby.core.observation import PairObservation

RETRY_GIVEN_UP_SECONDS = 60.0


class FailoverReason(StrEnum):
    POSSIBLE = "Possible"
    STANDBY_ACTIVE = "StandbyActive"
    STANDBY_UNREACHABLE = "StandbyUnreachable"
    STANDBY_EMPTY = "StandbyEmpty"
    STANDBY_OF_ANOTHER_PAIR = "StandbyOfAnotherPair"
    STATUS_OLDER_THAN_STANDBY = "StatusOlderThanStandby"
    STANDBY_BEHIND = "StandbyBehind"
    NEVER_SYNCED = "NeverSynced"
    TOO_OLD = "StandbyTooOld"
    PROMOTE_UNCONFIRMED = "PromoteUnconfirmed"
    MOVE_IN_FLIGHT = "MoveInFlight"
    PAUSED = "Paused"
    SERVICE_TAKEN = "ServiceTaken"


@dataclass(frozen=True)
class Possibility:
    possible: bool
    reason: str
    message: str


def standby_age(observation: PairObservation, now: float) -> float | None:
    """Seconds since the start of the last cycle that completed: what would be lost if the GPU died now."""
    sample = observation.standby
    disk = sample.covered_time if sample is not None and observation.standby_sample_is_ours else 0.0
    return now - disk if disk else None


def paused(observation: PairObservation) -> str | None:
    return observation.pair.metadata.annotations.get(ANNOTATION_PAUSE)


def failover_possible(observation: PairObservation, now: float) -> Possibility:
    def no(reason: FailoverReason, message: str) -> Possibility:
        return Possibility(False, reason, message)

    status = observation.pair.status
    sample = observation.standby
    if status.active is Side.STANDBY:
        return no(FailoverReason.STANDBY_ACTIVE, "the standby is the active side")
    if status.move is not None:
        if status.move.reason is MoveReason.PROMOTE_UNCONFIRMED:
            return no(
                FailoverReason.PROMOTE_UNCONFIRMED,
                "a promotion was not confirmed in time; waiting for the standby to confirm that it is not active "
                "(check that the standby machine is up)",
            )
        return no(FailoverReason.MOVE_IN_FLIGHT, f"a move to {status.move.to} is at {status.move.step}")
    if sample is None or not observation.standby_answers:
        return no(
            FailoverReason.STANDBY_UNREACHABLE,
            "the standby's agent does not answer: check its pod or machine; the pair is not protected",
        )
    if not sample.has_state:
        return no(FailoverReason.STANDBY_EMPTY, "the standby's disk holds no copy yet")
    if not observation.standby_sample_is_ours:
        return no(
            FailoverReason.STANDBY_OF_ANOTHER_PAIR,
            f"the standby's disk belongs to the pair with UID {sample.pair_uid}: give this pair an empty volume",
        )
    if sample.epoch > status.epoch:
        return no(
            FailoverReason.STATUS_OLDER_THAN_STANDBY,
            f"the standby's disk is at epoch {sample.epoch} and this status at {status.epoch}: was it restored from an "
            "older copy? The standby's data is left alone until a human decides",
        )
    if not sample.covered_time:
        return no(FailoverReason.NEVER_SYNCED, "no sync has completed yet")
    if sample.epoch < status.epoch:
        return no(FailoverReason.STANDBY_BEHIND, f"the standby is at epoch {sample.epoch}, the pair at {status.epoch}")
    age = now - sample.covered_time
    limit = observation.pair.spec.failover.max_standby_age_seconds
    if age > limit:
        return no(
            FailoverReason.TOO_OLD,
            f"the standby's copy is {age:.0f} s old, more than failover.maxStandbyAgeSeconds={limit}; to fail over all "
            f"the same and lose what was written since: kubectl annotate gsp {observation.pair.metadata.name} "
            f"gpustandby.dev/failover=accept-loss={age + 60:.0f}",
        )
    if (reason := paused(observation)) is not None:
        return no(FailoverReason.PAUSED, f"paused: {reason}")
    return Possibility(True, FailoverReason.POSSIBLE, f"would lose at most the last {age:.0f} s of writing")


def failback_possible(observation: PairObservation, now: float) -> Possibility:
    status = observation.pair.status
    name = observation.pair.metadata.name
    if status.active is not Side.STANDBY:
        return Possibility(False, "GpuActive", "the GPU is the active side")
    if status.move is not None:
        return Possibility(False, "MoveInFlight", f"a move to {status.move.to} is at {status.move.step}")
    if not observation.standby_answers or not observation.standby_sample_is_ours:
        return Possibility(False, "StandbyUnreachable", "the standby's agent does not answer")
    if (reason := paused(observation)) is not None:
        return Possibility(False, "Paused", f"paused: {reason}")
    if observation.ready_replacement() is None and not observation.gpu_alive:
        running = [r for r in observation.replacements if r.status.phase is not ReplacementPhase.FAILED]
        current = status.gpu.replacement if status.gpu else ""
        waiting = [r.metadata.name for r in running if r.metadata.name != current]
        return Possibility(False, "NoGpu", f"waiting for {waiting[0]}" if waiting else "there is no GPU to go back to")
    if status.history and status.history[-1].reason == MoveReason.START_FAILED:
        return Possibility(
            False,
            "StartFailed",
            "the workload did not answer on the GPU after the last failback: look at "
            "the workload's log there (/var/tmp/gpu-standby), then kubectl annotate gsp "
            f"{name} gpustandby.dev/failback=",
        )
    given_up = status.given_up
    if given_up is not None and now - given_up.time < RETRY_GIVEN_UP_SECONDS:
        return Possibility(False, "GivenUp", f"the last try was given up at {given_up.step}: {given_up.reason}")
    if observation.pair.spec.recovery.failback is FailbackMode.MANUAL:
        return Possibility(
            True, "Manual", f"recovery.failback is Manual: kubectl annotate gsp {name} gpustandby.dev/failback="
        )
    return Possibility(True, "Possible", "a verified GPU is there")
