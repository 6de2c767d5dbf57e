"""A move in flight: what to do for its present step, and when the next may be entered. Pure."""

from dataclasses import dataclass

from gpu_standby.api.pair import GpuStatus, Move, MoveStep, PairStatus
from gpu_standby.api.replacement import GpuReplacement
from gpu_standby.api.spec import Side
from gpu_standby.core import acts, moves
from gpu_standby.core.acts import Act
from gpu_standby.core.observation import PairObservation

TAKE_UP_SECONDS = 60.0
"""While nobody serves, a conductor that is not there is waited for no longer."""


@dataclass(frozen=True)
class Plan:
    status: PairStatus
    acts: tuple[Act, ...] = ()


def request_id(move: Move) -> str:
    return f"move-{move.epoch}-{move.step}".lower()


def continue_move(observation: PairObservation, move: Move, now: float) -> Plan:
    status = observation.pair.status
    failed = observation.acts_failed
    if moves.step_overdue(move, now) or (observation.dead_target and _may_turn_back(move)):
        reason = "; ".join(failed.values()) or f"{move.step} was not done in time"
        turned = moves.give_up(status, reason, now)
        if turned != status:
            text = f"{move.step} towards {move.to} was given up: {reason}"
            return Plan(turned, (acts.Announce("MoveGivenUp", text, acts.EventLevel.WARNING),))
    from_side = Side.GPU if move.to is Side.STANDBY else Side.STANDBY
    match move.step:
        case MoveStep.QUIESCE:
            return Plan(status, (acts.Quiesce(from_side),))
        case MoveStep.STOP:
            return Plan(status, (acts.StopWorkload(from_side, status.epoch),))
        case MoveStep.DELTA:
            return _delta(observation, move, now)
        case MoveStep.VERIFY:
            return _verify(observation, move, now)
        case MoveStep.PROMOTE:
            return Plan(status, (acts.Promote(move.epoch),))
        case MoveStep.DEMOTE:
            return Plan(status, (acts.Demote(move.epoch),))
        case MoveStep.START:
            runs = observation.target_running or observation.pair.spec.gpu.start_command is None
            if runs and observation.target_answers is not False:
                return Plan(moves.advance(status, now))
            return Plan(status, (acts.StartWorkload(),))
        case MoveStep.FLIP:
            return Plan(status, (acts.Flip(move.to, move.epoch),))


def _may_turn_back(move: Move) -> bool:
    return move.to is Side.GPU and move.step in (MoveStep.QUIESCE, MoveStep.STOP, MoveStep.DELTA, MoveStep.VERIFY)


def _delta(observation: PairObservation, move: Move, now: float) -> Plan:
    status, report = observation.pair.status, observation.report
    if move.to is Side.STANDBY:
        request = request_id(move)
        if report.cycle_answered == request:
            if report.cycle_completed:
                return Plan(moves.advance(status, now))
            return Plan(moves.give_up(status, f"the last cycle failed: {report.error}", now))
        return Plan(status, (acts.RequestCycle(request),))
    request = request_id(move)
    if report.restore_id == request and report.restore_state == "Done":
        return Plan(moves.advance(status, now))
    if report.restore_id == request and report.restore_state == "Failed":
        return Plan(moves.give_up(status, f"the final delta failed: {report.restore_error}", now))
    if report.restore_id != request and now - move.step_time > TAKE_UP_SECONDS:
        return Plan(moves.give_up(status, "the sync Job's pod does not take up the final delta", now))
    return Plan(status, (acts.RequestRestore(request),))


def _verify(observation: PairObservation, move: Move, now: float) -> Plan:
    """I8: the mover's Done means that every file's hash was computed on the GPU and equals the manifest."""
    status, report = observation.pair.status, observation.report
    if report.restore_id != f"move-{move.epoch}-delta" or not report.restore_manifest:
        return Plan(moves.give_up(status, "no verified manifest was reported", now))
    return Plan(moves.advance(status, now, gpu=target_gpu(observation, move)))


def target_gpu(observation: PairObservation, move: Move) -> GpuStatus | None:
    replacement = observation.replacement(move.replacement)
    return gpu_of(replacement) if replacement is not None else observation.pair.status.gpu


def gpu_of(replacement: GpuReplacement) -> GpuStatus:
    rented = replacement.status
    return GpuStatus(
        provider_id=rented.provider_id,
        address=rented.address,
        ssh_port=rented.ssh_port,
        ports=rented.ports,
        host_key=rented.host_key,
        gpu_name=rented.gpu_name,
        price_per_hour=rented.price_per_hour,
        replacement=replacement.metadata.name,
    )
