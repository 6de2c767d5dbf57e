"""Renting: from the written intent to a machine that is ours and is what was asked for.

A create has no idempotency key at the provider, so this order is the only protection against a second machine: intent
(with the label) → look for the label → create → whatever the answer was, the label decides.
"""

from decimal import Decimal

from gpu_standby.api import names
from gpu_standby.api.conditions import ReplacementCondition
from gpu_standby.api.replacement import Attempt, OutcomeOfAttempt, ReplacementPhase
from gpu_standby.core import offers
from gpu_standby.core.budget import OFFER_GONE
from gpu_standby.core.draft import Draft
from gpu_standby.core.ending import LOST_LISTS, LOST_SPACING_SECONDS, PROOF_LISTS, PROOF_SPACING_SECONDS, absent
from gpu_standby.core.market import Instance, Pricing, RentRequest
from gpu_standby.core.onstart import onstart
from gpu_standby.core.rental import Create, CreateKind, CreateResult
from gpu_standby.core.searching import current_query, offer_spec, paused

NEVER_APPEARED = "NeverAppeared"
PRICE_TOLERANCE = Decimal("1.01")
"""The instance's price is computed from the disk it got; the offer's from the disk asked for. Rounding, no more."""


def rent(draft: Draft) -> None:
    attempt = draft.attempt
    if attempt is None:
        draft.phase(ReplacementPhase.SEARCHING, "looking for an offer")
        draft.again(0.0)
        return
    match attempt.outcome:
        case OutcomeOfAttempt.PLANNED:
            _planned(draft, attempt)
        case OutcomeOfAttempt.UNKNOWN:
            _unknown(draft, attempt)
        case OutcomeOfAttempt.RENTED:
            _rented(draft, attempt)
        case OutcomeOfAttempt.REFUSED | OutcomeOfAttempt.FAILED | OutcomeOfAttempt.DESTROYED:
            draft.phase(ReplacementPhase.SEARCHING, attempt.message or "looking for the next offer")
            draft.again(0.0)


def _planned(draft: Draft, attempt: Attempt) -> None:
    result = draft.memory.creates.get(attempt.number)
    if result is not None and _answered(draft, attempt, result):
        return
    if result is None and attempt.number not in draft.memory.planned_here:
        text = "the operator restarted after the intent was written: a create may have been sent"
        draft.change(attempt, outcome=OutcomeOfAttempt.UNKNOWN, message=text, absent_lists=0, last_list_time=None)
        draft.phase(ReplacementPhase.RENTING, f"{text}; looking for its label")
        draft.again(0.0)
        return
    listed = draft.look(attempt.started_time)
    if listed is None:
        return
    found = listed.by_label(attempt.label)
    if found:
        _adopt(draft, attempt, found[0].contract)
        return
    if paused(draft):
        draft.phase(ReplacementPhase.RENTING, "the pair is paused: nothing is rented")
        draft.again(30.0)
        return
    free_at = draft.observation.budget.free_at(draft.now)
    if free_at > draft.now:
        text = (
            f"{draft.observation.budget.limit} machines an hour is this installation's limit (creates per hour): "
            f"renting goes on in {free_at - draft.now:.0f} s"
        )
        draft.phase(ReplacementPhase.RENTING, text)
        draft.again(min(free_at - draft.now, 30.0))
        return
    request = _request(draft, attempt)
    if request is None:
        # The offers were forgotten (they were another process's, or too old): this one is certainly not rented.
        _refuse(draft, attempt, OFFER_GONE, "the offer was forgotten before it was rented")
        return
    if draft.provider_ready:
        draft.intend(Create(attempt.number, request))


def _answered(draft: Draft, attempt: Attempt, result: CreateResult) -> bool:
    """Take up what a create answered; False: it may be sent (again) now."""
    match result.kind:
        case CreateKind.CREATED:
            _adopt(draft, attempt, result.contract)
        case CreateKind.OFFER_GONE:
            _refuse(draft, attempt, OFFER_GONE, result.text)
        case CreateKind.REFUSED:
            _refuse(draft, attempt, "Refused", result.text)
        case CreateKind.LEFT_BEHIND:
            draft.fail(attempt, "RefusedWithContract", result.text, result.contract)
        case CreateKind.LOST:
            draft.change(
                attempt, outcome=OutcomeOfAttempt.UNKNOWN, message=result.text, absent_lists=0, last_list_time=None
            )
            draft.phase(
                ReplacementPhase.RENTING, f"the answer of a create was lost; looking for its label: {result.text}"
            )
            draft.again(0.0)
        case CreateKind.POSTPONED:
            if draft.now >= result.again_at:
                return False
            draft.phase(ReplacementPhase.RENTING, result.text)
            draft.again(result.again_at - draft.now)
    return True


def _refuse(draft: Draft, attempt: Attempt, reason: str, text: str) -> None:
    draft.change(attempt, outcome=OutcomeOfAttempt.REFUSED, reason=reason, message=text)
    if reason != OFFER_GONE:
        draft.announce("AttemptFailed", f"attempt {attempt.number} was refused: {text}", warning=True)
    draft.forget_machine()
    draft.phase(ReplacementPhase.SEARCHING, f"offer {attempt.offer_id}: {text}")
    draft.again(0.0)


def _adopt(draft: Draft, attempt: Attempt, contract: int) -> None:
    draft.change(
        attempt, outcome=OutcomeOfAttempt.RENTED, contract=contract, reason="", message="", absent_lists=0,
        last_list_time=None,
    )  # fmt: skip
    draft.update(provider_id=names.vast_provider_id(contract))
    draft.phase(ReplacementPhase.RENTING, f"machine {contract} is rented; waiting for it to be listed")
    draft.again(0.0)


def _unknown(draft: Draft, attempt: Attempt) -> None:
    """Three complete lists over a minute before anything else is created; a machine that shows is adopted."""
    looking = "nobody knows whether a machine was made; nothing else is until its label has been looked for"
    draft.phase(ReplacementPhase.RENTING, f"attempt {attempt.number}: {looking} for a minute")
    listed = draft.look_within(2.0)
    if listed is None or listed.time < attempt.started_time:
        return
    found = listed.by_label(attempt.label)
    if found:
        _adopt(draft, attempt, found[0].contract)
        return
    attempt = absent(draft, attempt, listed, LOST_SPACING_SECONDS)
    if attempt.absent_lists >= LOST_LISTS:
        _refuse(draft, attempt, NEVER_APPEARED, "a create's answer was lost, and no machine with its label appeared")


def _rented(draft: Draft, attempt: Attempt) -> None:
    """It has an id; the first list that shows it says what came."""
    draft.phase(ReplacementPhase.RENTING, f"machine {attempt.contract} is rented; waiting for it to be listed")
    listed = draft.look_within(1.0)
    if listed is None:
        return
    machine = listed.by_contract(attempt.contract)
    if machine is None:
        if listed.time < attempt.started_time:
            return
        attempt = absent(draft, attempt, listed, LOST_SPACING_SECONDS)
        if attempt.absent_lists >= LOST_LISTS:
            draft.fail(attempt, NEVER_APPEARED, f"machine {attempt.contract} was promised and is never listed")
        return
    if attempt.absent_lists:
        draft.change(attempt, absent_lists=0, last_list_time=None)
    wrong = mismatch(draft, machine)
    if wrong:
        draft.fail(attempt, "Mismatch", wrong)
        return
    text = f"machine {machine.contract} ({machine.gpu_name} x {machine.gpu_count}) for {_price(machine)} $/h"
    draft.update(price_per_hour=_price(machine) or draft.status.price_per_hour, gpu_name=machine.gpu_name)
    draft.condition(ReplacementCondition.RENTED, True, "Rented", text)
    draft.condition(ReplacementCondition.BOOTED, False, "Booting", "waiting for the machine to run")
    draft.phase(ReplacementPhase.BOOTING, f"{text} is booting")
    draft.announce("Rented", text)
    draft.again(0.0)


def vanished(draft: Draft, attempt: Attempt) -> bool:
    """A machine that was listed before and is in two further lists no more."""
    listed = draft.instances
    if listed is None:
        return False
    if listed.by_contract(attempt.contract) is not None:
        if attempt.absent_lists:
            draft.change(attempt, absent_lists=0, last_list_time=None)
        return False
    attempt = absent(draft, attempt, listed, PROOF_SPACING_SECONDS)
    return attempt.absent_lists >= PROOF_LISTS


def mismatch(draft: Draft, machine: Instance) -> str:
    """What came, compared with what was asked for; empty: the same. What the row does not say (yet) is not held
    against it."""
    query = current_query(draft)
    if query is None:
        return ""
    if machine.is_bid != (query.pricing is Pricing.INTERRUPTIBLE):
        came, asked = ("interruptible", "on-demand") if machine.is_bid else ("on-demand", "interruptible")
        return f"it is {came}, {asked} was asked for"
    if machine.price > query.max_price * PRICE_TOLERANCE:
        return f"it costs {_price(machine)} $/h, at most {offers.price_text(query.max_price)} was asked for"
    if machine.gpu_name and machine.gpu_name != query.gpu_name:
        return f"it has {machine.gpu_name}, {query.gpu_name} was asked for"
    if machine.gpu_count and machine.gpu_count != query.gpu_count:
        return f"it has {machine.gpu_count} GPUs, {query.gpu_count} were asked for"
    return ""


def _price(machine: Instance) -> str:
    return offers.price_text(machine.price) if machine.price else ""


def _request(draft: Draft, attempt: Attempt) -> RentRequest | None:
    query, spec, vast = current_query(draft), offer_spec(draft), draft.pair.spec.gpu.vast
    seen = draft.memory.offers
    offer = next((o for o in seen.offers if o.offer_id == attempt.offer_id), None) if seen is not None else None
    if query is None or spec is None or vast is None or offer is None:
        return None
    return RentRequest(
        offer_id=offer.offer_id,
        label=attempt.label,
        image=draft.observation.replacement.spec.image or vast.image,
        disk_gb=query.disk_gb,
        onstart=onstart(draft.pair.spec.workspace.path),
        ports=tuple(sorted({port.gpu_port for port in draft.pair.spec.service.ports} - {22})),
        bid=offers.bid(offer, query),
    )
