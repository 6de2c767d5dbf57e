"""Bad input is refused, or said in a condition with the field, the value and the remedy."""

from typing import Any

import pytest
from hack.bench.world import World

EXISTING = {
    "address": "10.0.0.1",
    "privateKeySecretRef": {"name": "key", "key": "key"},
    "hostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA5JgWmoQrp",
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gpu": {"existing": EXISTING}}, ["gpu", "exactly one of gpu.vast and gpu.existing", "remove the other"]),
        ({"gpu": {"vast": None}}, ["exactly one of gpu.vast and gpu.existing"]),
        ({"gpu": {"vast": {"offer": {"maxPricePerHour": "-0.60"}}}}, ["maxPricePerHour"]),
        ({"probe": {"periodSeconds": 0}}, ["spec.probe.periodSeconds", "greater than or equal to 1"]),
        ({"sync": {"periodSeconds": 0}}, ["spec.sync.periodSeconds", "greater than or equal to 1"]),
        ({"workspace": {"path": "/"}}, ["spec.workspace", "absolute folder below /"]),
        ({"workspace": {"path": "work"}}, ["spec.workspace.path"]),
        ({"standby": {"startCommand": "/x"}}, ["standby.startCommand", "standby.pod.command"]),
        ({"probe": {"periodSeconds": 1, "confirmPeriodSeconds": 5}}, ["confirmPeriodSeconds must be at most"]),
    ],
)
def test_refused(world: World, changes: dict[str, Any], told: list[str]) -> None:
    answer = world.refusal(world.pair("refused", **changes))
    for words in told:
        assert words in answer
    assert world.get("gsp", "refused") is None


def test_refused_name(world: World) -> None:
    answer = world.refusal(world.pair("x" * 41, service={"name": "short"}))
    assert "at most 40 characters" in answer
    assert "choose a shorter one" in answer


def test_a_missing_secret_is_named_and_its_coming_noticed(world: World, name: str) -> None:
    reference = {"vast": {"apiKeySecretRef": {"name": f"{name}-key", "key": "token"}}}
    world.apply(world.pair(name, gpu=reference))
    status = world.until(
        name, "it says what is missing", lambda s: world.condition(name, "GpuHealthy")["reason"] == "SecretMissing"
    )
    assert status["phase"] == "Pending"
    told = world.condition(name, "GpuHealthy")["message"]
    assert f"{name}-key" in told
    assert "token" in told
    assert "apiKeySecretRef" in told
    world.kubectl("create", "secret", "generic", f"{name}-key", f"--from-literal=token={world.api_key}")
    world.until(name, "Protected", lambda s: s.get("phase") == "Protected", 120)


def test_somebody_elses_service_is_left_untouched(world: World, name: str) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": world.namespace, "labels": {"owner": "somebody"}},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]},
    }
    world.apply(theirs)
    before = (world.get("service", name) or {})["metadata"]["resourceVersion"]
    world.apply(world.pair(name))
    world.until(name, "Blocked", lambda s: s.get("phase") == "Blocked")
    condition = world.condition(name, "ServiceHealthy")
    assert condition["reason"] == "ServiceTaken"
    assert "spec.service.name" in condition["message"]
    after = (world.get("service", name) or {})["metadata"]
    assert after["resourceVersion"] == before
    assert not world.contracts()
    world.remove(name)
    assert world.get("service", name) is not None
    world.kubectl("delete", "service", name)
