"""Which offer to take: pure. The server has filtered already; nothing is taken on its word (its own filters have
let unverified and unrentable rows through before).

Order: by price, corrected by a small preference for reliability. A machine of reliability 0.95 is away 36 h a month,
one of 0.99 7 h; while it is away the pair lives on its standby and a further rental has to be paid for. So one
percent of reliability is taken to be worth two percent of the price: enough to decide between near equals, too
little to buy a machine of twice the price. Machines that have failed are excluded; hosts with one are only put last,
since a host's other machines share its network and its owner but not its faults.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from math import ceil

from gpu_standby.api.spec import OfferSpec, OfferType
from gpu_standby.core.market import Offer, OfferQuery, Pricing

GB_PER_GIB = 1.073741824
RELIABILITY_WEIGHT = Decimal(2)
BID_OVER_FLOOR = Decimal("1.2")
"""The floor is the least a host accepts, not the highest standing bid: bidding exactly that is lost at once."""
_CENTS = Decimal("0.0001")


@dataclass(frozen=True)
class Ranked:
    offer: Offer
    reason: str


@dataclass(frozen=True)
class Ranking:
    shortlist: tuple[Ranked, ...]
    """Best first."""
    rejected: tuple[Ranked, ...]

    def why_none(self) -> str:
        """The reasons of all rejections, counted: what the user reads when nothing fits."""
        counts: dict[str, int] = {}
        for entry in self.rejected:
            word = entry.reason.split(":")[0]
            counts[word] = counts.get(word, 0) + 1
        return ", ".join(f"{count} {word}" for word, count in sorted(counts.items(), key=lambda item: -item[1]))


def query(spec: OfferSpec, ports: int, excluded: Iterable[int] = ()) -> OfferQuery:
    """`ports`: how many the Service needs on the machine, beside SSH."""
    return OfferQuery(
        gpu_name=spec.gpu_name,
        gpu_count=spec.gpu_count,
        disk_gb=ceil(spec.disk_gib * GB_PER_GIB),
        max_price=Decimal(spec.max_price_per_hour),
        min_reliability=Decimal(spec.min_reliability),
        min_download_mbps=spec.min_download_mbps,
        regions=tuple(spec.regions),
        pricing=Pricing.INTERRUPTIBLE if spec.type is OfferType.INTERRUPTIBLE else Pricing.ON_DEMAND,
        min_direct_ports=1 + ports,
        excluded_machines=tuple(sorted(set(excluded))),
    )


def rank(offers: Sequence[Offer], query: OfferQuery, now: float, failed_hosts: Collection[int] = ()) -> Ranking:
    """Everything that fits, best first, and everything that does not, each with its reason."""
    fitting: list[Offer] = []
    rejected: list[Ranked] = []
    seen: set[int] = set()
    for offer in offers:
        if offer.offer_id in seen:
            continue
        seen.add(offer.offer_id)
        reason = _unfit(offer, query, now)
        if reason:
            rejected.append(Ranked(offer, reason))
        else:
            fitting.append(offer)
    fitting.sort(key=lambda o: (o.host_id in failed_hosts and o.host_id != 0, weighed_price(o), o.offer_id))
    return Ranking(tuple(Ranked(o, _praise(o, failed_hosts)) for o in fitting), tuple(rejected))


def weighed_price(offer: Offer) -> Decimal:
    """Dollars per hour, with the preference for reliability."""
    missing = Decimal(1) - Decimal(str(min(max(offer.reliability, 0.0), 1.0)))
    return offer.price * (1 + RELIABILITY_WEIGHT * missing)


def bid(offer: Offer, query: OfferQuery) -> Decimal | None:
    """What to bid for the GPUs alone; None for on-demand. Never so much that the sum with the disk is above the
    most the user pays."""
    if query.pricing is Pricing.ON_DEMAND:
        return None
    disk = max(offer.price - offer.min_bid, Decimal(0))
    most = query.max_price - disk
    return min(most, offer.min_bid * BID_OVER_FLOOR).quantize(_CENTS, ROUND_DOWN)


def price_text(price: Decimal) -> str:
    return f"{price.quantize(_CENTS).normalize():f}"


def _unfit(offer: Offer, query: OfferQuery, now: float) -> str:
    """Empty: it fits. Before the colon stands the kind, after it the numbers."""
    if offer.gpu_name != query.gpu_name:
        return f"other GPU: {offer.gpu_name}"
    if offer.gpu_count != query.gpu_count:
        return f"other number of GPUs: {offer.gpu_count}"
    if offer.machine_id in query.excluded_machines:
        return f"machine failed before: {offer.machine_id}"
    if offer.price > query.max_price:
        return f"too dear: {price_text(offer.price)} > {price_text(query.max_price)}"
    if query.pricing is Pricing.INTERRUPTIBLE and offer.min_bid <= 0:
        return "no floor price:"
    if not offer.verified:
        return "not verified:"
    if Decimal(str(offer.reliability)) < query.min_reliability:
        return f"not reliable enough: {offer.reliability:.4f} < {query.min_reliability}"
    if offer.download_mbps < query.min_download_mbps:
        return f"network too slow: {offer.download_mbps:.0f} < {query.min_download_mbps} Mbps"
    if query.regions and offer.region not in query.regions:
        return f"other region: {offer.region or 'unknown'}"
    if offer.direct_ports < query.min_direct_ports:
        return f"too few direct ports: {offer.direct_ports} < {query.min_direct_ports}"
    if offer.disk_gb < query.disk_gb:
        return f"disk too small: {offer.disk_gb:.0f} < {query.disk_gb} GB"
    if offer.end_time and offer.end_time < now + query.min_duration_seconds:
        return f"ends too soon: in {max(0.0, offer.end_time - now) / 3600:.1f} h"
    return ""


def _praise(offer: Offer, failed_hosts: Collection[int]) -> str:
    text = f"reliability {offer.reliability:.4f}, {offer.download_mbps:.0f} Mbps down, {offer.direct_ports} ports"
    if offer.host_id in failed_hosts:
        text += ", but another machine of this host failed"
    return text
