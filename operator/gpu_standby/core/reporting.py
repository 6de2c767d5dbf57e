"""What the status says to people: conditions, phase and the copied facts (I10). No logic reads the phase."""

from dataclasses import replace

from gpu_standby.api.conditions import Condition, PairCondition, Status, find, put
from gpu_standby.api.names import ANNOTATION_ACCEPT_HOST_KEY, ANNOTATION_ACCEPT_SHRINK, pod_provider_id
from gpu_standby.api.names import standby_pod as standby_pod_name
from gpu_standby.api.pair import GpuStatus, MoveReason, PairStatus, Phase, StandbyStatus, SyncStatus
from gpu_standby.api.replacement import ReplacementPhase
from gpu_standby.api.spec import Side
from gpu_standby.core.acts import Announce, EventLevel
from gpu_standby.core.failover import (
    FailoverReason,
    Possibility,
    failback_possible,
    failover_possible,
    paused,
    standby_age,
)
from gpu_standby.core.observation import PairObservation, ServiceView
from gpu_standby.core.pair import in_grace, is_fenced
from gpu_standby.core.verdict import VerdictKind, VerdictReason, prober_healthy

STALE_CYCLES = 3
"""Synced turns False when the copy is older than so many periods (and the longest cycle): three were missed."""
STALE_FLOOR_SECONDS = 60.0

_BLOCKING = (
    FailoverReason.STATUS_OLDER_THAN_STANDBY,
    FailoverReason.STANDBY_OF_ANOTHER_PAIR,
    FailoverReason.TOO_OLD,
)


def describe(observation: PairObservation, status: PairStatus, now: float) -> PairStatus:
    """`status` with everything derived filled in. Equal observations give equal statuses."""
    generation = observation.pair.metadata.generation
    conditions: tuple[Condition, ...] = tuple(status.conditions)
    for kind, (value, reason, message) in _conditions(observation, status, now).items():
        conditions = put(conditions, kind, value, reason, message, now=now, generation=generation)
    return status.model_copy(
        update={
            "observed_generation": generation,
            "phase": _phase(observation, status, now),
            "conditions": sorted(conditions, key=lambda c: list(PairCondition).index(PairCondition(c.type))),
            "standbys": _standbys(observation, status),
            "sync": _sync(observation, status),
            "gpu": _gpu(observation, status),
        }
    )


Reading = tuple[Status, str, str]


def _conditions(observation: PairObservation, status: PairStatus, now: float) -> dict[PairCondition, Reading]:
    standing = observation if observation.pair.status is status else _with_status(observation, status)
    failover = failover_possible(standing, now)
    found: dict[PairCondition, Reading] = {
        PairCondition.GPU_HEALTHY: _gpu_healthy(standing),
        PairCondition.SERVICE_HEALTHY: _service_healthy(standing),
        PairCondition.STANDBY_READY: _standby_ready(standing),
        PairCondition.SYNCED: _synced(standing, now),
        PairCondition.FAILOVER_POSSIBLE: _possible(failover),
        PairCondition.FAILBACK_POSSIBLE: _possible(failback_possible(standing, now)),
        PairCondition.FENCED: _fenced(standing, now),
        PairCondition.PROBER_HEALTHY: _prober(standing, now),
        PairCondition.PAUSED: _paused(standing),
    }
    found[PairCondition.READY] = _ready(standing, found, failover)
    return found


def _with_status(observation: PairObservation, status: PairStatus) -> PairObservation:
    return replace(observation, pair=observation.pair.model_copy(update={"status": status}))


def _possible(possibility: Possibility) -> Reading:
    return ("True" if possibility.possible else "False", possibility.reason, possibility.message)


def _gpu_healthy(observation: PairObservation) -> Reading:
    status, verdict = observation.pair.status, observation.verdict
    if status.gpu is None or not status.gpu.provider_id:
        for problem in observation.problems:
            return "False", problem.reason, problem.message
        replacement = next((r for r in observation.replacements), None)
        return "Unknown", "NoMachine", (replacement.status.message if replacement else "") or "no GPU machine yet"
    for problem in observation.problems:
        if problem.reason == "AnotherHostKey":
            return "False", problem.reason, problem.message
    match verdict.kind:
        case VerdictKind.ALIVE:
            return "True", verdict.reason, f"{status.gpu.provider_id} answers"
        case VerdictKind.GRAY:
            return "False", verdict.reason, f"the machine answers, its GPU does not: {' '.join(verdict.evidence)}"
        case VerdictKind.SUSPECT:
            return "Unknown", verdict.reason, "; ".join(verdict.evidence) or "a probe was missed; confirming"
        case VerdictKind.DEAD:
            return "False", verdict.reason, "; ".join(verdict.evidence)
        case VerdictKind.UNKNOWN:
            return "Unknown", verdict.reason, _unknown(verdict.reason)


def _unknown(reason: VerdictReason) -> str:
    match reason:
        case VerdictReason.NO_CANARY_ANSWERS:
            return "the GPU does not answer, but neither does any canary: our own way out may be cut; nothing is done"
        case VerdictReason.STANDBY_UNREACHABLE:
            return "the GPU does not answer and the standby neither: there is nowhere to go; nothing is done"
        case VerdictReason.PROBER_DISTRUSTED:
            return "the operator itself stood still a moment ago; its observations are not believed yet"
        case _:
            return "not probed yet"


def _service_healthy(observation: PairObservation) -> Reading:
    match observation.service:
        case ServiceView.FOREIGN:
            name = observation.pair.spec.service.name
            return (
                "False",
                "ServiceTaken",
                f"a Service {name} that is not this pair's is there already; it is left untouched: delete it, or make "
                "a pair with another spec.service.name",
            )
        case ServiceView.MISSING:
            return "Unknown", "ServiceMissing", "the Service is not made yet"
        case ServiceView.OURS:
            pass
    endpoint = observation.endpoint
    if endpoint is None or not endpoint.ready:
        return "False", "NoEndpoint", "no side is ready to answer"
    failed = observation.acts_failed.get("StartWorkload")
    if failed is not None:
        return (
            "False",
            "StartFailed",
            f"gpu.startCommand does not start on the GPU (tried again every few seconds): {failed}",
        )
    if observation.pair.status.active is Side.GPU and observation.service_answers is False:
        return "False", "PortSilent", "the workload's port on the GPU does not answer"
    return "True", "Answers", f"the Service points at the {endpoint.side}"


def _standby_ready(observation: PairObservation) -> Reading:
    sample = observation.standby
    for problem in observation.problems:
        if problem.reason.startswith("Standby"):
            return "False", problem.reason, problem.message
    if sample is None or not observation.standby_answers:
        last = f"; last answer {sample.detail}" if sample is not None and sample.detail else ""
        return "False", "Unreachable", f"the standby's agent does not answer{last}"
    if not sample.has_state:
        return "False", "Empty", "the standby's disk holds no record yet"
    possible = failover_possible(observation, sample.finished)
    if possible.reason in (FailoverReason.STATUS_OLDER_THAN_STANDBY, FailoverReason.STANDBY_OF_ANOTHER_PAIR):
        return "False", possible.reason, possible.message
    return "True", "Answers", f"epoch {sample.epoch}, active: {sample.active}"


def _synced(observation: PairObservation, now: float) -> Reading:
    pair, report = observation.pair, observation.report
    if pair.status.active is Side.STANDBY:
        return "False", "StandbyActive", "the standby is the active side; syncing starts again after failback"
    if report.held is not None and report.epoch == pair.status.epoch:
        held = report.held
        return (
            "False",
            held.reason,
            f"the GPU's {pair.spec.workspace.path} has {held.after} files where the copy has {held.before} "
            f"({held.missing} of them are gone); the copy is left as it is. If that is right: kubectl annotate gsp "
            f"{pair.metadata.name} {ANNOTATION_ACCEPT_SHRINK}={held.missing}",
        )
    age = standby_age(observation, now)
    if age is None:
        return "False", "NeverSynced", report.error or "no sync has completed yet"
    limit = max(STALE_CYCLES * pair.spec.sync.period_seconds + report.duration_seconds, STALE_FLOOR_SECONDS)
    if age > limit:
        return "False", "Stale", f"the copy is older than {limit:.0f} s: {report.error or 'cycles do not complete'}"
    return "True", "Completed", "cycles complete in time"


def _fenced(observation: PairObservation, now: float) -> Reading:
    status = observation.pair.status
    if status.active is not Side.STANDBY:
        return "True", "NothingToFence", "the GPU is the active side"
    if is_fenced(observation):
        return "True", "Confirmed", "the former active machine is stopped, gone, or its workload was stopped"
    if in_grace(observation, now):
        return "False", "GracePeriod", "nothing is stopped while the GPU may come back (recovery.graceSeconds)"
    if observation.pair.spec.gpu.vast is None:
        return (
            "False",
            "Unconfirmed",
            "the GPU machine cannot be reached to stop its workload, and no provider can stop it: make sure yourself "
            "that it is off. Its copy is refused by the standby in any case",
        )
    return "False", "Unconfirmed", "the provider was asked to stop the former machine and has not confirmed it"


def _prober(observation: PairObservation, now: float) -> Reading:
    prober = observation.prober
    if now < prober.distrusted_until:
        return "False", "Lagging", "the operator stood still; its observations are withheld for 30 s"
    if not prober_healthy(prober, now):
        canaries = ", ".join(prober.canaries)
        return "False", "NoCanaryAnswers", f"none of {canaries} answers: the operator's own network is in doubt"
    return "True", "Trusted", "canaries answer" if prober.canaries else "no canaries configured"


def _paused(observation: PairObservation) -> Reading:
    reason = paused(observation)
    if reason is None:
        return "False", "NotPaused", ""
    return "True", "Paused", reason or "paused without a reason"


def _ready(observation: PairObservation, found: dict[PairCondition, Reading], failover: Possibility) -> Reading:
    for kind in (
        PairCondition.SERVICE_HEALTHY,
        PairCondition.STANDBY_READY,
        PairCondition.GPU_HEALTHY,
        PairCondition.SYNCED,
        PairCondition.FENCED,
        PairCondition.PROBER_HEALTHY,
    ):
        value, reason, message = found[kind]
        if value != "True":
            return "False", reason, message
    if not failover.possible:
        return "False", failover.reason, failover.message
    return (
        "True",
        "Protected",
        failover.message.replace("would lose", "a failover would lose")
        and ("the copy is fresh and a failover would work"),
    )


def _phase(observation: PairObservation, status: PairStatus, now: float) -> Phase:
    standing = _with_status(observation, status)
    if observation.service is ServiceView.FOREIGN:
        return Phase.BLOCKED
    failover = failover_possible(standing, now)
    if failover.reason in _BLOCKING[:2] or (
        failover.reason == FailoverReason.TOO_OLD and observation.verdict.kind is VerdictKind.DEAD
    ):
        return Phase.BLOCKED
    move = status.move
    if move is not None:
        if move.to is Side.STANDBY or move.reason is MoveReason.PROMOTE_UNCONFIRMED:
            return Phase.FAILING_OVER
        return Phase.FAILING_BACK
    if paused(observation) is not None:
        return Phase.PAUSED
    if status.active is Side.STANDBY:
        return _phase_on_standby(observation, status)
    if status.gpu is None or not status.gpu.provider_id:
        return Phase.PENDING
    if standby_age(observation, now) is None:
        return Phase.SEEDING
    if observation.verdict.is_silent:
        return Phase.SUSPECT
    if failover.possible:
        return Phase.PROTECTED
    return Phase.PENDING if observation.standby is None else Phase.SEEDING


def _phase_on_standby(observation: PairObservation, status: PairStatus) -> Phase:
    current = status.gpu.replacement if status.gpu else ""
    for replacement in observation.replacements:
        if replacement.metadata.name == current or replacement.metadata.deletion_timestamp is not None:
            continue
        match replacement.status.phase:
            case ReplacementPhase.RESTORING | ReplacementPhase.VERIFYING | ReplacementPhase.READY:
                return Phase.RESTORING
            case ReplacementPhase.FAILED | ReplacementPhase.CALLED_OFF:
                continue
            case _:
                return Phase.REPLACING
    return Phase.ON_STANDBY


def _standbys(observation: PairObservation, status: PairStatus) -> list[StandbyStatus]:
    pair, sample = observation.pair, observation.standby
    if pair.spec.standby.existing is not None:
        host = pair.spec.standby.existing
        provider, address, port = f"ssh://{host.address}:{host.ssh_port}{host.path}", host.address, host.ssh_port
    else:
        provider, address, port = (
            pod_provider_id(standby_pod_name(pair.metadata.name)),
            observation.standby_address,
            2222,
        )
    old = status.standbys[0] if status.standbys else None
    if sample is None or not sample.has_state:
        if old is not None:
            return [old.model_copy(update={"address": address or old.address})]
        return [StandbyStatus(provider_id=provider, address=address, ssh_port=port)]
    return [
        StandbyStatus(
            provider_id=provider,
            address=address or (old.address if old else ""),
            ssh_port=port,
            epoch=sample.epoch,
            active=Side(sample.active) if sample.active else None,
            transfer_key=sample.transfer_key or (old.transfer_key if old else ""),
        )
    ]


def _gpu(observation: PairObservation, status: PairStatus) -> GpuStatus | None:
    """When it was last seen is written once it is not seen any more: while it answers it would be a heartbeat."""
    gpu = status.gpu
    if gpu is None or not observation.verdict.is_silent or not observation.last_sign_of_life:
        return gpu
    return gpu.model_copy(update={"last_seen_time": observation.last_sign_of_life})


def materially_differs(old: PairStatus, new: PairStatus) -> bool:
    """Does `new` say more than other words for the same thing? Ages in messages change with every look."""

    def bare(status: PairStatus) -> PairStatus:
        conditions = [c.model_copy(update={"message": "", "observed_generation": 0}) for c in status.conditions]
        return status.model_copy(update={"conditions": conditions})

    return bare(old) != bare(new)


_TURNING_POINTS: dict[Phase, EventLevel] = {
    Phase.PROTECTED: EventLevel.NORMAL,
    Phase.SUSPECT: EventLevel.WARNING,
    Phase.BLOCKED: EventLevel.WARNING,
    Phase.PAUSED: EventLevel.NORMAL,
}


def turning_points(old: PairStatus, new: PairStatus) -> tuple[Announce, ...]:
    """What a person who reads the events wants to know of a change of phase; moves tell of themselves."""
    if old.phase == new.phase or new.phase not in _TURNING_POINTS:
        return ()
    kind = PairCondition.GPU_HEALTHY if new.phase is Phase.SUSPECT else PairCondition.READY
    condition = find(new.conditions, kind)
    text = condition.message if condition is not None else ""
    return (Announce(new.phase.value, text, _TURNING_POINTS[new.phase]),)


def _sync(observation: PairObservation, status: PairStatus) -> SyncStatus | None:
    """From the mover's report, which comes at most once a minute: a status write per cycle would be a heartbeat."""
    report = observation.report
    if not report.completed_time:
        return status.sync
    return SyncStatus(
        last_completed_time=report.completed_time,
        covered_time=report.covered_time,
        duration_seconds=f"{report.duration_seconds:.2f}",
        files=report.files,
        bytes=report.bytes,
        manifest=report.manifest,
        consecutive_failures=report.consecutive_failures,
    )


HOST_KEY_REMEDY = (
    "another machine answers at the GPU's address with the host key {fingerprint}; nothing was sent to it. If it is "
    "yours: kubectl annotate gsp {pair} " + ANNOTATION_ACCEPT_HOST_KEY + "={fingerprint}"
)
