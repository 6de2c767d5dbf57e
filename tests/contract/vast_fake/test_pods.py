"""Machines as pods: what is asked of Kubernetes for them. (Whether the machines work is seen on a cluster.)"""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from hack.fakes.vast.app import make_app
from hack.fakes.vast.kube import Kube, KubeError
from hack.fakes.vast.model import Settings
from hack.fakes.vast.pods import PodBackend

from .conftest import API_KEY, eventually
from .kube_stub import KubeStub

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me"
SETTINGS = Settings(provisionSeconds=0, bootSeconds=0.05, exitedSeconds=0, attachLagSeconds=0, destroySeconds=0)
Stub = tuple[KubeStub, Callable[[], Kube]]


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[Stub]:
    stub = KubeStub()
    runner = web.AppRunner(stub.app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]

    token = tmp_path / "token"
    token.write_text("token\n")

    def kube() -> Kube:
        return Kube(f"http://{host}:{port}", "n", ssl.create_default_context(), token)

    yield stub, kube
    await runner.cleanup()


@pytest.fixture
async def vast(stub: Stub) -> AsyncIterator[httpx.AsyncClient]:
    backend = PodBackend(stub[1](), "image:dev", "1Gi", None)
    runner = web.AppRunner(make_app(backend, API_KEY, settings=SETTINGS, tick_seconds=0.01), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", headers=headers, trust_env=False) as client:
        yield client
    await runner.cleanup()


async def _rent(vast: httpx.AsyncClient) -> int:
    query: dict[str, Any] = {"rentable": {"eq": True}, "direct_port_count": {"gte": 2}}
    offers = (await vast.post("/api/v0/bundles/", json=query)).json()["offers"]
    body = {
        "image": "i",
        "runtype": "ssh_direc ssh_proxy",
        "env": {"-p 8080:8080": "1", "-p 70001:70001": "1", "A": "b"},
        "onstart": "echo hello",
    }
    return int((await vast.put(f"/api/v0/asks/{offers[0]['id']}/", json=body)).json()["new_contract"])


Look = Callable[[], Awaitable[bool]]


def _status(vast: httpx.AsyncClient, number: int, wanted: str | None) -> Look:
    async def look() -> bool:
        row = (await vast.get(f"/api/v0/instances/{number}/")).json()["instances"]
        return row is None if wanted is None else row is not None and row["actual_status"] == wanted

    return look


async def test_a_machine_is_a_pod_with_a_claim(stub: Stub, vast: httpx.AsyncClient) -> None:
    number = await _rent(vast)
    await eventually(_status(vast, number, "running"))
    kube = stub[0]
    pod = kube.objects["pods"][f"instance-{number}"]
    assert pod["metadata"]["labels"]["bench.gpustandby.dev/instance"] == str(number)
    host = pod["spec"]["containers"][0]
    assert host["name"] == "host"
    assert host["securityContext"]["capabilities"]["add"] == ["NET_ADMIN"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    row = (await vast.get(f"/api/v0/instances/{number}/")).json()["instances"]
    assert row["public_ipaddr"] == "10.9.8.7\n"
    environment = {one["name"]: one.get("value") for one in host["env"]}
    ssh = row["ports"]["22/tcp"][0]["HostPort"]
    assert environment["VAST_TCP_PORT_22"] == ssh
    identity = environment["VAST_TCP_PORT_70001"]
    assert row["ports"][f"{identity}/tcp"][0]["HostPort"] == identity
    assert environment["BENCH_PORTS"].split() == [
        f"22/tcp={ssh}",
        f"8080/tcp={environment['VAST_TCP_PORT_8080']}",
        f"{identity}/tcp={identity}",
    ]
    assert (environment["A"], environment["BENCH_ONSTART"]) == ("b", "echo hello")
    assert "VAST_API_KEY" not in environment
    assert API_KEY not in json.dumps(pod)


async def test_a_stop_keeps_the_disk_and_a_destroy_does_not(stub: Stub, vast: httpx.AsyncClient) -> None:
    kube, number = stub[0], await _rent(vast)
    await eventually(_status(vast, number, "running"))
    first = kube.objects["pods"][f"instance-{number}"]
    await vast.put(f"/api/v0/instances/{number}/", json={"state": "stopped"})
    await eventually(_status(vast, number, "exited"))
    assert kube.objects["pods"] == {}
    assert list(kube.objects["persistentvolumeclaims"]) == [f"instance-{number}"]
    await vast.put(f"/api/v0/instances/{number}/", json={"state": "running"})
    await eventually(_status(vast, number, "running"))
    assert kube.objects["pods"][f"instance-{number}"]["spec"] != first["spec"]
    await vast.request("DELETE", f"/api/v0/instances/{number}/", json={})
    await eventually(_status(vast, number, None))
    assert kube.objects["pods"] == kube.objects["persistentvolumeclaims"] == {}


async def test_keys_and_the_gpu_are_set_inside_the_machine(stub: Stub, vast: httpx.AsyncClient) -> None:
    kube, number = stub[0], await _rent(vast)
    await eventually(_status(vast, number, "running"))
    await vast.post(f"/api/v0/instances/{number}/ssh/", json={"ssh_key": KEY})
    name = f"instance-{number}"

    async def written() -> bool:
        return (name, ["/opt/host/keys", "merge", f"+{KEY}"]) in kube.executed

    await eventually(written)
    await vast.post(f"/_bench/instances/{number}/gpu", json={"nvidia_smi": "hang"})
    assert kube.executed[-1] == (name, ["/opt/host/gpu", "hang"])
    await vast.post(f"/_bench/instances/{number}/kill", json={"silent": True})
    assert kube.executed[-1] == (name, ["/opt/host/silence"])
    await eventually(_status(vast, number, "offline"))


async def test_a_pod_that_somebody_deleted_is_a_machine_that_is_offline(stub: Stub, vast: httpx.AsyncClient) -> None:
    number = await _rent(vast)
    await eventually(_status(vast, number, "running"))
    stub[0].objects["pods"].clear()
    await eventually(_status(vast, number, "offline"))


async def test_the_world_is_kept_in_a_configmap_and_orphans_are_removed(stub: Stub, vast: httpx.AsyncClient) -> None:
    number = await _rent(vast)
    world = json.loads(stub[0].objects["configmaps"]["vast-state"]["data"]["world"])
    assert list(world["instances"]) == [str(number)]
    await eventually(_status(vast, number, "running"))
    await vast.post("/_bench/reset")

    async def empty() -> bool:
        return not stub[0].objects["pods"] and not stub[0].objects["persistentvolumeclaims"]

    await eventually(empty)


async def test_a_command_that_fails_in_a_machine_is_an_error(stub: Stub) -> None:
    kube = stub[1]()
    await kube.open()
    try:
        assert await kube.execute("p", "host", ["true"]) == "outerr"
        with pytest.raises(KubeError, match="exit code 3"):
            await kube.execute("p", "host", ["unwilling"])
    finally:
        await kube.close()
