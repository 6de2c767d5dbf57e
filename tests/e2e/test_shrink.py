"""A source that lost its files between two cycles: the copy stands, and a condition says how to go on."""

import pytest
from hack.bench.world import World


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param("find /workspace -mindepth 1 -delete", "SourceEmpty", id="all"),
        pytest.param("rm -rf /workspace/*", "SourceEmpty", id="all-but-dotfiles"),
        pytest.param(
            "rm /workspace/bulk/*[02468]; rm /workspace/serve.sh /workspace/serve-cpu.sh /workspace/save.sh",
            "SourceShrunk",
            id="half",
        ),
    ],
)
def test_shrunk(world: World, name: str, script: str, reason: str) -> None:
    world.protected(name, gpu={"startCommand": None}, probe={"service": None})
    number = world.machine(name)
    world.on_machine(number, "mkdir /workspace/bulk; for i in $(seq 100); do echo $i > /workspace/bulk/$i; done")
    world.wait(
        "the copy is complete",
        lambda: world.on_standby(name, "ls /standby/tree/bulk | wc -l || true").strip() == "100",
        20,
    )
    world.on_machine(number, script)
    world.until(name, "the cycle is held", lambda s: world.condition(name, "Synced")["reason"] == reason, 30)
    told = world.condition(name, "Synced")["message"]
    assert "accept-shrink=" in told
    assert world.condition(name, "Ready")["status"] == "False"
    assert world.on_standby(name, "ls /standby/tree/bulk | wc -l").strip() == "100"

    count = told.rpartition("accept-shrink=")[2]
    world.annotate(name, f"accept-shrink={count}")
    world.until(name, "cycles go on", lambda s: world.condition(name, "Synced")["status"] == "True", 30)
    left = world.on_standby(name, "ls /standby/tree/bulk 2>/dev/null | wc -l").strip()
    assert left == ("50" if reason == "SourceShrunk" else "0")
