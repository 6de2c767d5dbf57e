"""Deleting a pair: a last sync, what was rented is destroyed, the volume goes or stays."""

from hack.bench.world import World


def test_deleting_syncs_once_more_destroys_the_machine_and_keeps_the_volume(world: World, name: str) -> None:
    world.protected(name, deletionPolicy="Retain", sync={"periodSeconds": 600})
    number = world.machine(name)
    world.on_machine(number, "echo last > /workspace/last.txt")
    world.remove(name)
    assert number not in world.contracts()
    claim = f"standby-{name}-standby-0"
    assert world.get("pvc", claim) is not None
    events = world.kubectl("get", "events", "--field-selector", f"involvedObject.name={name}")
    assert "LastSync" in events
    assert "VolumeKept" in events
    # A pod that mounts the kept claim finds the last words.
    world.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "reader", "namespace": world.namespace},
            "spec": {
                "restartPolicy": "Never",
                "containers": [
                    {
                        "name": "reader",
                        "image": "localhost/gpu-standby-fakes:dev",
                        "imagePullPolicy": "Never",
                        "command": ["cat", "/copy/tree/last.txt"],
                        "volumeMounts": [{"name": "copy", "mountPath": "/copy"}],
                    }
                ],
                "volumes": [{"name": "copy", "persistentVolumeClaim": {"claimName": claim}}],
            },
        }
    )
    world.wait("the last words", lambda: world.kubectl("logs", "reader", check=False).strip() == "last", 60)
    world.kubectl("delete", "pod", "reader", "--grace-period=0", "--force")
    world.kubectl("delete", "pvc", claim, "--wait=false")


def test_deleting_while_the_provider_is_down_waits_and_says_so(world: World, name: str) -> None:
    world.protected(name)
    number = world.machine(name)
    world.vast.fault(status=500)
    world.kubectl("delete", "gsp", name, "--wait=false")
    world.wait(
        "it says what it waits for",
        lambda: "not proven gone" in world.kubectl("get", "events", "--field-selector", f"involvedObject.name={name}"),
        60,
    )
    assert world.get("gsp", name) is not None
    assert number in world.contracts()
    world.vast.no_faults()
    world.wait("it finishes", lambda: world.get("gsp", name) is None, 90)
    assert number not in world.contracts()
    world.wait("the volume is gone", lambda: world.get("pvc", f"standby-{name}-standby-0") is None, 60)


def test_an_adopted_machine_survives(world: World, name: str) -> None:
    number = world.rent()
    try:
        world.protected(name, gpu={"vast": {"instanceId": number}})
        assert world.machine(name) == number
        assert world.side(name) == "gpu"
        world.remove(name)
        assert world.contracts() == [number]
    finally:
        world.destroy(number)
