"""The objects that a pair owns: what must be true of every one of them."""

import json
from typing import Any

import pytest

from gpu_standby.api.pair import GpuStandbyPair
from gpu_standby.api.replacement import Why
from gpu_standby.api.spec import Side
from gpu_standby.core.objects import replacement, service, standby, sync

PAIR = GpuStandbyPair.model_validate(
    {
        "metadata": {"name": "p", "namespace": "n", "uid": "pair-uid"},
        "spec": {
            "gpu": {
                "vast": {
                    "apiKeySecretRef": {"name": "vast", "key": "api-key"},
                    "image": "i",
                    "offer": {"gpuName": "RTX 4090", "maxPricePerHour": "0.60"},
                }
            },
            "standby": {"pod": {"command": ["/workspace/serve-cpu.sh"], "runAsUser": 12345}},
            "service": {"name": "trainer", "ports": [{"port": 80, "gpuPort": 8080, "standbyPort": 9090}]},
        },
    }
)
SLICE: dict[str, Any] = {
    "side": Side.STANDBY,
    "address": "10.0.0.9",
    "ports": (("http", 9090),),
    "epoch": 4,
    "ready": True,
    "trigger_time": "2026-01-01T00:00:00.000000Z",
    "seen": {"metadata": {"resourceVersion": "7", "uid": "slice-uid"}},
}
ALL = [
    standby.gate_config_map(PAIR, "#!/bin/sh"),
    standby.stateful_set(PAIR, "ours:1"),
    sync.key_secret(PAIR, "p-mover-4", {}),
    sync.service_account(PAIR),
    sync.role(PAIR),
    sync.role_binding(PAIR),
    sync.config_map(PAIR),
    sync.job(PAIR, 4, "ours:1"),
    service.service(PAIR),
    service.endpoint_slice(PAIR, **SLICE),
    replacement.replacement(PAIR, Why.GPU_LOST, 4, 0),
]


@pytest.mark.parametrize("document", ALL, ids=lambda d: str(d["kind"]))
def test_everything_is_labelled_and_owned_by_the_pair(document: dict[str, Any]) -> None:
    meta = document["metadata"]
    assert meta["labels"]["gpustandby.dev/pair"] == "p"
    assert [(o["uid"], o["controller"]) for o in meta["ownerReferences"]] == [("pair-uid", True)]
    assert meta["namespace"] == "n"


def _containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    spec = document["spec"]["template"]["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.mark.parametrize("document", [ALL[1], ALL[7]], ids=["standby", "conductor"])
def test_no_container_of_ours_has_a_right_it_does_not_need(document: dict[str, Any]) -> None:
    spec = document["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in _containers(document):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is (container["name"] != "workload")


def test_the_standby_gets_no_private_key_of_the_operator_and_no_token() -> None:
    spec = ALL[1]["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    secrets = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
    assert [sorted(item["key"] for item in secret["items"]) for secret in secrets] == [
        ["host", "host.pub", "operator.pub"]
    ]
    workload = next(c for c in spec["containers"] if c["name"] == "workload")
    assert not any(mount["name"] == "ssh" for mount in workload["volumeMounts"])
    assert spec["securityContext"]["runAsUser"] == 12345


def test_the_mover_may_touch_one_config_map_and_holds_one_key() -> None:
    assert ALL[4]["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["p-sync"],
            "verbs": ["get", "list", "watch", "patch"],
        }
    ]
    volumes = ALL[7]["spec"]["template"]["spec"]["volumes"]
    assert [item["key"] for volume in volumes for item in volume["secret"]["items"]] == ["mover"]


def test_there_is_never_a_second_conductor_and_it_is_never_given_up() -> None:
    spec = ALL[7]["spec"]
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["backoffLimit"] == 2**31 - 1


def test_the_service_has_no_selector_and_the_slice_at_most_one_endpoint() -> None:
    assert not service.has_selector(ALL[8])
    ready = ALL[9]
    assert [endpoint["addresses"] for endpoint in ready["endpoints"]] == [["10.0.0.9"]]
    assert (ready["metadata"]["resourceVersion"], ready["metadata"]["uid"]) == ("7", "slice-uid")
    assert ready["metadata"]["annotations"]["gpustandby.dev/epoch"] == "4"
    assert ready["metadata"]["annotations"]["endpoints.kubernetes.io/last-change-trigger-time"]
    for changes in ({"ready": False}, {"address": ""}):
        assert service.endpoint_slice(PAIR, **{**SLICE, **changes})["endpoints"] == []


def test_deciding_twice_to_replace_makes_one_object() -> None:
    first, again = (replacement.replacement(PAIR, Why.GPU_LOST, 4, 0) for _ in range(2))
    assert json.dumps(first) == json.dumps(again)
    assert first["metadata"]["finalizers"] == ["gpustandby.dev/finalizer"]
    others = {
        replacement.replacement(PAIR, why, epoch, serial)["metadata"]["name"]
        for why, epoch, serial in ((Why.GPU_LOST, 5, 0), (Why.GPU_LOST, 4, 1), (Why.INITIAL, 4, 0))
    }
    assert len(others | {first["metadata"]["name"]}) == 4
