"""The Kubernetes adapter against the real API server: what a stand-in cannot know."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from kubernetes.aio import client, config
from tests.e2e.api_server import ApiServer

from gpu_standby.adapters import kubernetes
from gpu_standby.adapters.kubernetes import KubernetesCluster
from gpu_standby.errors import CannotTell, Conflict, Refused
from gpu_standby.ports import EventType, Kind

Json = dict[str, Any]


@pytest.fixture(scope="module")
def api() -> ApiServer:
    return ApiServer()


@pytest.fixture(scope="module")
def namespace(api: ApiServer) -> Any:
    name = f"api-contract-{uuid.uuid4().hex[:8]}"
    api.kubectl("create", "namespace", name)
    yield name
    api.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
async def cluster(api: ApiServer) -> AsyncIterator[KubernetesCluster]:
    settings = client.Configuration()
    await config.load_kube_config(api.environment["KUBECONFIG"], client_configuration=settings)
    cluster = KubernetesCluster(settings)
    yield cluster
    await cluster.close()


def config_map(namespace: str, name: str, *, version: str | None = None, **data: str) -> Json:
    metadata = {"name": name, "namespace": namespace}
    if version is not None:
        metadata["resourceVersion"] = version
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


async def test_what_is_not_there_is_none_and_its_delete_is_fine(cluster: KubernetesCluster, namespace: str) -> None:
    assert await cluster.get(Kind.CONFIG_MAP, namespace, "nothing") is None
    await cluster.delete(Kind.CONFIG_MAP, namespace, "nothing")
    assert await cluster.get(Kind.CONFIG_MAP, "no-such-namespace", "nothing") is None


async def test_a_name_that_is_taken_is_a_conflict(cluster: KubernetesCluster, namespace: str) -> None:
    await cluster.create(config_map(namespace, "taken"))
    with pytest.raises(Conflict, match="already exists"):
        await cluster.create(config_map(namespace, "taken"))


async def test_an_apply_makes_and_takes_over_what_somebody_else_wrote(
    cluster: KubernetesCluster, api: ApiServer, namespace: str
) -> None:
    await cluster.apply(config_map(namespace, "applied", a="1"))
    api.kubectl("-n", namespace, "patch", "cm", "applied", "--type=merge", '-p={"data":{"a":"theirs","b":"theirs"}}')
    after = await cluster.apply(config_map(namespace, "applied", a="2"))
    assert after["data"] == {"a": "2", "b": "theirs"}


async def test_an_apply_guarded_by_an_old_version_is_a_conflict(cluster: KubernetesCluster, namespace: str) -> None:
    old = await cluster.apply(config_map(namespace, "guarded", a="1"))
    version = old["metadata"]["resourceVersion"]
    await cluster.apply(config_map(namespace, "guarded", version=version, a="2"))
    with pytest.raises(Conflict, match="modified"):
        await cluster.apply(config_map(namespace, "guarded", version=version, a="3"))
    assert ((await cluster.get(Kind.CONFIG_MAP, namespace, "guarded")) or {})["data"] == {"a": "2"}


async def test_a_version_alone_does_not_keep_an_apply_from_making_the_deleted_anew_but_a_uid_does(
    cluster: KubernetesCluster, namespace: str
) -> None:
    old = await cluster.apply(config_map(namespace, "vanished", a="1"))
    version, uid = old["metadata"]["resourceVersion"], old["metadata"]["uid"]
    await cluster.delete(Kind.CONFIG_MAP, namespace, "vanished")
    guarded = config_map(namespace, "vanished", version=version, a="2")
    with pytest.raises(Conflict, match="uid mismatch"):
        await cluster.apply({**guarded, "metadata": {**guarded["metadata"], "uid": uid}})
    assert await cluster.get(Kind.CONFIG_MAP, namespace, "vanished") is None
    assert (await cluster.apply(guarded))["metadata"]["uid"] != uid


async def test_the_status_of_a_deleted_object_is_not_written(cluster: KubernetesCluster, namespace: str) -> None:
    """With version and uid, as the controllers send it."""
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "gone", "namespace": namespace}}
    made = (await cluster.apply({**service, "spec": {"ports": [{"port": 80}]}}))["metadata"]
    await cluster.delete(Kind.SERVICE, namespace, "gone")
    metadata = {key: made[key] for key in ("name", "namespace", "uid", "resourceVersion")}
    with pytest.raises(Conflict, match="uid mismatch"):
        await cluster.apply_status({**service, "metadata": metadata, "status": {"conditions": []}})
    assert await cluster.get(Kind.SERVICE, namespace, "gone") is None


async def test_of_two_guarded_writes_at_once_one_wins(cluster: KubernetesCluster, namespace: str) -> None:
    old = await cluster.apply(config_map(namespace, "raced", a="0"))
    version = old["metadata"]["resourceVersion"]
    written = await asyncio.gather(
        *(cluster.apply(config_map(namespace, "raced", version=version, a=str(n))) for n in range(1, 6)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, dict) for result in written) == 1
    assert sum(isinstance(result, Conflict) for result in written) == 4


async def test_a_guarded_merge_patch_is_a_conflict_and_a_null_takes_away(
    cluster: KubernetesCluster, namespace: str
) -> None:
    old = await cluster.create(config_map(namespace, "patched", a="1", b="1"))
    after = await cluster.patch(Kind.CONFIG_MAP, namespace, "patched", {"data": {"a": None}})
    assert after["data"] == {"b": "1"}
    stale = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}, "data": {"b": "2"}}
    with pytest.raises(Conflict, match="modified"):
        await cluster.patch(Kind.CONFIG_MAP, namespace, "patched", stale)


async def test_a_status_is_written_apart_from_the_spec(cluster: KubernetesCluster, namespace: str) -> None:
    metadata = {"name": "served", "namespace": namespace}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
    made = await cluster.apply({**service, "spec": {"ports": [{"name": "http", "port": 80}]}})
    condition = {
        "type": "gpustandby.dev/Tested",
        "status": "True",
        "reason": "Tested",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {"conditions": [condition]}
    version = made["metadata"]["resourceVersion"]
    written = await cluster.apply_status(
        {**service, "metadata": {**metadata, "resourceVersion": version}, "status": status}
    )
    assert written["status"]["conditions"][0]["type"] == "gpustandby.dev/Tested"
    assert written["spec"]["ports"] == made["spec"]["ports"]
    with pytest.raises(Conflict):
        await cluster.apply_status(
            {**service, "metadata": {**metadata, "resourceVersion": version}, "status": {"conditions": []}}
        )


async def test_what_the_server_refuses_is_told_in_its_words(cluster: KubernetesCluster, namespace: str) -> None:
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "refused", "namespace": namespace},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"]}],
    }
    with pytest.raises(Refused, match=r"endpoints\[0\].addresses\[0\].*loopback"):
        await cluster.apply(slice_)


async def test_a_delete_of_an_older_namesake_leaves_the_new_one(cluster: KubernetesCluster, namespace: str) -> None:
    old = await cluster.create(config_map(namespace, "namesake"))
    await cluster.delete(Kind.CONFIG_MAP, namespace, "namesake", uid=old["metadata"]["uid"])
    new = await cluster.create(config_map(namespace, "namesake"))
    await cluster.delete(Kind.CONFIG_MAP, namespace, "namesake", uid=old["metadata"]["uid"])
    there = await cluster.get(Kind.CONFIG_MAP, namespace, "namesake")
    assert there is not None
    assert there["metadata"]["uid"] == new["metadata"]["uid"]


async def test_a_list_of_many_pages_is_complete(
    cluster: KubernetesCluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "PAGE", 3)
    for number in range(10):
        document = config_map(namespace, f"listed-{number}")
        document["metadata"]["labels"] = {"listed": "yes"}
        await cluster.create(document)
    found = await cluster.list(Kind.CONFIG_MAP, namespace, {"listed": "yes"})
    assert [item["metadata"]["name"] for item in found] == [f"listed-{number}" for number in range(10)]
    assert {(item["apiVersion"], item["kind"]) for item in found} == {("v1", "ConfigMap")}


async def test_a_key_that_is_no_key_tells_us_nothing(
    cluster: KubernetesCluster, namespace: str, api: ApiServer
) -> None:
    settings = client.Configuration()
    await config.load_kube_config(api.environment["KUBECONFIG"], client_configuration=settings)
    settings.cert_file = settings.key_file = None
    settings.api_key = {"BearerToken": "bearer nonsense"}
    stranger = KubernetesCluster(settings)
    with pytest.raises(CannotTell, match="401"):
        await stranger.get(Kind.CONFIG_MAP, namespace, "nothing")
    await stranger.close()


async def test_an_event_is_shown_with_its_object_and_counted(
    cluster: KubernetesCluster, namespace: str, api: ApiServer
) -> None:
    about = await cluster.create(config_map(namespace, "eventful"))
    for _ in range(3):
        await cluster.event(about, EventType.WARNING, "FailedOver", "Standby is the active side at epoch 2")
    await cluster.event(about, EventType.NORMAL, "FailedBack", "GPU is the active side at epoch 3")
    columns = "-o=custom-columns=R:.reason,T:.type,C:.count,F:.reportingComponent"
    shown = api.kubectl("-n", namespace, "get", "events", "--field-selector=involvedObject.name=eventful", columns)
    rows = {tuple(line.split()) for line in shown.splitlines()[1:]}
    assert rows == {
        ("FailedOver", "Warning", "3", "gpu-standby"),
        ("FailedBack", "Normal", "1", "gpu-standby"),
    }
