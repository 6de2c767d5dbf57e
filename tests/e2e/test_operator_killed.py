"""kill -9 of the operator at the worst moments: the same end, one machine rented, none left over."""

import json

from hack.bench.world import World

SLICES = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}


def test_killed_between_decision_and_flip(world: World, name: str) -> None:
    world.protected(name, recovery={"graceSeconds": 600})
    role = world.get("role", "gpu-standby")
    assert role is not None
    # The flip is refused for as long as the right to it is missing: the operator is caught in the very step.
    kept = [rule for rule in role["rules"] if "endpointslices" not in rule["resources"]]
    patch = json.dumps([{"op": "replace", "path": "/rules", "value": [*kept, SLICES]}])
    world.kubectl("patch", "role", "gpu-standby", "--type=json", "-p", patch)
    try:
        world.vast.kill(world.machine(name))
        world.until(name, "at the step Flip", lambda s: (s.get("move") or {}).get("step") == "Flip", 30)
        world.kill_operator()
    finally:
        patch = json.dumps([{"op": "replace", "path": "/rules", "value": role["rules"]}])
        world.kubectl("patch", "role", "gpu-standby", "--type=json", "-p", patch)
    status = world.until(name, "on the standby", lambda s: s.get("active") == "Standby" and not s.get("move"), 60)
    assert status["epoch"] == 2
    assert len(status["history"]) == 1
    world.wait("the standby answers", lambda: world.side(name) == "cpu", 15)


def test_killed_right_after_a_create_was_sent(world: World, name: str) -> None:
    created = world.vast.state()["created"]
    world.vast.fault(fault="commit-then-timeout", on="create", times=1, seconds=20)
    world.apply(world.pair(name))
    world.wait("the machine is there, its answer is not", lambda: world.vast.state()["created"] == created + 1, 60)
    world.kill_operator()
    world.until(name, "Protected", lambda s: s.get("phase") == "Protected", 150)
    assert world.vast.state()["created"] == created + 1
    assert world.contracts() == [world.machine(name)]


def test_killed_during_a_restore(world: World, name: str) -> None:
    world.protected(name, recovery={"keepOldSeconds": 1})
    old = world.machine(name)
    world.on_machine(old, "head -c 60000000 /dev/urandom > /workspace/model.bin")
    world.wait(
        "the copy holds it",
        lambda: world.on_standby(name, "stat -c %s /standby/tree/model.bin || true").strip() == "60000000",
        60,
    )
    created = world.vast.state()["created"]
    world.vast.kill(old)
    fresh = world.wait(
        "the new machine is rented", lambda: [number for number in world.contracts() if number != old], 60
    )[0]
    world.wait(
        "it runs",
        lambda: (
            "ok"
            in world.kubectl(
                "exec",
                f"instance-{fresh}",
                "-c",
                "host",
                "--",
                "sh",
                "-c",
                "nft 'table inet slow { chain in { type filter hook input priority 0; policy accept; "
                "limit rate over 8 mbytes/second drop; }; }' && echo ok",
                check=False,
                namespace=world.vast_namespace,
            )
        ),
        30,
    )
    world.wait(
        "the restore runs",
        lambda: any((r.get("status") or {}).get("phase") == "Restoring" for r in world.objects("gpr")),
        60,
    )
    world.kill_operator()
    status = world.until(name, "protected again", lambda s: s.get("phase") == "Protected", 180)
    assert (status["active"], status["epoch"]) == ("GPU", 3)
    assert world.vast.state()["created"] == created + 1
    hashes = [
        world.on_machine(world.machine(name), "sha256sum < /workspace/model.bin"),
        world.on_standby(name, "sha256sum < /standby/tree/model.bin"),
    ]
    assert hashes[0] == hashes[1]
    world.wait("the old machine is gone", lambda: world.contracts() == [world.machine(name)], 90)
