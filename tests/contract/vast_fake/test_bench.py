"""What a test can make go wrong, and what it can see afterwards."""

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from hack.fakes.vast.app import make_app
from hack.fakes.vast.front import PROVIDER

from .conftest import API_KEY, Rent, Served, eventually

Status = Callable[[int, str | None], Awaitable[dict[str, Any]]]
BODY = {"image": "i", "env": {}, "label": "mine"}


async def _ask(vast: httpx.AsyncClient) -> str:
    offers = (await vast.post("/api/v0/bundles/", json={"rentable": {"eq": True}})).json()["offers"]
    return f"/api/v0/asks/{offers[0]['id']}/"


async def _found(vast: httpx.AsyncClient) -> int:
    query = {"select_filters": json.dumps({"label": {"in": ["mine"]}})}
    return int((await vast.get("/api/v1/instances/", params=query)).json()["instances_found"])


async def test_a_create_can_be_done_and_answered_with_500(vast: httpx.AsyncClient) -> None:
    await vast.post("/_bench/faults", json={"create": "commit-then-500"})
    answer = await vast.put(await _ask(vast), json=BODY)
    assert answer.status_code == 500
    assert await _found(vast) == 1


@pytest.mark.parametrize("fault", ["commit-then-reset", "commit-then-timeout"])
async def test_a_create_can_be_done_and_never_answered(vast: httpx.AsyncClient, fault: str) -> None:
    await vast.post("/_bench/faults", json={"create": fault, "seconds": 0.2})
    with pytest.raises(httpx.TransportError):
        await vast.put(await _ask(vast), json=BODY)
    assert await _found(vast) == 1


async def test_a_create_can_be_lost_before_it_is_done(vast: httpx.AsyncClient) -> None:
    await vast.post("/_bench/faults", json={"fault": "timeout", "on": "create", "seconds": 5})
    with pytest.raises(httpx.ReadTimeout):
        await vast.put(await _ask(vast), json=BODY, timeout=0.2)
    assert await _found(vast) == 0


async def test_creates_can_be_refused_after_some(vast: httpx.AsyncClient) -> None:
    await vast.post("/_bench/faults", json={"create": "refuse-after-1"})
    assert (await vast.put(await _ask(vast), json=BODY)).status_code == 200
    assert "no_such_ask" in (await vast.put(await _ask(vast), json=BODY)).json()["msg"]


@pytest.mark.parametrize(
    ("fault", "status", "kind", "text"),
    [
        ("html-403", 403, "text/html", "403 Forbidden"),
        ("429-text", 429, "text/plain", "API requests too frequent"),
        ("429-detail", 429, "application/json", '{"detail":'),
        ("429-json", 429, "application/json", "rate_limit_exceeded"),
        ("429-search-quota", 429, "application/json", "search_quota_exceeded"),
        ("wrong-key", 404, "application/json", "auth_error"),
        ("deprecated-200", 200, "application/json", '"success": false'),
    ],
)
async def test_answers_can_be_odd(vast: httpx.AsyncClient, fault: str, status: int, kind: str, text: str) -> None:
    await vast.post("/_bench/faults", json={"fault": fault, "on": "list", "times": 1})
    answer = await vast.get("/api/v1/instances/")
    assert (answer.status_code, answer.headers["content-type"]) == (status, kind)
    assert text in answer.text
    assert "instances" in (await vast.get("/api/v1/instances/")).json()


async def test_a_dead_machine_is_offline_and_can_come_back(vast: httpx.AsyncClient, rent: Rent, status: Status) -> None:
    rental = await rent()
    await status(rental.id, "running")
    await vast.post(f"/_bench/instances/{rental.id}/kill")
    assert (await status(rental.id, "offline"))["intended_status"] == "running"
    await vast.post(f"/_bench/instances/{rental.id}/revive")
    await status(rental.id, "running")


async def test_a_dead_machine_hears_of_a_stop_when_it_comes_back(
    vast: httpx.AsyncClient, rent: Rent, status: Status
) -> None:
    rental = await rent()
    await status(rental.id, "running")
    await vast.post(f"/_bench/instances/{rental.id}/kill")
    await vast.put(f"/api/v0/instances/{rental.id}/", json={"state": "stopped"})
    assert (await status(rental.id, "offline"))["intended_status"] == "stopped"
    await vast.post(f"/_bench/instances/{rental.id}/revive")
    await status(rental.id, "exited")


async def test_a_machine_that_is_gone_is_called_running_for_a_while(
    vast: httpx.AsyncClient, rent: Rent, status: Status
) -> None:
    await vast.post("/_bench/settings", json={"heartbeatSeconds": 0.3})
    rental = await rent()
    await status(rental.id, "running")
    await vast.post(f"/_bench/instances/{rental.id}/kill")
    row = (await vast.get(f"/api/v0/instances/{rental.id}/")).json()["instances"]
    assert row["actual_status"] == "running"
    await status(rental.id, "offline")


async def test_a_machine_can_be_stuck_or_broken_at_boot(vast: httpx.AsyncClient, rent: Rent, status: Status) -> None:
    await vast.post("/_bench/machines", json={"boot": "oci"})
    row = await status((await rent()).id, "created")
    assert "OCI runtime create failed:" in row["status_msg"]
    assert row["cur_state"] == row["intended_status"] == row["next_state"] == "stopped"
    await vast.post("/_bench/machines", json={"boot": "stuck"})
    stuck = await rent()
    await status(stuck.id, "loading")
    state = (await vast.get("/_bench/state")).json()
    assert [one["phase"] for one in state["instances"] if one["id"] == stuck.id] == ["loading"]


async def test_a_new_instance_can_be_unseen_for_a_while(vast: httpx.AsyncClient, rent: Rent) -> None:
    await vast.post("/_bench/settings", json={"readLagSeconds": 0.3})
    rental = await rent(label="mine")
    assert await _found(vast) == 0
    assert (await vast.get(f"/api/v0/instances/{rental.id}/")).json() == {"instances": None}

    async def seen() -> bool:
        return await _found(vast) == 1

    await eventually(seen)


async def test_the_real_intervals_can_be_enforced(vast: httpx.AsyncClient) -> None:
    await vast.post("/_bench/settings", json={"rateLimitScale": 1})
    assert (await vast.get("/api/v1/instances/")).status_code == 200
    assert (await vast.get("/api/v1/instances/")).status_code == 429


async def test_without_credit_everything_stops(vast: httpx.AsyncClient, rent: Rent, status: Status) -> None:
    rental = await rent()
    await status(rental.id, "running")
    await vast.post("/_bench/settings", json={"credit": 0})
    await status(rental.id, "exited")
    assert (await vast.put(await _ask(vast), json=BODY)).json()["error"] == "insufficient_credit"


async def test_the_state_tells_what_was_and_the_calls_what_was_asked(
    vast: httpx.AsyncClient, rent: Rent, status: Status
) -> None:
    began = time.time()
    rental = await rent(label="mine")
    await status(rental.id, "running")
    await vast.request("DELETE", f"/api/v0/instances/{rental.id}/", json={})

    async def buried() -> bool:
        return bool((await vast.get("/_bench/state")).json()["destroyed"])

    await eventually(buried)
    state = (await vast.get("/_bench/state")).json()
    assert state["instances"] == []
    assert (state["createCalls"], state["created"]) == (1, 1)
    gone = state["destroyed"][0]
    assert (gone["id"], gone["label"]) == (rental.id, "mine")
    assert began <= gone["created_at"] <= gone["destroyed_at"]
    assert [phase for _, phase in gone["history"]][-1] == "destroying"
    calls = (await vast.get("/_bench/calls")).json()["calls"]
    assert [(call["op"], call["instance"], call["status"]) for call in calls] == [
        ("create", rental.id, 200),
        ("destroy", rental.id, 200),
    ]
    assert API_KEY not in json.dumps([state, calls])
    assert "api_key" not in json.dumps([state, calls])


async def test_a_restarted_server_knows_its_instances(served: Served, vast: httpx.AsyncClient, rent: Rent) -> None:
    rental = await rent(label="mine")
    await served.provider.save()
    again = make_app(served.backend, API_KEY)[PROVIDER]
    await again.open()
    try:
        assert again.world.instances[rental.id].label == "mine"
        assert again.world.created == 1
    finally:
        await again.close()


async def test_a_reset_forgets_all_but_no_number_comes_twice(
    served: Served, vast: httpx.AsyncClient, rent: Rent
) -> None:
    before = await rent()
    await vast.post("/_bench/reset")
    assert (await vast.get("/_bench/state")).json()["instances"] == []

    async def removed() -> bool:
        return not (await served.backend.look()).disks

    await eventually(removed)
    assert (await rent()).id > before.id
