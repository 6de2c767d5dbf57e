"""Machines of the user's own on both sides, reached by SSH: no provider, no volume of ours."""

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hack.bench.world import World

CUT = "nft 'table inet cut { chain in { type filter hook prerouting priority -300; policy drop; }; }'"
MEND = "nft delete table inet cut"


@pytest.fixture
def key(world: World, tmp_path: Path) -> Iterator[str]:
    """The user's own key: its public half; the private one is in the Secret `own-key`."""
    file = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    data = {"key": base64.b64encode(file.read_bytes()).decode()}
    meta = {"name": "own-key", "namespace": world.namespace}
    world.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": data})
    yield file.with_suffix(".pub").read_text().strip()
    world.kubectl("delete", "secret", "own-key")


def _host(world: World, name: str, key: str) -> dict[str, Any]:
    """A pod that is an SSH host; how it is reached, as a pair's spec wants it."""
    container = {
        "name": "host",
        "image": "localhost/gpu-standby-fakes:dev",
        "imagePullPolicy": "Never",
        "command": ["/opt/host/entry"],
        "env": [{"name": "BENCH_AUTHORIZED_KEYS", "value": key}],
        "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}},
    }
    meta = {"name": name, "namespace": world.namespace}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    world.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    read = "cat /etc/ssh/disk/ssh_host_ed25519_key.pub 2>/dev/null && pgrep -x sshd >/dev/null"

    def look() -> str | None:
        pod = world.get("pod", name)
        if pod is None or pod["status"].get("phase") != "Running":
            return None
        told = world.kubectl("exec", name, "--", "sh", "-c", read, check=False)
        return " ".join(told.split()[:2]) if told.startswith("ssh-") else None

    host_key = world.wait(f"{name} runs sshd", look, 60)
    address = (world.get("pod", name) or {})["status"]["podIP"]
    return {
        "address": address,
        "user": "root",
        "privateKeySecretRef": {"name": "own-key", "key": "key"},
        "hostKey": host_key,
    }


@pytest.fixture
def hosts(world: World, key: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    yield _host(world, "own-gpu", key), _host(world, "own-standby", key)
    world.kubectl("delete", "pod", "own-gpu", "own-standby", "--grace-period=0", "--force", "--ignore-not-found")


def test_own_machines_fail_over_and_back(world: World, name: str, hosts: tuple[dict[str, Any], dict[str, Any]]) -> None:
    gpu, standby = hosts
    world.protected(
        name,
        gpu={"vast": None, "existing": gpu},
        standby={
            "pod": None,
            "existing": {**standby, "path": "/srv/standby"},
            "startCommand": "PORT=8080 python3 app.py cpu",
        },
    )
    assert world.side(name) == "gpu"
    world.pod_exec("own-gpu", "host", "echo one > /workspace/one.txt")
    copy = "cat /srv/standby/tree/one.txt 2>/dev/null || true"
    world.wait("the copy holds it", lambda: world.pod_exec("own-standby", "host", copy).strip() == "one", 20)

    world.pod_exec("own-gpu", "host", CUT)
    world.until(name, "on the standby", lambda s: s.get("active") == "Standby" and not s.get("move"), 40)
    world.wait("the standby answers", lambda: world.side(name) == "cpu", 20)
    world.pod_exec("own-standby", "host", "echo two > /srv/standby/tree/two.txt")

    world.pod_exec("own-gpu", "host", MEND)
    status = world.until(name, "back on the GPU", lambda s: s.get("phase") == "Protected", 90)
    assert (status["active"], status["epoch"]) == ("GPU", 3)
    assert world.pod_exec("own-gpu", "host", "cat /workspace/two.txt").strip() == "two"
    world.wait("the GPU answers", lambda: world.side(name) == "gpu", 15)
    assert not world.contracts()


def test_another_machine_at_the_same_address_is_told_nothing(
    world: World, name: str, hosts: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    """Its host key is evidence; the condition names it and the remedy, and the remedy works."""
    gpu, _ = hosts
    world.protected(name, gpu={"vast": None, "existing": gpu}, failover={"mode": "Manual"})
    fresh = "ssh-keygen -q -t ed25519 -N '' -f /tmp/other && mv -f /tmp/other /etc/ssh/disk/ssh_host_ed25519_key"
    # Its listener takes the new key, and the sessions of the machine that was there before end.
    restart = "main=$(pgrep -o -x sshd); kill -HUP $main; pgrep -x sshd | grep -vx $main | xargs -r kill -9; true"
    world.pod_exec("own-gpu", "host", f"{fresh}; {restart}")
    world.until(name, "it is noticed", lambda s: world.condition(name, "GpuHealthy")["reason"] == "AnotherHostKey", 40)
    told = world.condition(name, "GpuHealthy")["message"]
    assert "nothing was sent to it" in told
    remedy = told.rpartition("gpustandby.dev/")[2]
    assert remedy.startswith("accept-host-key=SHA256:")
    assert world.status(name)["active"] == "GPU"
    world.annotate(name, remedy)
    world.until(name, "trusted again", lambda s: s.get("phase") == "Protected", 60)
