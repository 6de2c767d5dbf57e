"""The real `vastai` client, from PyPI, is content with the stand-in."""

import asyncio

import pytest

from .conftest import Served, Vastai, eventually

pytestmark = pytest.mark.timeout(300)  # the first run installs the client


async def test_it_rents_looks_stops_starts_labels_attaches_and_destroys(served: Served, vastai: Vastai) -> None:
    query = "gpu_name=RTX_4090 num_gpus=1 gpu_ram>=24 geolocation in [US,CA,SE] disk_space>=50 direct_port_count>2"
    offers = (await vastai("search", "offers", query, "-o", "dph", "--limit", "3", "--raw")).json
    assert len(offers) == 3
    assert [offer["dph_total"] for offer in offers] == sorted(offer["dph_total"] for offer in offers)
    assert {offer["gpu_name"] for offer in offers} == {"RTX 4090"}
    ask = str(offers[0]["id"])

    words = ("--image", "img:1", "--disk", "20", "--ssh", "--direct", "--env", "-p 8080:8080 -e A=b", "--label", "x/1")
    created = (await vastai("create", "instance", ask, *words, "--raw")).json
    assert created["success"] is True
    number = created["new_contract"]
    instance = served.provider.world.instances[number]
    assert instance.env == {"-p 8080:8080": "1", "A": "b"}
    assert instance.runtype == "ssh_direc ssh_proxy"
    assert instance.label == "x/1"

    async def running() -> bool:
        return instance.phase == "running"

    await eventually(running)
    listed, shown, url = await asyncio.gather(
        vastai("show", "instances", "--raw"),
        vastai("show", "instance", str(number), "--raw"),
        vastai("ssh-url", str(number)),
    )
    assert [row["id"] for row in listed.json] == [number]
    assert shown.json["actual_status"] == "running"
    assert url.out.strip() == f"ssh://root@{instance.address}:{instance.ports['22/tcp']}"

    attached = await vastai("attach", "ssh", str(number), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me")
    assert "SSH key attached successfully" in attached.out
    assert [key.public_key for key in instance.keys] == ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me"]

    stopped = await vastai("stop", "instance", str(number))
    assert "stopping instance" in stopped.out

    async def exited() -> bool:
        return instance.phase == "stopped"

    await eventually(exited)
    labelled = await vastai("label", "instance", str(number), "y")
    assert "label for" in labelled.out
    assert instance.label == "y"
    started = await vastai("start", "instance", str(number))
    assert "starting instance" in started.out
    await eventually(running)

    await vastai("destroy", "instance", str(number), "-y")

    async def gone() -> bool:
        return number not in served.provider.world.instances

    await eventually(gone)
    assert (await vastai("show", "instances", "--raw")).json == []


async def test_its_tables_can_be_drawn(served: Served, vastai: Vastai) -> None:
    search = await vastai("search", "offers", "num_gpus=2")
    assert "RTX" in search.out, search.err
    account = await vastai("show", "user")
    assert "bench@example.invalid" in account.out
    instances = await vastai("show", "instances-v1")
    assert "No instances found" in instances.out, instances.err


async def test_a_taken_offer_is_refused_in_the_real_words(served: Served, vastai: Vastai) -> None:
    answer = await vastai("create", "instance", "1", "--image", "img:1", "--ssh")
    assert answer.code == 0  # the real client's way
    assert "error 404/3603: no_such_ask  Instance type by id 1 is not available." in answer.out + answer.err


async def test_a_wrong_key_is_told_so(served: Served, vastai: Vastai) -> None:
    answer = await vastai("show", "instances", VAST_API_KEY="wrong")
    assert "Invalid user key" in answer.out + answer.err
