"""What our Vast.ai client makes of the answers of a server as unkind as the real one."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal

import pytest
from tests.contract.vast_client.conftest import API_KEY, Bench

from gpu_standby.adapters.vast import VastAccounts
from gpu_standby.core import offers
from gpu_standby.core.market import Instance, InstanceState, Offer, OfferQuery, Pricing, RentRequest
from gpu_standby.errors import (
    AuthRejected,
    CannotTell,
    GpuStandbyError,
    MayHaveHappened,
    NoCredit,
    OfferGone,
    RateLimited,
    Refused,
)

QUERY = OfferQuery(
    gpu_name="RTX 4090",
    gpu_count=1,
    disk_gb=20,
    max_price=Decimal("0.60"),
    min_reliability=Decimal("0.95"),
    min_download_mbps=100,
    regions=(),
    pricing=Pricing.ON_DEMAND,
    min_direct_ports=2,
)


async def best(bench: Bench, query: OfferQuery = QUERY) -> Offer:
    return offers.rank(await bench.vast.search(query), query, time.time()).shortlist[0].offer


def request(offer: Offer, label: str = "gsp/inst/lab/pair/replacement/1", bid: Decimal | None = None) -> RentRequest:
    return RentRequest(offer.offer_id, label, "pytorch/pytorch:2", 20, "true\n", (8080,), bid)


async def rented(bench: Bench, label: str = "gsp/inst/lab/pair/replacement/1") -> int:
    return await bench.vast.create(request(await best(bench), label))


async def shown(bench: Bench, contract: int, so: Callable[[Instance], bool]) -> Instance:
    async with asyncio.timeout(10):
        while True:
            instance = (await bench.vast.list()).by_contract(contract)
            if instance is not None and so(instance):
                return instance
            await asyncio.sleep(0.02)


async def test_a_search_finds_what_was_asked_for_and_nothing_else(bench: Bench) -> None:
    found = await bench.vast.search(QUERY)
    assert found
    assert {offer.gpu_name for offer in found} == {"RTX 4090"}
    ranking = offers.rank(found, QUERY, time.time())
    assert len(ranking.shortlist) == len(found)
    assert all(offer.direct_ports >= 2 and offer.price <= Decimal("0.60") for offer in found)


async def test_regions_and_failed_machines_are_excluded_by_the_server(bench: Bench) -> None:
    first = await best(bench)
    query = replace(QUERY, regions=("US", "CA"), excluded_machines=(first.machine_id,))
    found = await bench.vast.search(query)
    assert found
    assert {offer.region for offer in found} <= {"US", "CA"}
    assert first.machine_id not in {offer.machine_id for offer in found}


async def test_a_rented_machine_runs_with_its_ports_and_is_destroyed(bench: Bench) -> None:
    contract = await rented(bench)
    running = await shown(bench, contract, lambda i: i.state is InstanceState.RUNNING)
    assert running.label == "gsp/inst/lab/pair/replacement/1"
    assert running.address
    assert not running.address.endswith("\n")
    assert running.ssh_port is not None
    assert 8080 in dict(running.ports)
    assert not running.is_bid
    await bench.vast.attach_key(contract, "ssh-ed25519 AAAA test")
    await bench.vast.label(contract, running.label + "/ready")
    assert (await bench.vast.list()).by_label(running.label)[0].contract == contract
    await bench.vast.destroy(contract)
    async with asyncio.timeout(10):
        while (await bench.vast.list()).by_contract(contract) is not None:  # noqa: ASYNC110 - only the server can tell
            await asyncio.sleep(0.02)
    await bench.vast.destroy(contract)


async def test_an_interruptible_machine_is_a_bid_and_costs_what_was_bid(bench: Bench) -> None:
    query = replace(QUERY, pricing=Pricing.INTERRUPTIBLE)
    offer = await best(bench, query)
    bid = offers.bid(offer, query)
    assert bid is not None
    assert bid > offer.min_bid
    contract = await bench.vast.create(request(offer, bid=bid))
    instance = await shown(bench, contract, lambda i: True)
    assert instance.is_bid
    assert instance.price <= query.max_price


async def test_a_bid_that_is_too_low_names_the_machine_it_left_behind(bench: Bench) -> None:
    offer = await best(bench, replace(QUERY, pricing=Pricing.INTERRUPTIBLE))
    with pytest.raises(Refused) as caught:
        await bench.vast.create(request(offer, bid=Decimal("0.002")))
    assert caught.value.contract > 0
    assert (await bench.vast.list()).by_contract(caught.value.contract) is not None


@pytest.mark.parametrize("fault", ["no_such_ask", "no_such_ask-410"])
async def test_an_offer_that_is_gone_is_known_by_its_words_and_not_its_status(bench: Bench, fault: str) -> None:
    offer = await best(bench)
    await bench.fault(fault=fault, on="create")
    with pytest.raises(OfferGone):
        await bench.vast.create(request(offer))


async def test_an_offer_that_was_rented_meanwhile_is_gone(bench: Bench) -> None:
    offer = await best(bench)
    await bench.vast.create(request(offer))
    with pytest.raises(OfferGone):
        await bench.vast.create(request(offer))


async def test_no_credit_is_its_own_refusal(bench: Bench) -> None:
    offer = await best(bench)
    await bench.fault(fault="insufficient_credit", on="create")
    with pytest.raises(NoCredit):
        await bench.vast.create(request(offer))


@pytest.mark.parametrize("fault", ["commit-then-500", "commit-then-reset", "commit-then-timeout"])
async def test_a_create_whose_answer_was_lost_is_never_sent_again(bench: Bench, fault: str) -> None:
    offer = await best(bench)
    await bench.fault(fault=fault, on="create", seconds=0.1)
    with pytest.raises(MayHaveHappened):
        await bench.vast.create(request(offer))
    await bench.control("DELETE", "faults")
    assert (await bench.state())["createCalls"] == 1
    assert len((await bench.vast.list()).by_label("gsp/inst/lab/pair/replacement/1")) == 1


async def test_a_create_that_was_too_fast_was_not_made(bench: Bench) -> None:
    offer = await best(bench)
    await bench.fault(fault="429-json", on="create", retryAfter=7)
    with pytest.raises(RateLimited) as caught:
        await bench.vast.create(request(offer))
    assert caught.value.retry_after_seconds >= 7


@pytest.mark.parametrize("fault", ["429-text", "429-detail", "429-json", "html-403"])
async def test_too_fast_in_any_of_its_shapes_is_waited_for_and_asked_again(bench: Bench, fault: str) -> None:
    await bench.fault(fault=fault, on="list", times=1)
    assert (await bench.vast.list()).instances == ()
    assert max(bench.pauses.slept) >= 1.0


async def test_the_daily_search_quota_is_not_waited_for(bench: Bench) -> None:
    await bench.fault(fault="429-search-quota", on="search")
    with pytest.raises(RateLimited):
        await bench.vast.search(QUERY)


async def test_a_wrong_key_is_a_404_and_is_told_apart_from_a_machine_that_is_gone(bench: Bench) -> None:
    stranger = bench.with_key("another-key")
    for call in (stranger.list(), stranger.destroy(5), stranger.search(QUERY), stranger.stop(5)):
        with pytest.raises(AuthRejected) as caught:
            await call
        assert "another-key" not in str(caught.value)


@pytest.mark.parametrize("fault", ["deprecated", "deprecated-200"])
async def test_a_list_without_instances_is_never_an_empty_list(bench: Bench, fault: str) -> None:
    await bench.fault(fault=fault, on="list")
    with pytest.raises((CannotTell, Refused)):
        await bench.vast.list()


async def test_a_list_is_complete_or_nothing(bench: Bench) -> None:
    query = replace(QUERY, max_price=Decimal(9), min_reliability=Decimal(0), gpu_name="")
    contracts = []
    for name in ("RTX 4090", "RTX 3090", "RTX 5090", "RTX A5000", "RTX A6000", "A100 SXM4", "H100 SXM", "L40S"):
        for offer in await bench.vast.search(replace(query, gpu_name=name)):
            if len(contracts) < 30:
                contracts.append(await bench.vast.create(request(offer)))
    assert len(contracts) > 25
    assert {i.contract for i in (await bench.vast.list()).instances} == set(contracts)
    await bench.fault(status=500, on="list", after=1, fault="status")
    with pytest.raises(CannotTell):
        await bench.vast.list()


async def test_a_start_that_is_queued_is_no_error(bench: Bench) -> None:
    contract = await rented(bench)
    await shown(bench, contract, lambda i: i.state is InstanceState.RUNNING)
    await bench.vast.stop(contract)
    stopped = await shown(bench, contract, lambda i: i.state is InstanceState.STOPPED)
    assert stopped.ports == ()
    await bench.control("POST", f"instances/{contract}/set", {"refuseStart": True})
    await bench.vast.start(contract)
    assert (await shown(bench, contract, lambda i: True)).state is InstanceState.BOOTING


async def test_a_machine_that_starts_again_is_never_called_stopped_on_its_way(bench: Bench) -> None:
    contract = await rented(bench)
    await shown(bench, contract, lambda i: i.state is InstanceState.RUNNING)
    await bench.vast.stop(contract)
    await shown(bench, contract, lambda i: i.state is InstanceState.STOPPED)
    await bench.vast.start(contract)
    seen = set()

    def note(instance: Instance) -> bool:
        seen.add(instance.state)
        return instance.state is InstanceState.RUNNING

    await shown(bench, contract, note)
    assert seen <= {InstanceState.BOOTING, InstanceState.RUNNING}


async def test_a_machine_that_died_at_boot_is_broken(bench: Bench) -> None:
    offer = await best(bench)
    await bench.control("POST", f"machines/{offer.machine_id}", {"boot": "oci"})
    contract = await bench.vast.create(request(offer))
    await shown(bench, contract, lambda i: i.state is InstanceState.BROKEN)


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ({"actual_status": "unknown"}, InstanceState.UNKNOWN),
        ({"actual_status": "frozen"}, InstanceState.UNKNOWN),
        ({"actual_status": "offline"}, InstanceState.OFFLINE),
        ({"actual_status": None}, InstanceState.BOOTING),
        ({"public_ipaddr": None, "ports": None, "label": None, "gpu_name": None}, InstanceState.RUNNING),
    ],
)
async def test_odd_rows_are_read(bench: Bench, row: dict[str, object], state: InstanceState) -> None:
    contract = await rented(bench)
    await shown(bench, contract, lambda i: i.state is InstanceState.RUNNING)
    await bench.control("POST", f"instances/{contract}/row", row)
    assert (await shown(bench, contract, lambda i: True)).state is state


async def test_an_outbid_machine_is_stopped(bench: Bench) -> None:
    offer = await best(bench, replace(QUERY, pricing=Pricing.INTERRUPTIBLE))
    contract = await bench.vast.create(request(offer, bid=offer.min_bid * 2))
    await shown(bench, contract, lambda i: i.state is InstanceState.RUNNING)
    await bench.control("POST", f"instances/{contract}/outbid")
    await shown(bench, contract, lambda i: i.state is InstanceState.STOPPED)


@pytest.mark.parametrize(
    "call",
    [
        lambda vast: vast.list(),
        lambda vast: vast.search(QUERY),
        lambda vast: vast.destroy(1),
        lambda vast: vast.stop(1),
    ],
)
async def test_what_may_be_repeated_is_tried_three_times_and_then_told(
    bench: Bench, call: Callable[[object], Awaitable[object]]
) -> None:
    await bench.fault(fault="status", status=502, on="any")
    before = len((await bench.state())["requests"])
    with pytest.raises(GpuStandbyError) as caught:
        await call(bench.vast)
    assert isinstance(caught.value, CannotTell | MayHaveHappened)
    assert API_KEY not in str(caught.value)
    assert len((await bench.state())["requests"][before:]) >= 3


async def test_calls_keep_their_intervals(bench: Bench) -> None:
    for _ in range(4):
        await bench.vast.list()
    assert bench.pauses.slept == pytest.approx([1.05, 1.05, 1.05], abs=0.01)


async def test_a_server_that_counts_for_real_is_never_asked_too_fast(bench: Bench) -> None:
    await bench.control("POST", "settings", {"rateLimitScale": 1})
    accounts = VastAccounts(bench.url)
    vast = accounts.provider(API_KEY)
    for _ in range(3):
        await vast.list()
    assert not [r for r in (await bench.state())["requests"] if r.get("status") == 429]
    await accounts.close()


async def test_lists_asked_for_at_the_same_time_are_one(bench: Bench) -> None:
    answers = await asyncio.gather(*(bench.vast.list() for _ in range(20)))
    calls = [r for r in (await bench.state())["requests"] if "/api/v1/instances" in str(r)]
    assert len(calls) <= 2
    assert all(answer.instances == () for answer in answers)


async def test_one_provider_per_key_shares_its_throttle(bench: Bench) -> None:
    accounts = VastAccounts(bench.url)
    assert accounts.provider("a") is accounts.provider("a")
    assert accounts.provider("a") is not accounts.provider("b")
    await accounts.close()
