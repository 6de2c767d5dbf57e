"""What becomes of the machines of a GpuReplacement that is being deleted.

| the pair | the machine | |
|---|---|---|
| names this replacement in status.gpu (or moves to it) | any | wait for its last sync or its next move |
| certainly gone, or being deleted | any | destroy |
| lives | never became Ready | destroy |
| lives | had become Ready: it may hold what no sync has covered | collect first, then destroy |

Collect: while it can be reached, stop its workload and let the standby set aside what it has beyond the last sync.
While it can't: stop it at the provider (fence), start it once to be collected. What the pair's controller has collected
before counts too. After `recovery.keepOldSeconds` it is destroyed all the same: a stopped machine costs money, and the
user set that limit.
"""

from gpu_standby.api import names
from gpu_standby.api.conditions import ReplacementCondition
from gpu_standby.api.replacement import Attempt, OutcomeOfAttempt, ReplacementPhase
from gpu_standby.api.spec import Side
from gpu_standby.core.booting import address
from gpu_standby.core.draft import REPEAT_SECONDS, Draft
from gpu_standby.core.ending import LIVE, PROOF_LISTS, PROOF_SPACING_SECONDS, absent, destroy_strays, end, settle
from gpu_standby.core.market import Instance, InstanceState
from gpu_standby.core.rental import Collect, Plan, StartMachine, StopMachine

COLLECT_AGAIN_SECONDS = 10.0
POLL_SECONDS = 2.0


def release(draft: Draft) -> Plan:
    """One step; `Plan.released` once everything is proven gone."""
    draft.again(POLL_SECONDS)
    holder = _held_by_pair(draft)
    if holder:
        return draft.plan(waiting=holder)
    attempts = [a for a in draft.status.attempts if a.outcome in LIVE]
    retired = next((a for a in attempts if a.outcome is OutcomeOfAttempt.RENTED), None)
    if retired is not None and draft.is_true(ReplacementCondition.READY) and _pair_lives(draft):
        waiting = _retire(draft, retired)
        if waiting:
            return draft.plan(waiting=waiting)
    elif draft.status.phase not in (ReplacementPhase.CALLED_OFF, ReplacementPhase.FAILED):
        draft.phase(ReplacementPhase.CALLED_OFF, "deleted: its machines are being destroyed")
    still = [a.number for a in attempts if not end(draft, settle(draft, a))]
    if still or not _no_late_arrival(draft):
        return draft.plan(waiting=_what(draft, still))
    draft.update(message="every machine is proven gone")
    return draft.plan(released=True)


def _no_late_arrival(draft: Draft) -> bool:
    """Machines of attempts that were given up may have appeared since: two lists must show nothing of ours."""
    if not draft.status.attempts:
        return True
    if destroy_strays(draft):
        return False
    asked = draft.observation.replacement.metadata.deletion_timestamp or 0.0
    newest, before = draft.look_within(PROOF_SPACING_SECONDS), draft.memory.before
    return (
        newest is not None
        and before is not None
        and asked <= before.time <= newest.time - PROOF_SPACING_SECONDS
        and not any(draft.observation.ours(i) for i in before.instances)
    )


def _held_by_pair(draft: Draft) -> str:
    pair, name = draft.observation.pair, draft.observation.replacement.metadata.name
    if pair is None:
        return ""
    if pair.status.gpu is not None and pair.status.gpu.replacement == name:
        return "its machine is the pair's GPU: waiting for the pair's last sync or next move"
    if pair.status.move is not None and pair.status.move.replacement == name:
        return "the pair is moving to its machine"
    return ""


def _pair_lives(draft: Draft) -> bool:
    pair = draft.observation.pair
    return pair is not None and pair.metadata.deletion_timestamp is None


def _retire(draft: Draft, attempt: Attempt) -> str:
    """What is waited for before the machine may be destroyed; empty: nothing."""
    if draft.status.retired_time is None:
        draft.update(retired_time=draft.now)
        draft.announce("Retired", f"machine {attempt.contract} is not needed any more; collecting what only it has")
    retired = draft.status.retired_time if draft.status.retired_time is not None else draft.now
    if draft.status.collected_time is not None:
        return ""
    name = f"{draft.observation.replacement.metadata.name}-{attempt.contract}"
    if _collected_by_pair(draft, attempt):
        draft.update(collected_time=draft.now)
        return ""
    if draft.memory.collected == name:
        draft.update(collected_time=draft.now)
        draft.announce("Collected", f"machine {attempt.contract}: {draft.memory.collect_text}")
        return ""
    if draft.now >= retired + draft.pair.spec.recovery.keep_old_seconds:
        draft.announce(
            "KeptLongEnough",
            f"machine {attempt.contract} was never reached to be collected; keepOldSeconds has passed",
            warning=True,
        )
        # Recorded as collected at the end of its time, so that the decision outlives a restart.
        draft.update(collected_time=draft.now)
        return ""
    listed = draft.look_within(POLL_SECONDS)
    if listed is None:
        return f"looking for machine {attempt.contract}"
    machine = listed.by_contract(attempt.contract)
    if machine is None:
        attempt = absent(draft, attempt, listed, PROOF_SPACING_SECONDS)
        if attempt.absent_lists >= PROOF_LISTS:
            draft.update(collected_time=draft.now)
            draft.announce("Gone", f"machine {attempt.contract} is gone; nothing could be collected", warning=True)
            return ""
        return f"machine {attempt.contract} is not listed; looking again"
    if attempt.absent_lists:
        draft.change(attempt, absent_lists=0, last_list_time=None)
    return _collect(draft, machine, name)


def _collected_by_pair(draft: Draft, attempt: Attempt) -> bool:
    """The pair's controller collects a machine that comes back while the standby is active. Only a collection since
    the standby last took over counts: the machine may have served again after an earlier one."""
    status = draft.pair.status
    took_over = max((entry.epoch for entry in status.history if entry.to is Side.STANDBY), default=0)
    machine = "".join(c if c.isalnum() else "-" for c in names.vast_provider_id(attempt.contract))
    return took_over > 0 and any(
        kept.name == f"epoch-{epoch}-{machine}"
        for kept in status.set_aside
        for epoch in range(took_over, status.epoch + 1)
    )


def _collect(draft: Draft, machine: Instance, name: str) -> str:
    if machine.state is InstanceState.RUNNING and machine.address and machine.ssh_port is not None:
        draft.relocate(machine)
        tried = draft.memory.collect_tried
        if not tried or draft.now >= tried + COLLECT_AGAIN_SECONDS:
            draft.intend(Collect(address(draft), name))
            return f"collecting machine {machine.contract}"
        draft.again(tried + COLLECT_AGAIN_SECONDS - draft.now)
        _fence(draft, machine, after_start=draft.status.started_to_collect_time is not None)
        return f"machine {machine.contract} cannot be collected: {draft.memory.collect_text}"
    if machine.state is InstanceState.STOPPED:
        if draft.status.fenced_time is None:
            draft.update(fenced_time=draft.now)
            draft.announce("Fenced", f"machine {machine.contract} is stopped")
        if draft.status.started_to_collect_time is None:
            draft.update(started_to_collect_time=draft.now)
            draft.announce("StartedToCollect", f"machine {machine.contract} is started once to be collected")
        started = draft.status.started_to_collect_time or draft.now
        if draft.now < started + draft.pair.spec.recovery.boot_timeout_seconds:
            if not machine.intended_running and _may_command(draft, machine):
                draft.intend(StartMachine(machine.contract))
            return f"machine {machine.contract} is started once to be collected"
        draft.again(30.0)
        return f"machine {machine.contract} is stopped and was not reached; kept until keepOldSeconds has passed"
    _fence(draft, machine, after_start=True)
    return f"machine {machine.contract} is {machine.state.value}; waiting to collect it"


def _fence(draft: Draft, machine: Instance, *, after_start: bool) -> None:
    """Stop what can't be reached: at once the first time, and after the boot time-out when it was started again."""
    started = draft.status.started_to_collect_time
    if after_start and started is not None:
        if draft.now < started + draft.pair.spec.recovery.boot_timeout_seconds:
            return
    elif draft.status.fenced_time is not None:
        return
    if machine.intended_running and _may_command(draft, machine):
        draft.intend(StopMachine(machine.contract))


def _may_command(draft: Draft, machine: Instance) -> bool:
    sent = draft.memory.states_sent.get(machine.contract)
    return (sent is None or draft.now >= sent + REPEAT_SECONDS) and draft.provider_ready


def _what(draft: Draft, still: list[int]) -> str:
    trouble = draft.memory.trouble
    if trouble is not None:
        return f"{trouble.kind.value}: {trouble.text}; its machines may still cost money"
    if still:
        contracts = [str(a.contract) for a in draft.status.attempts if a.number in still and a.contract]
        if contracts:
            return f"waiting for proof that machine {', '.join(contracts)} is gone"
        return "a create's answer was lost: waiting for three complete lists without its label"
    return "waiting for two complete lists without any machine of its label"
