"""The pair's plan: what to write and what to do now, from everything observed. Pure.

`plan` never waits and never acts; the shell writes `status` (guarded), does the acts in order, tells `after` how each
one ended, and asks again. Killed anywhere, it asks again from what the API says.
"""

from base64 import b64decode, b64encode
from hashlib import sha256

from gpu_standby.api import names
from gpu_standby.api.pair import MAX_SET_ASIDE, GpuStatus, MoveReason, MoveStep, PairStatus, SetAside
from gpu_standby.api.replacement import GpuReplacement, ReplacementPhase, Why
from gpu_standby.api.spec import FailbackMode, FailoverMode, RecoveryMode, Side
from gpu_standby.core import acts, moves
from gpu_standby.core.failover import (
    FailoverReason,
    failback_possible,
    failover_possible,
    paused,
    standby_age,
)
from gpu_standby.core.market import InstanceState
from gpu_standby.core.moving import Plan, continue_move, gpu_of
from gpu_standby.core.observation import PairObservation, ServiceView
from gpu_standby.core.verdict import VerdictKind

REPLACEMENT_BACKOFF_SECONDS = 60.0
REPLACEMENT_BACKOFF_MAX_SECONDS = 900.0


def plan(observation: PairObservation, now: float) -> Plan:
    status = observation.pair.status
    if observation.service is ServiceView.FOREIGN:
        return Plan(status)
    if status.active is None:
        return Plan(status.model_copy(update={"active": Side.GPU, "epoch": max(1, status.epoch)}))
    if _status_is_older_than_disk(observation):
        return Plan(status)
    if (told := _take_commands(observation)) is not None:
        return told
    if (gpu := _relocated(observation)) is not None:
        return Plan(status.model_copy(update={"gpu": gpu}))
    if status.move is not None:
        return continue_move(observation, status.move, now)
    if status.active is Side.GPU:
        return _on_gpu(observation, now)
    return _on_standby(observation, now)


def _status_is_older_than_disk(observation: PairObservation) -> bool:
    """I2: such a pair is Blocked; nothing is seeded over the newer copy."""
    sample = observation.standby
    return (
        sample is not None
        and sample.has_state
        and (sample.pair_uid != observation.pair.metadata.uid or sample.epoch > observation.pair.status.epoch)
    )


def _relocated(observation: PairObservation) -> GpuStatus | None:
    """The pair's machine at its new place. Only the place is compared: what else is said of it changes with time."""
    gpu, found = observation.pair.status.gpu, observation.relocated
    if gpu is None or found is None or found.provider_id != gpu.provider_id:
        return None
    place = {"address": found.address, "ssh_port": found.ssh_port, "ports": found.ports}
    moved = gpu.model_copy(update=place)
    return moved if moved != gpu else None


def _take_commands(observation: PairObservation) -> Plan | None:
    """Annotations that only change the status; those that begin a move are read where the move is decided."""
    status, annotations = observation.pair.status, observation.pair.metadata.annotations
    shrink = annotations.get(names.ANNOTATION_ACCEPT_SHRINK)
    if shrink is not None:
        consume = acts.Consume(names.ANNOTATION_ACCEPT_SHRINK)
        if not shrink.isdecimal():
            text = f"accept-shrink must be the number of files that may be gone, not {shrink!r:.40}"
            return Plan(status, (consume, acts.Announce("BadCommand", text, acts.EventLevel.WARNING)))
        text = f"the copy may lose up to {shrink} files in the next cycle"
        accepted = status.model_copy(update={"accepted_shrink": int(shrink)})
        return Plan(accepted, (consume, acts.Announce("ShrinkAccepted", text)))
    if status.accepted_shrink is not None and observation.report.held is None:
        return Plan(status.model_copy(update={"accepted_shrink": None}))
    key = annotations.get(names.ANNOTATION_ACCEPT_HOST_KEY)
    if key is not None and status.gpu is not None:
        consume = acts.Consume(names.ANNOTATION_ACCEPT_HOST_KEY)
        presented = observation.presented_key
        if not presented or fingerprint(presented) != key.strip():
            text = f"no machine at the GPU's address presents the host key {key:.60}"
            return Plan(status, (consume, acts.Announce("BadCommand", text, acts.EventLevel.WARNING)))
        gpu = status.gpu.model_copy(update={"host_key": presented})
        return Plan(status.model_copy(update={"gpu": gpu}), (consume, acts.Announce("HostKeyAccepted", key)))
    return None


def fingerprint(public_key: str) -> str:
    """SHA256:… of an OpenSSH public key line, as ssh-keygen -l prints it."""
    blob = b64decode(public_key.split()[1])
    return "SHA256:" + b64encode(sha256(blob).digest()).decode().rstrip("=")


# --- the GPU is active --------------------------------------------------------------------------------------


def _on_gpu(observation: PairObservation, now: float) -> Plan:
    status = observation.pair.status
    todo: list[acts.Act] = []
    sample = observation.standby
    if sample is not None and observation.standby_answers:
        if not sample.has_state:
            todo.append(acts.InitStandby(status.epoch))
        elif sample.epoch < status.epoch:
            todo.append(acts.Demote(status.epoch))
    begun = _maybe_leave_gpu(observation, now)
    if begun is not None:
        return begun
    if status.gpu is None or not status.gpu.provider_id:
        return _first_gpu(observation, status, todo, now)
    todo += _slice_acts(observation, Side.GPU, ready=True)
    todo += [
        acts.DropReplacement(r.metadata.name, "superseded")
        for r in observation.replacements
        if r.metadata.name != status.gpu.replacement
        and r.metadata.deletion_timestamp is None
        and r.spec.why is not Why.PLANNED
        and (status.gpu.replacement or r.status.phase is not ReplacementPhase.FAILED)
    ]
    if observation.gpu_alive and observation.pair.spec.gpu.start_command and observation.target_running is False:
        todo.append(acts.StartWorkload())
    return Plan(status, tuple(todo))


def _first_gpu(observation: PairObservation, status: PairStatus, todo: list[acts.Act], now: float) -> Plan:
    ready = observation.ready_replacement()
    if ready is not None:
        text = f"{ready.status.provider_id} ({ready.status.offer_name}, {ready.status.price_per_hour} $/h) is the GPU"
        return Plan(status.model_copy(update={"gpu": gpu_of(ready)}), (*todo, acts.Announce("GpuReady", text)))
    spec = observation.pair.spec.gpu
    if spec.existing is not None:
        host = spec.existing
        gpu = GpuStatus(
            provider_id=names.ssh_provider_id(host.address, host.ssh_port),
            address=host.address,
            ssh_port=host.ssh_port,
            user=host.user,
            host_key=host.host_key,
        )
        text = f"{gpu.provider_id} is the GPU"
        return Plan(status.model_copy(update={"gpu": gpu}), (*todo, acts.Announce("GpuReady", text)))
    if observation.adopted is not None:
        text = f"{observation.adopted.provider_id} is adopted as the GPU; it will never be destroyed"
        return Plan(status.model_copy(update={"gpu": observation.adopted}), (*todo, acts.Announce("GpuAdopted", text)))
    if spec.vast is not None and spec.vast.instance_id is None and paused(observation) is None:
        todo += _replace(observation, Why.INITIAL, now)
    return Plan(status, tuple(todo))


def _maybe_leave_gpu(observation: PairObservation, now: float) -> Plan | None:
    pair = observation.pair
    command = pair.metadata.annotations.get(names.ANNOTATION_FAILOVER)
    possible = failover_possible(observation, now)
    age = standby_age(observation, now)
    accepted = _accepted_loss(command)
    allowed = possible.possible or (
        possible.reason == FailoverReason.TOO_OLD and accepted is not None and age is not None and age <= accepted
    )
    if not allowed:
        return None
    verdict = observation.verdict
    consume = (acts.Consume(names.ANNOTATION_FAILOVER),) if command is not None else ()
    if verdict.kind is VerdictKind.DEAD and (command is not None or pair.spec.failover.mode is FailoverMode.AUTOMATIC):
        begun = moves.begin(pair.status, Side.STANDBY, MoveReason.GPU_LOST, now, verdict=verdict, standby_age=age)
        announced = acts.Announce(
            "FailingOver",
            f"GPU lost ({verdict.reason}); moving to the standby at epoch {begun.epoch}, its copy {age or 0:.0f} s old",
            acts.EventLevel.WARNING,
        )
        return Plan(begun, (*consume, announced))
    if command is not None and observation.gpu_alive:
        begun = moves.begin(pair.status, Side.STANDBY, MoveReason.REQUESTED, now, standby_age=0.0)
        return Plan(begun, (*consume, acts.Announce("Draining", "failover asked for; moving without loss")))
    return None


def _accepted_loss(command: str | None) -> float | None:
    if command is None or not command.startswith("accept-loss="):
        return None
    value = command.removeprefix("accept-loss=").strip()
    return float(value) if value.isdecimal() else None


# --- the standby is active ----------------------------------------------------------------------------------


def collection_name(status: PairStatus) -> str:
    """One collection for each epoch in which the standby is active and each machine that may return to it."""
    machine = status.gpu.provider_id if status.gpu else "unknown"
    return f"epoch-{status.epoch}-" + "".join(c if c.isalnum() else "-" for c in machine).strip("-")


def is_collected(status: PairStatus) -> bool:
    name = collection_name(status)
    return any(kept.name == name for kept in status.set_aside)


def _on_standby(observation: PairObservation, now: float) -> Plan:
    pair, status = observation.pair, observation.pair.status
    todo: list[acts.Act] = []
    sample = observation.standby
    gate_runs = sample is not None and sample.gate.startswith("running")
    if observation.standby_answers and observation.standby_sample_is_ours and not gate_runs:
        todo.append(acts.ResumeStandby(status.epoch))
    todo += _slice_acts(observation, Side.STANDBY, ready=observation.standby_running and observation.standby_answers)

    asked = pair.metadata.annotations.get(names.ANNOTATION_FAILBACK) is not None
    possible = failback_possible(observation, now)
    may = asked and possible.reason in ("StartFailed", "GivenUp", "Manual", "Possible")
    may = may or (possible.possible and pair.spec.recovery.failback is FailbackMode.AUTOMATIC)
    ready = observation.ready_replacement()
    consume = (acts.Consume(names.ANNOTATION_FAILBACK),) if asked else ()
    if may and ready is not None:
        begun = moves.begin(status, Side.GPU, MoveReason.REPLACEMENT_READY, now, replacement=ready.metadata.name)
        text = f"{ready.metadata.name} is restored and verified; moving back to the GPU"
        return Plan(begun, (*todo, *consume, acts.Announce("FailingBack", text)))
    if observation.gpu_alive and not is_collected(status):
        return Plan(status, (*todo, acts.StopWorkload(Side.GPU, status.epoch), acts.Collect(collection_name(status))))
    if may and observation.gpu_alive and is_collected(status):
        begun = moves.begin(status, Side.GPU, MoveReason.GPU_RETURNED, now)
        todo += [acts.DropReplacement(r.metadata.name, "the old GPU came back") for r in _in_flight(observation)]
        announced = acts.Announce("FailingBack", "the GPU came back and was collected; moving back to it")
        return Plan(begun, (*todo, *consume, announced))
    if paused(observation) is None and not observation.gpu_alive:
        todo += _recover(observation, now)
    return Plan(status, tuple(todo))


def in_grace(observation: PairObservation, now: float) -> bool:
    last = observation.pair.status.last_failover
    flipped = last.flipped_time if last is not None else None
    return flipped is not None and now - flipped < observation.pair.spec.recovery.grace_seconds


def _recover(observation: PairObservation, now: float) -> list[acts.Act]:
    """After the grace: fence the old machine and rent another."""
    pair = observation.pair
    if pair.spec.gpu.vast is None or in_grace(observation, now):
        return []
    todo: list[acts.Act] = []
    if pair.status.gpu is not None and not is_fenced(observation):
        todo.append(acts.StopMachine(pair.status.gpu.provider_id))
    if pair.spec.recovery.mode is not RecoveryMode.OFF:
        todo += _replace(observation, Why.GPU_LOST, now)
    return todo


def is_fenced(observation: PairObservation) -> bool:
    """Is it confirmed that the former active machine can harm nothing?"""
    if observation.pair.status.active is not Side.STANDBY:
        return True
    return (
        observation.fence_state is InstanceState.STOPPED
        or observation.fence_absent
        or (observation.gpu_alive and is_collected(observation.pair.status))
    )


def _in_flight(observation: PairObservation) -> list[GpuReplacement]:
    current = observation.pair.status.gpu.replacement if observation.pair.status.gpu else ""
    return [
        r
        for r in observation.replacements
        if r.metadata.name != current and r.metadata.deletion_timestamp is None and r.spec.why is not Why.PLANNED
    ]


def _replace(observation: PairObservation, why: Why, now: float) -> list[acts.Act]:
    """At most one in flight for the pair (I6); after a failed one the next waits longer each time."""
    status = observation.pair.status
    tries = [r for r in _in_flight(observation) if r.spec.why is why and r.spec.epoch == status.epoch]
    if any(r.status.phase is not ReplacementPhase.FAILED for r in tries):
        return []
    if tries:
        wait = min(REPLACEMENT_BACKOFF_SECONDS * 2 ** (len(tries) - 1), REPLACEMENT_BACKOFF_MAX_SECONDS)
        ended = (
            max(c.last_transition_time for r in tries for c in r.status.conditions)
            if any(r.status.conditions for r in tries)
            else now
        )
        if now - ended < wait:
            return []
    approval = why is not Why.INITIAL and observation.pair.spec.recovery.mode is RecoveryMode.APPROVE
    text = f"a GPU machine is to be rented ({why}, try {len(tries) + 1})"
    return [
        acts.Announce("Replacing", text),
        acts.Replace(why, status.epoch, len(tries), require_approval=approval),
    ]


def _slice_acts(observation: PairObservation, side: Side, *, ready: bool) -> list[acts.Act]:
    """Keep the slice on the active side: same epoch, the address and readiness of now."""
    status, endpoint = observation.pair.status, observation.endpoint
    wanted = (
        (observation.gpu_machine.host if observation.gpu_machine else "")
        if side is Side.GPU
        else observation.standby_address
    )
    if not wanted:
        ready = False
    if endpoint is not None and endpoint.epoch > status.epoch:
        return []
    if endpoint is None or endpoint.side is not side or endpoint.ready != ready or endpoint.epoch != status.epoch:
        return [acts.Flip(side, status.epoch, ready)]
    if ready and (endpoint.address != wanted or endpoint.ports != wanted_ports(observation, side)):
        return [acts.Flip(side, status.epoch, ready)]
    return []


def wanted_ports(observation: PairObservation, side: Side) -> tuple[tuple[str, int], ...]:
    """(port name, the number it is reached by on that side)."""
    machine = observation.gpu_machine
    return tuple(
        (
            port.name,
            port.standby_port
            if side is Side.STANDBY
            else (machine.outside_port(port.gpu_port) if machine else port.gpu_port),
        )
        for port in observation.pair.spec.service.ports
    )


def after(status: PairStatus, act: acts.Act, now: float, result: dict[str, object]) -> PairStatus:
    """What the success of an act changes in the status. Acts that change nothing there return it as it is."""
    move = status.move
    if move is not None:
        match act, move.step:
            case (
                (acts.Promote(), MoveStep.PROMOTE)
                | (acts.Demote(), MoveStep.DEMOTE)
                | (acts.Quiesce(), MoveStep.QUIESCE)
                | (acts.StopWorkload(), MoveStep.STOP)
                | (acts.Flip(), MoveStep.FLIP)
            ):
                return moves.advance(status, now)
            case _:
                return status
    if isinstance(act, acts.Collect):
        kept = SetAside(
            name=act.name, time=now, files=int(str(result.get("files", 0))), bytes=int(str(result.get("bytes", 0)))
        )
        others = [old for old in status.set_aside if old.name != act.name]
        return status.model_copy(update={"set_aside": [*others, kept][-MAX_SET_ASIDE:]})
    return status
