"""The shapes that the real client hides: types, texts, and status codes of the real API."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from .conftest import Rent, Served, eventually

Status = Callable[[int, str | None], Awaitable[dict[str, Any]]]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me"


async def test_the_content_type_is_exactly_json(vast: httpx.AsyncClient) -> None:
    answer = await vast.post("/api/v0/bundles/", json={})
    assert answer.headers["content-type"] == "application/json"


async def test_a_path_without_its_slash_is_moved(vast: httpx.AsyncClient) -> None:
    for method, path in (("POST", "/api/v0/bundles"), ("PUT", "/api/v0/asks/7"), ("GET", "/api/v1/instances")):
        answer = await vast.request(method, path, json={})
        assert answer.status_code == 301
        assert answer.headers["location"] == f"{path}/"
        assert answer.json()["message"].startswith("The resource has been moved")


async def test_the_account_is_shown_with_and_without_the_slash(vast: httpx.AsyncClient) -> None:
    for path in ("/api/v0/users/current", "/api/v0/users/current/"):
        assert (await vast.get(path)).json()["credit"] == 25.0


async def test_a_wrong_key_is_404_and_no_key_403(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
        wrong = await client.get("/api/v1/instances/", headers={"Authorization": "Bearer x"})
        none = await client.get("/api/v1/instances/")
    assert (wrong.status_code, wrong.json()["error"], wrong.json()["msg"]) == (404, "auth_error", "Invalid user key")
    assert (none.status_code, none.json()["error"]) == (403, "auth_error")


async def test_the_old_list_is_gone(vast: httpx.AsyncClient) -> None:
    answer = await vast.get("/api/v0/instances/")
    assert answer.status_code == 410
    assert answer.json()["error"] == "deprecated_endpoint"
    assert "instances" not in answer.json()


async def test_an_unknown_instance_is_null_and_not_404(vast: httpx.AsyncClient) -> None:
    answer = await vast.get("/api/v0/instances/99/?owner=me")
    assert (answer.status_code, answer.json()) == (200, {"instances": None})
    gone = await vast.request("DELETE", "/api/v0/instances/99/", json={})
    assert (gone.status_code, gone.json()["error"]) == (404, "no_such_instance")


async def test_filters_take_numbers_as_text_and_virtual_columns(vast: httpx.AsyncClient) -> None:
    query = {
        "verified": {"eq": True},
        "gpu_ram": {"gte": 24000.0},
        "num_gpus": {"eq": "1"},
        "geolocation": {"in": ["US", "CA"]},
        "reliability": {"gte": "0.98"},
        "gpu_name": {"notin": ["RTX 3090"]},
        "duration": {"gt": 172800.0},
        "order": [["dph_total", "desc"]],
        "type": "on-demand",
        "limit": 4,
        "allocated_storage": 100.0,
    }
    offers = (await vast.post("/api/v0/bundles/", json=query)).json()["offers"]
    assert len(offers) == 4
    for offer in offers:
        assert offer["geolocation"].endswith(("US", "CA"))
        assert offer["gpu_name"] != "RTX 3090"
        assert offer["disk_space"] >= 100
        assert offer["dph_total"] == pytest.approx(offer["dph_base"] + offer["storage_cost"] * 100 / 720)
    prices = [offer["dph_total"] for offer in offers]
    assert prices == sorted(prices, reverse=True)


async def test_an_underscore_finds_no_gpu_and_an_id_no_offer(vast: httpx.AsyncClient) -> None:
    everything = (await vast.post("/api/v0/bundles/", json={})).json()["offers"]
    ask = everything[0]["id"]
    for query, found in (
        ({"gpu_name": {"eq": "RTX_4090"}}, 0),
        ({"id": {"eq": ask}}, 0),
        ({"ask_contract_id": {"eq": ask}}, 1),
    ):
        assert len((await vast.post("/api/v0/bundles/", json=query)).json()["offers"]) == found
    unknown = await vast.post("/api/v0/bundles/", json={"colour": {"eq": "red"}})
    assert (unknown.status_code, unknown.json()["error"]) == (400, "invalid_request")


async def test_some_offers_are_odd(vast: httpx.AsyncClient) -> None:
    offers = (await vast.post("/api/v0/bundles/", json={"limit": 500})).json()["offers"]
    assert any(offer["geolocation"] is None for offer in offers)
    assert any(offer["geolocation"] and "," not in offer["geolocation"] for offer in offers)
    assert any("reliability" not in offer for offer in offers)
    assert any("reliability2" not in offer for offer in offers)
    assert any(offer["direct_port_count"] == 0 for offer in offers)
    assert any(offer["cpu_cores"] is None for offer in offers)
    assert {offer["verification"] for offer in offers} == {"verified", "unverified", "deverified"}


async def test_a_search_for_bids_shows_floor_prices(vast: httpx.AsyncClient) -> None:
    offers = (await vast.post("/api/v0/bundles/", json={"type": "bid"})).json()["offers"]
    assert all(offer["dph_base"] == offer["min_bid"] and offer["is_bid"] for offer in offers)


async def test_an_instance_goes_from_null_to_running(vast: httpx.AsyncClient, rent: Rent, status: Status) -> None:
    await vast.post("/_bench/settings", json={"provisionSeconds": 0.3})
    rental = await rent()
    fresh = (await vast.get(f"/api/v0/instances/{rental.id}/")).json()["instances"]
    assert fresh["actual_status"] is None
    assert "ports" not in fresh
    row = await status(rental.id, "running")
    assert row["public_ipaddr"].endswith("\n")
    assert row["status_msg"].endswith("\n")
    assert row["extra_env"] == [["-p 8080:8080", "1"], ["A", "b"]]
    assert isinstance(row["start_date"], float)
    for bindings in (row["ports"]["22/tcp"], row["ports"]["8080/tcp"]):
        assert [binding["HostIp"] for binding in bindings] == ["0.0.0.0", "::"]  # noqa: S104
        assert 40_000 <= int(bindings[0]["HostPort"]) < 60_000
        assert isinstance(bindings[0]["HostPort"], str)


async def test_a_taken_ask_is_refused_and_comes_back(vast: httpx.AsyncClient, rent: Rent) -> None:
    rental = await rent()
    body = {"image": "img", "env": {}}
    taken = await vast.put(f"/api/v0/asks/{rental.ask}/", json=body)
    assert (taken.status_code, taken.json()["error"]) == (400, "invalid_args")
    assert taken.json()["msg"] == f"error 404/3603: no_such_ask  Instance type by id {rental.ask} is not available."
    strict = await vast.put(f"/api/v0/asks/{rental.ask}/", json=body | {"cancel_unavail": True})
    assert (strict.status_code, strict.json()["error"]) == (410, "no_such_ask")
    assert await _rentable(vast, rental.ask) is False
    await vast.request("DELETE", f"/api/v0/instances/{rental.id}/", json={})

    async def back() -> bool:
        return await _rentable(vast, rental.ask)

    await eventually(back)


async def _rentable(vast: httpx.AsyncClient, ask: int) -> bool:
    query = {"ask_contract_id": {"eq": ask}}
    return bool((await vast.post("/api/v0/bundles/", json=query)).json()["offers"][0]["rentable"])


async def test_bad_creates_are_refused(vast: httpx.AsyncClient) -> None:
    offers = (await vast.post("/api/v0/bundles/", json={"rentable": {"eq": True}})).json()["offers"]
    path = f"/api/v0/asks/{offers[0]['id']}/"
    for body in (
        {"image": "i", "env": "-p 8080:8080"},
        {"image": "i", "disk": 4},
        {"image": "i", "onstart": "x" * 4097},
        {"image": "i", "label": "x" * 257},
        {},
    ):
        answer = await vast.put(path, json=body)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_args"), body


async def test_a_refused_bid_leaves_a_stopped_instance(vast: httpx.AsyncClient, status: Status) -> None:
    offers = (await vast.post("/api/v0/bundles/", json={"type": "bid", "rentable": {"eq": True}})).json()["offers"]
    body = {"image": "i", "env": {}, "price": offers[0]["min_bid"] / 2}
    answer = (await vast.put(f"/api/v0/asks/{offers[0]['id']}/", json=body)).json()
    assert answer["success"] is False
    row = await status(answer["new_contract"], "exited")
    assert (row["cur_state"], row["intended_status"], row["next_state"]) == ("stopped", "stopped", "stopped")


async def test_a_stop_and_a_start_change_the_ports(vast: httpx.AsyncClient, rent: Rent, status: Status) -> None:
    rental = await rent()
    before = (await status(rental.id, "running"))["ports"]
    path = f"/api/v0/instances/{rental.id}/"
    assert (await vast.put(path, json={"state": "stopped"})).json() == {"success": True}
    stopped = await status(rental.id, "exited")
    assert stopped["intended_status"] == "stopped"
    assert "ports" not in stopped
    await vast.post("/_bench/settings", json={"exitedSeconds": 0.3})
    assert (await vast.put(path, json={"state": "running"})).json() == {"success": True}
    first = (await vast.get(path)).json()["instances"]
    assert (first["actual_status"], first["intended_status"]) == ("exited", "running")
    await status(rental.id, "loading")
    assert (await status(rental.id, "running"))["ports"] != before


async def test_a_start_waits_while_the_gpu_is_somebody_elses(
    vast: httpx.AsyncClient, rent: Rent, status: Status
) -> None:
    first = await rent()
    await status(first.id, "running")
    await vast.put(f"/api/v0/instances/{first.id}/", json={"state": "stopped"})
    await status(first.id, "exited")
    second = await vast.put(f"/api/v0/asks/{first.ask}/", json={"image": "i", "env": {}})
    other = second.json()["new_contract"]
    refused = await vast.put(f"/api/v0/instances/{first.id}/", json={"state": "running"})
    assert refused.status_code == 200
    assert refused.json()["success"] is False
    assert refused.json()["error"] == "resources_unavailable"
    await vast.request("DELETE", f"/api/v0/instances/{other}/", json={})
    await status(first.id, "running")


async def test_keys_are_a_json_text_and_can_be_detached(
    served: Served, vast: httpx.AsyncClient, rent: Rent, status: Status
) -> None:
    rental = await rent()
    path = f"/api/v0/instances/{rental.id}/ssh/"
    attached = await vast.post(path, json={"ssh_key": KEY})
    assert attached.json() == {"success": True, "msg": "SSH key attached successfully"}
    await vast.post(path, json={"ssh_key": KEY})  # again, as one does when it was wiped
    keys = json.loads((await vast.get(path)).json()["ssh_keys"])
    assert [key["public_key"] for key in keys] == [KEY]

    async def written() -> bool:
        return served.backend.written_keys.get(rental.id) == [KEY]

    await eventually(written)
    detached = await vast.request("DELETE", f"{path}{keys[0]['id']}/", json={})
    assert detached.json()["success"] is True
    assert json.loads((await vast.get(path)).json()["ssh_keys"]) == []


async def test_account_keys_reach_only_later_instances(served: Served, vast: httpx.AsyncClient, rent: Rent) -> None:
    early = await rent()
    assert (await vast.post("/api/v0/ssh/", json={"ssh_key": KEY})).json()["success"] is True
    late = await rent()
    keys = {number: one.keys for number, one in served.provider.world.instances.items()}
    assert [key.public_key for key in keys[late.id]] == [KEY]
    assert keys[early.id] == []
    assert [key["public_key"] for key in (await vast.get("/api/v0/ssh/")).json()] == [KEY]


async def test_the_list_is_paged_and_labels_need_not_differ(vast: httpx.AsyncClient) -> None:
    offers = (await vast.post("/api/v0/bundles/", json={"rentable": {"eq": True}})).json()["offers"]
    seen_machines: set[int] = set()
    made: list[int] = []
    for offer in offers:
        if offer["machine_id"] not in seen_machines and len(made) < 30:
            seen_machines.add(offer["machine_id"])
            label = "twin" if len(made) < 2 else None
            body: dict[str, Any] = {"image": "i", "env": {}, "label": label}
            made.append((await vast.put(f"/api/v0/asks/{offer['id']}/", json=body)).json()["new_contract"])
    query: dict[str, str] = {
        "select_filters": "{}",
        "order_by": json.dumps([{"col": "id", "dir": "asc"}]),
        "limit": "25",
    }
    first = (await vast.get("/api/v1/instances/", params=query)).json()
    assert (first["success"], len(first["instances"]), first["total_instances"]) == (True, 25, 30)
    assert first["label_counts"] == {"twin": 2, "": 28}
    second = (await vast.get("/api/v1/instances/", params=query | {"after_token": first["next_token"]})).json()
    assert second["next_token"] is None
    assert [row["id"] for row in first["instances"] + second["instances"]] == sorted(made)
    for labels, count in ((["twin"], 2), (["twin", None], 30), (["no"], 0)):
        chosen = query | {"select_filters": json.dumps({"label": {"in": labels}})}
        assert (await vast.get("/api/v1/instances/", params=chosen)).json()["instances_found"] == count


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"limit": "26"}, "invalid_request"),
        ({"after_token": "rubbish"}, "invalid_token"),
        ({"select_filters": '{"dph_total": {"lt": 1}}'}, "invalid_request"),
        ({"select_filters": "{"}, "invalid_request"),
    ],
)
async def test_a_malformed_list_is_400(vast: httpx.AsyncClient, query: dict[str, str], error: str) -> None:
    answer = await vast.get("/api/v1/instances/", params=query)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


async def test_unknown_columns_come_back_null(vast: httpx.AsyncClient, rent: Rent) -> None:
    await rent()
    rows = (await vast.get("/api/v1/instances/", params={"select_cols": '["id", "colour"]'})).json()["instances"]
    assert list(rows[0]) == ["id", "colour"]
    assert rows[0]["colour"] is None


async def test_a_body_that_is_no_json_is_400(vast: httpx.AsyncClient) -> None:
    answer = await vast.post("/api/v0/bundles/", content=b"{")
    assert (answer.status_code, answer.json()["msg"]) == (400, "Invalid json body")


async def test_calls_may_come_at_once(vast: httpx.AsyncClient, rent: Rent) -> None:
    """Of many that want one ask, one gets it."""
    offers = (await vast.post("/api/v0/bundles/", json={"rentable": {"eq": True}})).json()["offers"]
    path = f"/api/v0/asks/{offers[0]['id']}/"
    answers = await asyncio.gather(*(vast.put(path, json={"image": "i", "env": {}}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 7
