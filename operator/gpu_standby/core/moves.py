"""The moves of the active side, step by step. `status.move` is written before each step, so a restart goes on.

A move is a list of steps, chosen by where it goes and why. The epoch is raised by the very write that enters the
step which makes the change irrevocable on the standby's disk: Promote or Demote.

  failover   Promote, Flip                                          the GPU is lost
  drain      Quiesce, Stop, Delta, Promote, Flip                    the GPU answers: nothing is lost
  failback   Quiesce, Stop, Delta, Verify, Demote, Start, Flip      to a GPU whose tree was proven equal
  undo       Demote                                                 a promotion was not confirmed
  retreat    Stop, Promote, Flip                                    the GPU did not answer after Start
"""

from gpu_standby.api.pair import (
    MAX_EVIDENCE,
    MAX_HISTORY,
    GivenUp,
    GpuStatus,
    HistoryEntry,
    LastFailover,
    Move,
    MoveReason,
    MoveStep,
    PairStatus,
)
from gpu_standby.api.spec import Side
from gpu_standby.core.verdict import Verdict

PROMOTE_LIMIT_SECONDS = 10.0
"""Design, part 6: not confirmed for so long, a lost answer may hide a success."""
STEP_LIMITS_SECONDS: dict[MoveStep, float] = {
    MoveStep.QUIESCE: 60.0,
    MoveStep.STOP: 660.0,
    MoveStep.DELTA: 900.0,
    MoveStep.VERIFY: 60.0,
    MoveStep.PROMOTE: PROMOTE_LIMIT_SECONDS,
    MoveStep.DEMOTE: 120.0,
    MoveStep.START: 60.0,
    MoveStep.FLIP: 3600.0,
}
"""I12. After Quiesce's limit the move goes on without it; after the others' it is given up where it still can be."""

_FAILOVER = (MoveStep.PROMOTE, MoveStep.FLIP)
_DRAIN = (MoveStep.QUIESCE, MoveStep.STOP, MoveStep.DELTA, *_FAILOVER)
_FAILBACK = (
    MoveStep.QUIESCE,
    MoveStep.STOP,
    MoveStep.DELTA,
    MoveStep.VERIFY,
    MoveStep.DEMOTE,
    MoveStep.START,
    MoveStep.FLIP,
)
_UNDO = (MoveStep.DEMOTE,)
_RETREAT = (MoveStep.STOP, *_FAILOVER)


def steps(to: Side, reason: MoveReason) -> tuple[MoveStep, ...]:
    match reason:
        case MoveReason.GPU_LOST:
            return _FAILOVER
        case MoveReason.GPU_SICK:
            return _DRAIN
        case MoveReason.REQUESTED:
            return _DRAIN if to is Side.STANDBY else _FAILBACK
        case MoveReason.PROMOTE_UNCONFIRMED:
            return _UNDO
        case MoveReason.GPU_RETURNED | MoveReason.REPLACEMENT_READY | MoveReason.PLANNED_REPLACEMENT:
            return _FAILBACK
        case MoveReason.START_FAILED:
            return _RETREAT


def begin(
    status: PairStatus,
    to: Side,
    reason: MoveReason,
    now: float,
    *,
    verdict: Verdict | None = None,
    replacement: str | None = None,
    standby_age: float | None = None,
) -> PairStatus:
    """The first write of a move. A failover enters Promote at once, so its epoch rises here."""
    first = steps(to, reason)[0]
    silent_since = verdict.since if verdict is not None and verdict.is_silent else None
    move = Move(
        to=to,
        epoch=status.epoch + 1,
        step=first,
        reason=reason,
        started_time=now,
        step_time=now,
        replacement=replacement,
        suspected_time=silent_since,
        decided_time=now,
    )
    update: dict[str, object] = {"move": move, "epoch": _epoch_on_entering(status, move)}
    if to is Side.STANDBY:
        update["last_failover"] = LastFailover(
            suspected_time=silent_since,
            decided_time=now,
            reason=reason,
            evidence=list(verdict.evidence[:MAX_EVIDENCE]) if verdict is not None else [],
            standby_age_seconds=round(standby_age) if standby_age is not None else None,
        )
    return status.model_copy(update=update)


def _epoch_on_entering(status: PairStatus, move: Move) -> int:
    raises = move.step in (MoveStep.PROMOTE, MoveStep.DEMOTE)
    return max(status.epoch, move.epoch) if raises else status.epoch


def next_step(move: Move) -> MoveStep | None:
    order = steps(move.to, move.reason)
    index = order.index(move.step) + 1
    return order[index] if index < len(order) else None


def advance(status: PairStatus, now: float, *, gpu: GpuStatus | None = None) -> PairStatus:
    """After a step was confirmed: enter the next one, or end the move.

    `gpu` is the machine that is being moved to; it becomes the pair's with the epoch that makes it so, in one write.
    """
    move = status.move
    if move is None:
        return status
    step = next_step(move)
    if step is None:
        return finish(status, now)
    entered = move.model_copy(update={"step": step, "step_time": now})
    update: dict[str, object] = {"move": entered, "epoch": _epoch_on_entering(status, entered)}
    if step is MoveStep.DEMOTE and gpu is not None:
        update["gpu"] = gpu
    return status.model_copy(update=update)


def finish(status: PairStatus, now: float) -> PairStatus:
    move = status.move
    if move is None:
        return status
    entry = HistoryEntry(epoch=status.epoch, to=move.to, reason=move.reason, time=now)
    last = status.last_failover
    if last is not None and move.reason is not MoveReason.PROMOTE_UNCONFIRMED:
        key = "flipped_time" if move.to is Side.STANDBY else "recovered_time"
        last = last.model_copy(update={key: now})
    return status.model_copy(
        update={
            "move": None,
            "given_up": None,
            "active": move.to,
            "history": [*status.history, entry][-MAX_HISTORY:],
            "last_failover": last,
        }
    )


def give_up(status: PairStatus, reason: str, now: float) -> PairStatus:
    """What follows when a step cannot be done within its limit."""
    move = status.move
    if move is None:
        return status
    match move.step:
        case MoveStep.PROMOTE:
            return _turn(status, Side.GPU, MoveReason.PROMOTE_UNCONFIRMED, now)
        case MoveStep.QUIESCE:
            return advance(status, now)
        case MoveStep.STOP | MoveStep.DELTA | MoveStep.VERIFY:
            # A retreat's Stop must not hold up the standby: the epoch fences what was not stopped.
            if move.reason is MoveReason.START_FAILED:
                return advance(status, now)
            given_up = GivenUp(step=move.step, reason=reason[:256], time=now)
            return status.model_copy(update={"move": None, "given_up": given_up})
        case MoveStep.START:
            return _turn(status, Side.STANDBY, MoveReason.START_FAILED, now)
        case MoveStep.DEMOTE | MoveStep.FLIP:
            # Past the point of no return: keep trying, with the condition saying so.
            return status


def _turn(status: PairStatus, to: Side, reason: MoveReason, now: float) -> PairStatus:
    """A move that cannot be completed becomes another, under a further epoch."""
    old = status.move
    turned = begin(status.model_copy(update={"move": None}), to, reason, now)
    if old is None or turned.move is None:
        return turned
    move = turned.move.model_copy(update={"replacement": old.replacement})
    return turned.model_copy(update={"move": move, "last_failover": status.last_failover})


def step_overdue(move: Move, now: float) -> bool:
    return now - move.step_time > STEP_LIMITS_SECONDS[move.step]
