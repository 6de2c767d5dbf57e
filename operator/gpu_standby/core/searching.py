"""Searching and AwaitingApproval: from "a GPU is wanted" to a written intent to rent one offer."""

from decimal import Decimal
from hashlib import sha256

from gpu_standby.api import names
from gpu_standby.api.replacement import (
    MAX_ATTEMPTS_LISTED,
    MAX_SHORTLIST,
    Attempt,
    OutcomeOfAttempt,
    ReplacementPhase,
    ShortlistEntry,
)
from gpu_standby.api.spec import OfferSpec
from gpu_standby.core import budget, offers
from gpu_standby.core.draft import Draft
from gpu_standby.core.market import OfferQuery
from gpu_standby.core.offers import Ranked, Ranking
from gpu_standby.core.rental import ConsumeApproval, Search

FRESH_SECONDS = 45.0
"""Offers older than that are gone as likely as not."""
TAKEN_BEFORE_NEW_SEARCH = 3
VAIN_SECONDS = 15.0
VAIN_MAX_SECONDS = 300.0
"""The quota counts rows: 20 rows every 5 minutes are 5 760 of 20 000 a day."""


def search(draft: Draft) -> None:
    if _exhausted(draft):
        return
    if paused(draft):
        draft.phase(ReplacementPhase.SEARCHING, "the pair is paused: nothing is rented")
        draft.again(30.0)
        return
    ranking = _ranking(draft)
    if ranking is None:
        return
    needs_approval = draft.observation.replacement.spec.require_approval and not draft.status.plan
    if needs_approval:
        _propose(draft, ranking)
        return
    affordable = [entry for entry in ranking.shortlist if entry.offer.price <= _approved_price(draft)]
    _plan_attempt(draft, affordable[0], ranking)


def await_approval(draft: Draft) -> None:
    given = draft.pair.metadata.annotations.get(names.ANNOTATION_APPROVE)
    if given is not None and given.strip() == draft.status.plan:
        draft.phase(ReplacementPhase.SEARCHING, f"plan {draft.status.plan} was approved")
        draft.announce("Approved", f"plan {draft.status.plan} was approved")
        draft.intend(ConsumeApproval(draft.status.plan))
        draft.again(0.0)
        return
    draft.again(30.0)


def paused(draft: Draft) -> bool:
    return names.ANNOTATION_PAUSE in draft.pair.metadata.annotations


def offer_spec(draft: Draft) -> OfferSpec | None:
    spec = draft.observation.replacement.spec
    if spec.offer is not None:
        return spec.offer
    vast = draft.pair.spec.gpu.vast
    return vast.offer if vast is not None else None


def current_query(draft: Draft) -> OfferQuery | None:
    spec = offer_spec(draft)
    if spec is None:
        return None
    return offers.query(spec, len(draft.pair.spec.service.ports), failed_machines(draft))


def failed_machines(draft: Draft) -> set[int]:
    """Machines that failed an attempt, and those that the pair's other replacements have or had."""
    mine = {a.machine_id for a in draft.status.attempts if a.outcome in _UNFIT}
    theirs = {
        a.machine_id
        for sibling in draft.observation.siblings
        for a in sibling.status.attempts
        if a.outcome in (*_UNFIT, OutcomeOfAttempt.RENTED)
    }
    return (mine | theirs) - {0}


def failed_hosts(draft: Draft) -> set[int]:
    attempts = [*draft.status.attempts, *(a for s in draft.observation.siblings for a in s.status.attempts)]
    return {a.host_id for a in attempts if a.outcome in _UNFIT} - {0}


_UNFIT = (OutcomeOfAttempt.FAILED, OutcomeOfAttempt.DESTROYED)


STILL_ON_GPU = "StillOnGpu"
"""Another machine would wait just the same."""


def _exhausted(draft: Draft) -> bool:
    newest = draft.attempt
    if newest is not None and newest.reason == STILL_ON_GPU:
        draft.phase(ReplacementPhase.FAILED, newest.message)
        draft.announce("ReplacementFailed", newest.message, warning=True)
        return True
    used = [a for a in draft.status.attempts if budget.counts(a)]
    most = draft.pair.spec.recovery.attempts
    if len(used) < most and len(draft.status.attempts) < MAX_ATTEMPTS_LISTED:
        return False
    last = used[-1].message if used else "every offer was gone before it could be rented"
    text = (
        f"{len(draft.status.attempts)} attempts failed, the last one: {last}. "
        "Widen gpu.vast.offer (price, regions, reliability), or raise recovery.attempts"
    )
    draft.phase(ReplacementPhase.FAILED, text)
    draft.announce("ReplacementFailed", text, warning=True)
    return True


def _ranking(draft: Draft) -> Ranking | None:
    """The offers to choose from; None: they are asked for, or there are none."""
    query = current_query(draft)
    if query is None:
        draft.phase(ReplacementPhase.FAILED, "the pair rents no GPU: gpu.vast is not set")
        return None
    seen = draft.memory.offers
    tried = {a.offer_id for a in draft.status.attempts}
    gone = [a for a in draft.status.attempts if a.reason == budget.OFFER_GONE]
    stale = seen is None or draft.now >= seen.time + FRESH_SECONDS or seen.query != query
    if seen is not None and not stale:
        stale = sum(1 for a in gone if a.started_time >= seen.time) >= TAKEN_BEFORE_NEW_SEARCH
    vain = draft.memory.searches_in_vain
    not_before = seen.time + vain_wait(vain) if vain and seen is not None and seen.query == query else 0.0
    if seen is None or (stale and not vain):
        _ask(draft, query, "looking for an offer", not_before)
        return None
    fresh = [offer for offer in seen.offers if offer.offer_id not in tried]
    ranking = offers.rank(fresh, query, draft.now, failed_hosts(draft))
    approved = _approved_price(draft)
    if any(entry.offer.price <= approved for entry in ranking.shortlist):
        return ranking
    if ranking.shortlist:
        why = f"{len(ranking.shortlist)} cost more than the plan that was approved"
    else:
        why = ranking.why_none() or "none on the market"
    spec = offer_spec(draft)
    wanted = f"{spec.gpu_count} x {spec.gpu_name} up to {spec.max_price_per_hour} $/h" if spec else ""
    not_before = max(not_before, seen.time + VAIN_SECONDS)
    _ask(draft, query, f"no offer fits ({wanted}): {why}. Widen gpu.vast.offer, or wait", not_before)
    return None


def _ask(draft: Draft, query: OfferQuery, message: str, not_before: float) -> None:
    draft.phase(ReplacementPhase.SEARCHING, message)
    if draft.now < not_before:
        draft.again(not_before - draft.now)
    elif draft.provider_ready:
        draft.intend(Search(query))


def vain_wait(times: int) -> float:
    """How long to wait after the `times`th search in a row that found nothing that fits."""
    return min(VAIN_SECONDS * 2.0 ** min(max(times - 1, 0), 10), VAIN_MAX_SECONDS)


def _approved_price(draft: Draft) -> Decimal:
    """What a human has approved is the dearest of the offers he was shown."""
    if not draft.observation.replacement.spec.require_approval or not draft.status.shortlist:
        return Decimal("Infinity")
    return max(Decimal(entry.price_per_hour) for entry in draft.status.shortlist)


def _propose(draft: Draft, ranking: Ranking) -> None:
    shortlist = _entries(ranking)
    metadata = draft.observation.replacement.metadata
    words = "/".join(f"{e.offer_id}@{e.price_per_hour}" for e in shortlist)
    plan = f"{metadata.name}-{sha256(f'{metadata.uid}/{words}'.encode()).hexdigest()[:6]}"[-64:]
    best = shortlist[0]
    text = (
        f"{best.gpu_name} in {best.region or 'an unknown place'} for {best.price_per_hour} $/h; to rent it: kubectl "
        f"annotate gsp {draft.pair.metadata.name} {names.ANNOTATION_APPROVE}={plan}"
    )
    draft.update(plan=plan, shortlist=shortlist)
    draft.phase(ReplacementPhase.AWAITING_APPROVAL, text)
    draft.announce("ApprovalNeeded", text)
    draft.again(30.0)


def _plan_attempt(draft: Draft, entry: Ranked, ranking: Ranking) -> None:
    """The intent: written first, with the label by which whatever comes of it can be found."""
    offer = entry.offer
    number = (draft.status.attempts[-1].number if draft.status.attempts else 0) + 1
    price = offers.price_text(offer.price)
    attempt = Attempt(
        number=number,
        offer_id=offer.offer_id,
        machine_id=offer.machine_id,
        host_id=offer.host_id,
        label=draft.observation.label(number),
        price_per_hour=price,
        started_time=draft.now,
    )
    draft.update(attempts=[*draft.status.attempts, attempt])
    if not draft.observation.replacement.spec.require_approval:
        draft.update(shortlist=_entries(ranking))
    name = f"{offer.gpu_name}, {offer.region}" if offer.region else offer.gpu_name
    vast = draft.pair.spec.gpu.vast
    draft.update(api_key_secret_ref=vast.api_key_secret_ref if vast is not None else None)
    draft.update(offer_name=name, gpu_name=offer.gpu_name, price_per_hour=price)
    draft.phase(ReplacementPhase.RENTING, f"renting offer {offer.offer_id} on machine {offer.machine_id}: {name}")
    draft.announce("Renting", f"attempt {number}: {name} for {price} $/h (offer {offer.offer_id}; {entry.reason})")
    draft.again(0.0)


def _entries(ranking: Ranking) -> list[ShortlistEntry]:
    return [
        ShortlistEntry(
            offer_id=entry.offer.offer_id,
            machine_id=entry.offer.machine_id,
            gpu_name=entry.offer.gpu_name[:64],
            region=entry.offer.region,
            price_per_hour=offers.price_text(entry.offer.price),
            reason=entry.reason[:256],
        )
        for entry in ranking.shortlist[:MAX_SHORTLIST]
    ]
