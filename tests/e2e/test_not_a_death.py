"""What must not move anything."""

import time

from hack.bench.world import World

from gpu_standby.api.spec import ProbeSpec
from gpu_standby.core.verdict import shortest_deciding_silence

CUT = "nft 'table inet cut { chain in { type filter hook prerouting priority -300; policy drop; }; }'"
MEND = "nft delete table inet cut"


def _nothing_moved(world: World, name: str) -> None:
    status = world.status(name)
    assert (status["active"], status["epoch"], status["history"]) == ("GPU", 1, [])


def test_a_blackout_shorter_than_can_decide(world: World, name: str) -> None:
    """One or two lost probes, and a silence one second shorter than the shortest that can decide."""
    world.protected(name)
    number = world.machine(name)
    for seconds in (1.0, 2.5, shortest_deciding_silence(ProbeSpec()) - 1):
        world.on_machine(number, f"{CUT}; sleep {seconds}; {MEND}")
        world.until(
            name,
            "healthy again",
            lambda s: s.get("phase") == "Protected" and world.condition(name, "GpuHealthy")["status"] == "True",
            30,
        )
        _nothing_moved(world, name)


def test_the_providers_api_fails(world: World, name: str) -> None:
    world.protected(name)
    world.vast.fault(status=500)
    began = time.time()
    number = world.machine(name)
    world.on_machine(number, f"{CUT}; sleep 2; {MEND}")
    world.wait("time has passed with the API failing", lambda: time.time() - began > 12, 20)
    assert world.condition(name, "Ready")["status"] == "True"
    _nothing_moved(world, name)


def test_the_standby_is_gone(world: World, name: str) -> None:
    """It says so, and never flips to what is not there."""
    world.protected(name)
    # With the node cordoned the pod that is killed cannot come back.
    world.kubectl("cordon", "gpu-standby", check=False)
    try:
        world.kubectl("delete", "pod", f"{name}-standby-0", "--grace-period=0", "--force")
        world.until(
            name,
            "it says so",
            lambda s: world.condition(name, "FailoverPossible")["reason"] == "StandbyUnreachable",
            30,
        )
        assert world.condition(name, "Ready")["status"] == "False"
        world.vast.kill(world.machine(name))
        world.until(name, "the GPU is missed", lambda s: world.condition(name, "GpuHealthy")["status"] != "True", 30)
        began = time.time()
        world.wait("longer than any detection", lambda: time.time() - began > 15, 20)
        _nothing_moved(world, name)
    finally:
        world.kubectl("uncordon", "gpu-standby", check=False)


def test_the_operators_way_out_is_cut(world: World, name: str) -> None:
    """Machines and canaries are out of its reach, the API server is not: no pair flips, and it says why."""
    world.protected(name)
    address = world.operator_pod()["status"]["podIP"]
    server = (world.get("endpoints", "kubernetes", namespace="default") or {})["subsets"][0]["addresses"][0]["ip"]
    with world.cut_off(address, except_for=server):
        world.until(name, "it says so", lambda s: world.condition(name, "ProberHealthy")["status"] == "False", 60)
        began = time.time()
        world.wait("longer than any detection", lambda: time.time() - began > 12, 20)
        _nothing_moved(world, name)
    world.until(name, "all is well again", lambda s: world.condition(name, "Ready")["status"] == "True", 60)
    _nothing_moved(world, name)
