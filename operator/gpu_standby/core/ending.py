"""The end of machines: asked for until it is proven (I7), and strays found by their label alone (I5).

Proof is two complete lists, with a key that works, a few seconds apart, that do not show the machine: one list may
have been read while a destroy was still under way, and machines have come back after one destroy. Where nobody knows
whether there is a machine at all (a lost answer), it takes three over a minute: what was created is listed late.
"""

from gpu_standby.api.replacement import Attempt, OutcomeOfAttempt
from gpu_standby.core.draft import REPEAT_SECONDS, Draft
from gpu_standby.core.market import InstanceList, InstanceState
from gpu_standby.core.rental import CreateKind

PROOF_LISTS = 2
PROOF_SPACING_SECONDS = 2.0
LOST_LISTS = 3
LOST_SPACING_SECONDS = 30.0
LAG_SECONDS = 60.0
"""A machine just created may be missing from lists for a while."""
LIVE = (OutcomeOfAttempt.PLANNED, OutcomeOfAttempt.UNKNOWN, OutcomeOfAttempt.RENTED, OutcomeOfAttempt.FAILED)


def end(draft: Draft, attempt: Attempt) -> bool:
    """Destroy the machine of `attempt`; True once it is proven gone (and recorded)."""
    if attempt.outcome not in LIVE:
        return True
    if attempt.destroy_time is None:
        attempt = draft.change(attempt, destroy_time=draft.now, absent_lists=0, last_list_time=None)
        if attempt.contract:
            # At once: the list that proves it is needed afterwards anyway.
            draft.destroy(attempt.contract)
    asked = attempt.destroy_time if attempt.destroy_time is not None else draft.now
    listed = draft.look(asked)
    if listed is None:
        return False
    shown = [i for i in listed.instances if i.contract == attempt.contract or i in listed.by_label(attempt.label)]
    if shown:
        if attempt.absent_lists:
            draft.change(attempt, absent_lists=0, last_list_time=None)
        for instance in shown:
            draft.destroy(instance.contract)
        draft.look_within(PROOF_SPACING_SECONDS)
        return False
    known = attempt.contract != 0
    if known and attempt.contract not in draft.memory.seen and listed.time < attempt.started_time + LAG_SECONDS:
        draft.destroy(attempt.contract)
        draft.look_within(REPEAT_SECONDS)
        return False
    attempt = absent(draft, attempt, listed, PROOF_SPACING_SECONDS if known else LOST_SPACING_SECONDS)
    if attempt.absent_lists >= (PROOF_LISTS if known else LOST_LISTS):
        draft.change(attempt, outcome=OutcomeOfAttempt.DESTROYED)
        if known:
            draft.announce("MachineDestroyed", f"machine {attempt.contract} is gone: two complete lists do not show it")
        draft.again(0.0)
        return True
    draft.look_within(PROOF_SPACING_SECONDS)
    return False


def settle(draft: Draft, attempt: Attempt) -> Attempt:
    """Before an end: what this process knows about an intent whose outcome is not written yet."""
    if attempt.outcome is not OutcomeOfAttempt.PLANNED:
        return attempt
    result = draft.memory.creates.get(attempt.number)
    if result is None:
        never_sent = attempt.number in draft.memory.planned_here
        return draft.change(attempt, outcome=OutcomeOfAttempt.REFUSED, reason="CalledOff") if never_sent else attempt
    match result.kind:
        case CreateKind.CREATED | CreateKind.LEFT_BEHIND:
            return draft.change(attempt, contract=result.contract)
        case CreateKind.OFFER_GONE | CreateKind.REFUSED | CreateKind.POSTPONED:
            return draft.change(attempt, outcome=OutcomeOfAttempt.REFUSED, reason="CalledOff")
        case CreateKind.LOST:
            return draft.change(attempt, outcome=OutcomeOfAttempt.UNKNOWN)


def absent(draft: Draft, attempt: Attempt, listed: InstanceList, spacing: float) -> Attempt:
    """Count a list that does not show the attempt's label, at most one per `spacing`."""
    last = attempt.last_list_time
    if last is not None and listed.time < last + spacing:
        return attempt
    return draft.change(attempt, absent_lists=attempt.absent_lists + 1, last_list_time=listed.time)


def kept(draft: Draft) -> set[int]:
    """The contracts that are to live: of each attempt that still may have a machine, the recorded one, else the
    lowest id that carries its label."""
    listed = draft.instances
    keep: set[int] = set()
    for attempt in draft.status.attempts:
        if attempt.outcome is OutcomeOfAttempt.RENTED:
            keep.add(attempt.contract)
        elif attempt.outcome in (OutcomeOfAttempt.PLANNED, OutcomeOfAttempt.UNKNOWN) and listed is not None:
            keep.update(i.contract for i in listed.by_label(attempt.label)[:1])
    return keep


def destroy_strays(draft: Draft) -> int:
    """Machines that carry this replacement's label and are none of those to be kept: doubles that a lost answer left
    behind, and late arrivals of attempts that were given up. The status was read after the list, so a machine of an
    attempt that the status does not know is none of ours to keep. Returns how many there are."""
    listed = draft.instances
    if listed is None:
        return 0
    keep = kept(draft)
    strays = [i for i in listed.instances if draft.observation.ours(i) is not None and i.contract not in keep]
    for stray in strays:
        if stray.state is not InstanceState.ENDING or stray.contract not in draft.memory.destroys_sent:
            draft.destroy(stray.contract)
    if strays:
        draft.look_within(REPEAT_SECONDS)
    return len(strays)
