"""The GPU machine dies: the endpoint moves by itself, a new machine is rented, restored, verified and put back."""

from typing import Any

import pytest
from hack.bench.client import Client
from hack.bench.world import World


@pytest.mark.parametrize("death", ["container", "silent"])
def test_death(world: World, name: str, death: str) -> None:
    world.protected(name, recovery={"keepOldSeconds": 1, "bootTimeoutSeconds": 60})
    old = world.machine(name)
    world.on_machine(old, "mkdir -p /workspace/data && seq 1 2000 > /workspace/data/numbers && sync")
    world.wait(
        "the copy holds it", lambda: "2000" in world.on_standby(name, "tail -n1 /standby/tree/data/numbers || true"), 20
    )
    client = Client(world, name)

    died = world.vast.kill(old, **{death: True})
    status = world.until(name, "on the standby", lambda s: s.get("active") == "Standby", 30)
    assert status["epoch"] == 2
    assert status["lastFailover"]["evidence"]
    world.wait("the client is answered by the standby", lambda: any(c.side == "cpu" for c in client.calls()), 15)
    gap = client.gap(died, "cpu")
    assert gap < 25, "the bound of the figure is held by make bench-failover; this one only says that it moved"

    status = world.until(name, "protected on a new GPU", lambda s: s.get("phase") == "Protected", 120)
    assert (status["active"], status["epoch"]) == ("GPU", 3)
    assert world.machine(name) != old
    assert {h["reason"] for h in status["history"]} == {"GpuLost", "ReplacementReady"}
    _equal_trees(world, name)
    world.wait("a GPU answers again", lambda: world.side(name) == "gpu", 15)
    client.stop()

    before = world.status(name)["sync"]["coveredTime"]
    world.on_machine(world.machine(name), "echo new-epoch > /workspace/after.txt")
    world.wait(
        "syncing goes on", lambda: "new-epoch" in world.on_standby(name, "cat /standby/tree/after.txt || true"), 30
    )
    assert before
    world.wait("the old machine is gone", lambda: old not in world.contracts(), 120)
    assert len(world.contracts()) == 1


def _equal_trees(world: World, name: str) -> None:
    script = (
        "cd {} && find . -type f ! -name .gpu-standby-root ! -path './data/lines*' -exec sha256sum {{}} + | sort -k2"
    )
    there = world.on_machine(world.machine(name), script.format("/workspace"))
    here = world.on_standby(name, script.format("/standby/tree"))
    assert there == here
    assert "numbers" in there


def test_a_gpu_that_returns_within_the_grace_is_collected_and_taken_back(world: World, name: str) -> None:
    world.protected(name, recovery={"graceSeconds": 120}, sync={"periodSeconds": 600})
    number = world.machine(name)
    created = world.vast.state()["created"]
    # After the last sync: the standby never saw it.
    world.on_machine(number, "echo beyond > /workspace/beyond.txt")
    world.vast.kill(number)
    world.until(name, "on the standby", lambda s: s.get("active") == "Standby" and not s.get("move"), 30)
    world.wait("the standby answers", lambda: world.side(name) == "cpu", 15)
    world.on_standby(name, "echo kept > /workspace/standby-wrote.txt", container="workload")

    world.vast.revive(number)
    status = world.until(name, "back on the same GPU", lambda s: s.get("phase") == "Protected", 90)
    assert world.machine(name) == number
    assert world.vast.state()["created"] == created
    assert [(kept["files"], kept["bytes"]) for kept in status["setAside"]] == [(1, 7)]
    kept = status["setAside"][0]["name"]
    assert world.on_standby(name, f"cat /standby/aside/{kept}/beyond.txt").strip() == "beyond"
    assert world.on_machine(number, "cat /workspace/standby-wrote.txt").strip() == "kept"
    assert world.side(name) == "gpu"


def test_the_standbys_pod_is_killed_while_it_is_active(world: World, name: str) -> None:
    world.protected(name, recovery={"graceSeconds": 600})
    world.vast.kill(world.machine(name))
    world.until(name, "on the standby", lambda s: s.get("active") == "Standby" and not s.get("move"), 30)
    world.wait("the standby answers", lambda: world.side(name) == "cpu", 15)
    world.on_standby(name, "echo mine > /workspace/mine.txt", container="workload")
    uid: Any = (world.get("pod", f"{name}-standby-0") or {})["metadata"]["uid"]

    world.kubectl("delete", "pod", f"{name}-standby-0", "--grace-period=0", "--force")
    world.wait(
        "another pod",
        lambda: (world.get("pod", f"{name}-standby-0") or {"metadata": {"uid": uid}})["metadata"]["uid"] != uid,
        60,
    )
    world.wait("it answers again", lambda: world.side(name) == "cpu", 60)
    assert world.status(name)["epoch"] == 2
    assert world.on_standby(name, "cat /standby/tree/mine.txt").strip() == "mine"
