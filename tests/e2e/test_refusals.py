"""Everything the API server can check, it checks; every refusal names the field and the remedy."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.api_server import ApiServer, Json, definitions_in, in_group, plain

NAMESPACE = "default"
HOST: Json = {
    "address": "gpu.example.com",
    "privateKeySecretRef": {"name": "key", "key": "ssh-privatekey"},
    "hostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA5JgWmoQrp",
}
VAST: Json = {
    "apiKeySecretRef": {"name": "vast", "key": "api-key"},
    "image": "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime",
    "offer": {"gpuName": "RTX 4090", "maxPricePerHour": "0.60"},
}
POD: Json = {"command": ["/workspace/serve-cpu.sh"]}


def pair(name: str = "refused", **changes: Any) -> Json:
    """The shortest pair there is; `changes` replace fields by their dotted paths, `__` for a dot; None removes."""
    spec: Json = {
        "gpu": {"vast": {**VAST, "offer": dict(VAST["offer"])}},
        "standby": {"pod": dict(POD)},
        "service": {"name": "trainer", "ports": [{"port": 80, "gpuPort": 8080, "standbyPort": 8080}]},
    }
    for path, value in changes.items():
        *folders, last = path.split("__")
        node = spec
        for folder in folders:
            node = node.setdefault(folder, {})
        if value is None:
            node.pop(last)
        else:
            node[last] = value
    return {"kind": "GpuStandbyPair", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def replacement(name: str, **spec: Any) -> Json:
    return {
        "kind": "GpuReplacement",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"pair": "trainer", **spec},
    }


class Judge:
    """The CRDs under a group of this worker's own."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.api = ApiServer()
        for document in definitions_in(group):
            self.api.kubectl("apply", "--server-side", "-f", "-", document=document)
        for document in definitions_in(group):
            name = document["metadata"]["name"]
            self.api.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")

    def remove(self) -> None:
        for document in definitions_in(self.group):
            self.api.kubectl("delete", "crd", document["metadata"]["name"], "--wait=false", "--ignore-not-found")

    def says(self, document: Json) -> str:
        """Without keeping it."""
        words = ("create", "--dry-run=server", "-f", "-")
        return plain(self.api.kubectl(*words, document=in_group(document, self.group), check=False))

    def keep(self, document: Json) -> str:
        words = ("apply", "-f", "-")
        return plain(self.api.kubectl(*words, document=in_group(document, self.group), check=False))


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    judge = Judge(f"refusals-{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')}.gpustandby.test")
    yield judge
    judge.remove()


REFUSED = {
    "both kinds of GPU": (
        pair(gpu__existing=HOST),
        "spec.gpu",
        "exactly one of gpu.vast and gpu.existing must be set: remove the other",
    ),
    "no kind of GPU": (
        pair(gpu__vast=None),
        "spec.gpu",
        "exactly one of gpu.vast and gpu.existing must be set: add the one that is meant",
    ),
    "both kinds of standby": (
        pair(standby__existing=HOST, standby__startCommand="/x"),
        "spec.standby",
        "exactly one of standby.pod and standby.existing must be set: remove the other",
    ),
    "no kind of standby": (pair(standby__pod=None), "spec.standby", "add the one that is meant"),
    "one machine for both sides": (
        pair(gpu__vast=None, gpu__existing=HOST, standby={"existing": HOST, "startCommand": "/x"}),
        " spec: ",
        "the copy must stand on another one",
    ),
    "a negative price": (
        pair(gpu__vast__offer__maxPricePerHour="-0.60"),
        "spec.gpu.vast.offer.maxPricePerHour",
        'must be a price above zero, a decimal in quotes, e.g. "0.60"',
    ),
    "a price of nothing": (
        pair(gpu__vast__offer__maxPricePerHour="0.00"),
        "spec.gpu.vast.offer.maxPricePerHour",
        "must be a price above zero",
    ),
    "a price without quotes": (
        pair(gpu__vast__offer__maxPricePerHour=0.6),
        "spec.gpu.vast.offer.maxPricePerHour",
        "must be of type string",
    ),
    "no price": (pair(gpu__vast__offer__maxPricePerHour=None), "spec.gpu.vast.offer.maxPricePerHour", "Required value"),
    "a reliability above one": (
        pair(gpu__vast__offer__minReliability="95"),
        "spec.gpu.vast.offer.minReliability",
        "must be a decimal between 0 and 1",
    ),
    "a region that is no code": (
        pair(gpu__vast__offer__regions=["Sweden"]),
        "spec.gpu.vast.offer.regions[0]",
        "may not be more than 2",
    ),
    "a region in small letters": (
        pair(gpu__vast__offer__regions=["se"]),
        "spec.gpu.vast.offer.regions[0]",
        "must be a country code of two capital letters",
    ),
    "a disk of nothing": (
        pair(gpu__vast__offer__diskGiB=0),
        "spec.gpu.vast.offer.diskGiB",
        "should be greater than or equal to 8",
    ),
    "an unknown offer type": (
        pair(gpu__vast__offer__type="Spot"),
        "spec.gpu.vast.offer.type",
        'supported values: "OnDemand", "Interruptible"',
    ),
    "no period of probes": (
        pair(probe={"periodSeconds": 0}),
        "spec.probe.periodSeconds",
        "should be greater than or equal to 1",
    ),
    "no period of syncs": (
        pair(sync={"periodSeconds": 0}),
        "spec.sync.periodSeconds",
        "should be greater than or equal to 1",
    ),
    "one miss as a death": (
        pair(probe={"failureThreshold": 1}),
        "spec.probe.failureThreshold",
        "should be greater than or equal to 2",
    ),
    "slower confirmations than probes": (
        pair(probe={"periodSeconds": 2, "confirmPeriodSeconds": 3}),
        "spec.probe",
        "probe.confirmPeriodSeconds must be at most probe.periodSeconds",
    ),
    "a probe's path without a slash": (
        pair(probe={"service": {"port": 80, "httpPath": "healthz"}}),
        "spec.probe.service.httpPath",
        "must begin with a slash",
    ),
    "the workspace /": (pair(workspace={"path": "/"}), "spec.workspace.path", "must be an absolute folder below /"),
    "a relative workspace": (
        pair(workspace={"path": "work"}),
        "spec.workspace.path",
        "must be an absolute folder below /",
    ),
    "an empty workspace": (pair(workspace={"path": ""}), "spec.workspace.path", "must be an absolute folder below /"),
    "a workspace with ..": (
        pair(workspace={"path": "/a/../b"}),
        "spec.workspace.path",
        "must be an absolute folder below /",
    ),
    "a workspace with a slash at its end": (
        pair(workspace={"path": "/workspace/"}),
        "spec.workspace.path",
        "trailing slash",
    ),
    "a workspace of two lines": (
        pair(workspace={"path": "/work\nspace"}),
        "spec.workspace.path",
        "must be an absolute folder below /",
    ),
    "a workspace of the system": (
        pair(workspace={"path": "/etc"}),
        "spec.workspace",
        "workspace.path must not be a folder of the system",
    ),
    "a start command for a pod": (
        pair(standby__startCommand="/x"),
        "spec.standby",
        "for a pod put it into standby.pod.command",
    ),
    "a host without a start command": (
        pair(standby={"existing": HOST}),
        "spec.standby",
        "standby.startCommand must be set",
    ),
    "a fingerprint for a host key": (
        pair(gpu__vast=None, gpu__existing={**HOST, "hostKey": "SHA256:uNiVztksCsDhcc0u9e8BrJQXVUpKZIDTMczCvj3tD2s"}),
        "spec.gpu.existing.hostKey",
        "ssh-keyscan",
    ),
    "an address with a port": (
        pair(gpu__vast=None, gpu__existing={**HOST, "address": "root@gpu.example.com"}),
        "spec.gpu.existing.address",
        "must be a host name or an IP address alone",
    ),
    "no size": (pair(standby__pod__storage="0Gi"), "spec.standby.pod.storage", "must be a size in Mi, Gi or Ti"),
    "a size without a unit": (
        pair(standby__pod__storage="100G"),
        "spec.standby.pod.storage",
        "must be a size in Mi, Gi or Ti",
    ),
    "no command": (pair(standby__pod__command=[]), "spec.standby.pod.command", "should have at least 1 items"),
    "a Service's name with a dot": (pair(service__name="a.b"), "spec.service.name", "it is a Service's name"),
    "a Service's name that begins with a digit": (pair(service__name="1a"), "spec.service.name", "begin with a letter"),
    "a Service's name of 51 characters": (pair(service__name="s" * 51), "spec.service.name", "may not be more than 50"),
    "no port": (pair(service__ports=[]), "spec.service.ports", "should have at least 1 items"),
    "one name for two ports": (
        pair(
            service__ports=[
                {"name": "http", "port": 80, "gpuPort": 1, "standbyPort": 1},
                {"name": "http", "port": 81, "gpuPort": 2, "standbyPort": 2},
            ]
        ),
        "spec.service.ports[1]",
        "Duplicate value",
    ),
    "one number for two ports": (
        pair(
            service__ports=[
                {"name": "a", "port": 80, "gpuPort": 1, "standbyPort": 1},
                {"name": "b", "port": 80, "gpuPort": 2, "standbyPort": 2},
            ]
        ),
        "spec.service",
        "service.ports must all have a port of their own",
    ),
    "a port that is none": (
        pair(service__ports=[{"port": 80, "gpuPort": 70000, "standbyPort": 1}]),
        "spec.service.ports[0].gpuPort",
        "should be less than or equal to 65535",
    ),
    "an unknown field": (pair(gpu__vats=VAST), "spec.gpu.vats", "unknown field"),
    "a name of 41 characters": (pair("x" * 41), "metadata.name", "at most 40 characters"),
    "a name with a dot": (pair("a.b"), "metadata.name", "use dashes"),
    "a replacement's name of 64 characters": (replacement("x" * 64), "metadata.name", "choose a shorter one"),
    "a replacement without a pair": (replacement("r", pair=""), "spec.pair", "should be at least 1 chars long"),
    "an unknown reason to replace": (replacement("r", why="Bored"), "spec.why", '"Initial", "GpuLost", "Planned"'),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(judge: Judge, what: str) -> None:
    document, field, remedy = REFUSED[what]
    answer = judge.says(document)
    assert field in answer
    assert remedy in answer


ACCEPTED = {
    "the shortest pair": pair("x" * 40),
    "two hosts": pair(
        gpu__vast=None, gpu__existing=HOST, standby={"existing": {**HOST, "sshPort": 2222}, "startCommand": "/x"}
    ),
    "odd prices": pair(gpu__vast__offer__maxPricePerHour="0.000001", gpu__vast__offer__minReliability="1.0"),
    "a deep workspace with a blank": pair(workspace={"path": "/srv/my work/..data"}),
    "whatever a pod takes": pair(
        standby__pod__env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        standby__pod__resources={"limits": {"cpu": "1", "memory": "1Gi"}},
    ),
    "a replacement on purpose": replacement("mine", offer=VAST["offer"]),
}


@pytest.mark.parametrize("what", ACCEPTED)
def test_accepted(judge: Judge, what: str) -> None:
    assert "created (server dry run)" in judge.says(ACCEPTED[what])


def test_what_is_left_out_is_filled_in(judge: Judge) -> None:
    words = ("create", "--dry-run=server", "-o", "json", "-f", "-")
    spec = json.loads(judge.api.kubectl(*words, document=in_group(pair(), judge.group)))["spec"]
    assert spec["workspace"] == {"path": "/workspace", "exclude": []}
    assert spec["probe"] == {"periodSeconds": 5, "timeoutSeconds": 2, "confirmPeriodSeconds": 1, "failureThreshold": 3}
    assert spec["service"]["ports"][0]["name"] == "http"
    assert spec["recovery"]["mode"] == "Automatic"
    assert spec["deletionPolicy"] == "Retain"


UNCHANGEABLE = {
    "the kind of GPU": (
        {"gpu__vast": None, "gpu__existing": HOST},
        "gpu cannot change its kind (vast | existing): make a new pair",
    ),
    "the kind of standby": (
        {"standby": {"existing": HOST, "startCommand": "/x"}},
        "standby cannot change its kind (pod | existing): make a new pair",
    ),
    "the workspace": ({"workspace": {"path": "/other"}}, "workspace.path cannot change"),
    "the Service's name": ({"service__name": "other"}, "service cannot change: clients hold the Service"),
    "the adopted machine": ({"gpu__vast__instanceId": 7}, "gpu.vast.instanceId cannot change"),
    "the volume's size": ({"standby__pod__storage": "30Gi"}, "standby.pod.storage cannot change"),
    "the volume's class": ({"standby__pod__storageClassName": "fast"}, "standby.pod.storageClassName cannot change"),
}


@pytest.mark.parametrize("what", UNCHANGEABLE)
def test_what_cannot_be_honoured_cannot_be_changed(judge: Judge, what: str) -> None:
    changes, told = UNCHANGEABLE[what]
    judge.keep(pair("kept"))
    answer = judge.keep(pair("kept", **changes))
    assert told in answer


def test_what_can_be_honoured_can_be_changed(judge: Judge) -> None:
    judge.keep(pair("kept"))
    changed = pair(
        "kept", sync={"periodSeconds": 60}, gpu__vast__offer__maxPricePerHour="1", probe={"periodSeconds": 9}
    )
    assert "configured" in judge.keep(changed)


def test_a_replacement_cannot_be_changed(judge: Judge) -> None:
    judge.keep(replacement("kept"))
    answer = judge.keep(replacement("kept", why="GpuLost"))
    assert "the spec of a GpuReplacement cannot change: delete it and make another" in answer
