"""Which offer is taken, and what is never taken, whatever the market says."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_standby.api.spec import OfferSpec
from gpu_standby.core import offers
from gpu_standby.core.market import Offer, OfferQuery, Pricing

NOW = 1_800_000_000.0
GOOD = Offer(
    offer_id=1,
    machine_id=10,
    host_id=5,
    gpu_name="RTX 4090",
    gpu_count=1,
    price=Decimal("0.40"),
    min_bid=Decimal("0.20"),
    reliability=0.99,
    download_mbps=500,
    direct_ports=4,
    disk_gb=200,
    region="SE",
    verified=True,
    end_time=NOW + 10 * 86_400,
)
SPEC = OfferSpec(gpu_name="RTX 4090", disk_gib=100, max_price_per_hour="0.60", min_reliability="0.98", regions=["SE"])
QUERY = offers.query(SPEC, ports=1, excluded=[66])


def test_the_query_asks_for_ssh_and_every_port_and_for_the_disk_in_gigabytes() -> None:
    assert QUERY.min_direct_ports == 2
    assert QUERY.disk_gb == 108
    assert QUERY.pricing is Pricing.ON_DEMAND
    assert QUERY.excluded_machines == (66,)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gpu_name": "RTX 4080"}, "other GPU"),
        ({"gpu_count": 2}, "other number of GPUs"),
        ({"machine_id": 66}, "machine failed before"),
        ({"price": Decimal("0.61")}, "too dear"),
        ({"verified": False}, "not verified"),
        ({"reliability": 0.97}, "not reliable enough"),
        ({"download_mbps": 99}, "network too slow"),
        ({"region": "US"}, "other region"),
        ({"region": ""}, "other region"),
        ({"direct_ports": 1}, "too few direct ports"),
        ({"disk_gb": 107}, "disk too small"),
        ({"end_time": NOW + 3600}, "ends too soon"),
    ],
)
def test_what_does_not_fit_is_rejected_with_its_reason(change: dict[str, object], reason: str) -> None:
    ranking = offers.rank([replace(GOOD, **change)], QUERY, NOW)  # type: ignore[arg-type]
    assert ranking.shortlist == ()
    assert ranking.rejected[0].reason.startswith(reason)
    assert reason in ranking.why_none()


def test_without_regions_anywhere_will_do() -> None:
    query = replace(QUERY, regions=())
    assert offers.rank([replace(GOOD, region="")], query, NOW).shortlist


def test_between_near_equals_the_more_reliable_machine_wins() -> None:
    reliable = replace(GOOD, offer_id=2, machine_id=11, price=Decimal("0.405"), reliability=0.9999)
    assert [r.offer.offer_id for r in offers.rank([GOOD, reliable], QUERY, NOW).shortlist] == [2, 1]


def test_reliability_does_not_buy_a_machine_of_twice_the_price() -> None:
    query = replace(QUERY, min_reliability=Decimal("0.90"), max_price=Decimal(2))
    cheap = replace(GOOD, reliability=0.91)
    dear = replace(GOOD, offer_id=2, price=Decimal("0.80"), reliability=1.0)
    assert offers.rank([dear, cheap], query, NOW).shortlist[0].offer.offer_id == 1


def test_another_machine_of_a_host_that_failed_comes_last() -> None:
    cheaper = replace(GOOD, offer_id=2, machine_id=11, host_id=9, price=Decimal("0.10"))
    order = [r.offer.offer_id for r in offers.rank([cheaper, GOOD], QUERY, NOW, failed_hosts={9}).shortlist]
    assert order == [1, 2]


OFFERS = st.builds(
    Offer,
    offer_id=st.integers(1, 50),
    machine_id=st.integers(60, 70),
    host_id=st.integers(0, 5),
    gpu_name=st.sampled_from(["RTX 4090", "RTX 3090"]),
    gpu_count=st.integers(1, 2),
    price=st.decimals("0.01", 1, places=4),
    min_bid=st.decimals(0, 1, places=4),
    reliability=st.floats(0, 1),
    download_mbps=st.floats(0, 1000),
    direct_ports=st.integers(0, 5),
    disk_gb=st.floats(0, 300),
    region=st.sampled_from(["SE", "US", ""]),
    verified=st.booleans(),
    end_time=st.floats(0, NOW + 10**7),
)
QUERIES = st.builds(
    OfferQuery,
    gpu_name=st.just("RTX 4090"),
    gpu_count=st.just(1),
    disk_gb=st.integers(8, 200),
    max_price=st.decimals("0.05", 1, places=2),
    min_reliability=st.decimals(0, 1, places=2),
    min_download_mbps=st.integers(0, 500),
    regions=st.sampled_from([(), ("SE",)]),
    pricing=st.sampled_from(Pricing),
    min_direct_ports=st.integers(1, 3),
    excluded_machines=st.sampled_from([(), (61, 62)]),
)


@given(st.lists(OFFERS, max_size=12), QUERIES)
def test_everything_on_the_shortlist_fits_and_everything_else_has_a_reason(
    found: list[Offer], query: OfferQuery
) -> None:
    ranking = offers.rank(found, query, NOW)
    ids = {o.offer_id for o in found}
    assert {r.offer.offer_id for r in ranking.shortlist} | {r.offer.offer_id for r in ranking.rejected} == ids
    assert len(ranking.shortlist) + len(ranking.rejected) == len(ids)
    assert all(r.reason for r in (*ranking.shortlist, *ranking.rejected))
    for entry in ranking.shortlist:
        offer = entry.offer
        assert offer.gpu_name == query.gpu_name
        assert offer.price <= query.max_price
        assert offer.verified
        assert offer.direct_ports >= query.min_direct_ports
        assert offer.disk_gb >= query.disk_gb
        assert offer.machine_id not in query.excluded_machines
        assert not query.regions or offer.region in query.regions
        assert offer.end_time == 0 or offer.end_time >= NOW + query.min_duration_seconds


@given(st.lists(OFFERS, max_size=12), QUERIES)
def test_the_order_does_not_depend_on_the_order_of_the_market(found: list[Offer], query: OfferQuery) -> None:
    unique = list({o.offer_id: o for o in found}.values())
    forth, back = offers.rank(unique, query, NOW), offers.rank(unique[::-1], query, NOW)
    assert [r.offer for r in forth.shortlist] == [r.offer for r in back.shortlist]


@given(OFFERS, QUERIES)
def test_a_bid_with_its_disk_is_never_above_the_most_that_is_paid(offer: Offer, query: OfferQuery) -> None:
    ranked = offers.rank([offer], query, NOW).shortlist
    for entry in ranked:
        bid = offers.bid(entry.offer, query)
        if query.pricing is Pricing.ON_DEMAND:
            assert bid is None
        else:
            assert bid is not None
            disk = max(entry.offer.price - entry.offer.min_bid, Decimal(0))
            assert bid + disk <= query.max_price
