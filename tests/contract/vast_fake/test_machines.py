"""The stand-in's machines on a real cluster: `eval "$(hack/fakes/deploy)"` first. It resets the stand-in."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif("VAST_URL" not in os.environ, reason="VAST_URL is not set: no stand-in on a cluster"),
]
NAMESPACE = os.environ.get("FAKES_NAMESPACE", "gpu-standby-fakes")


def until(check: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)
    return found


@dataclass
class Machine:
    vast: httpx.Client
    id: int
    key: Path

    def row(self) -> dict[str, Any]:
        found: dict[str, Any] = self.vast.get(f"/api/v0/instances/{self.id}/").json()["instances"]
        return found

    def becomes(self, status: str) -> dict[str, Any]:
        row: dict[str, Any] = until(lambda: (row := self.row())["actual_status"] == status and row)
        return row

    def port(self, inside: str) -> int:
        return int(self.row()["ports"][inside][0]["HostPort"])

    @property
    def address(self) -> str:
        return str(self.row()["public_ipaddr"]).strip()

    def ssh(self, command: str) -> subprocess.CompletedProcess[str]:
        words = ["ssh", "-i", str(self.key), "-p", str(self.port("22/tcp")), f"root@{self.address}"]
        for option in (
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "ConnectTimeout=2",
            "LogLevel=ERROR",
        ):
            words += ["-o", option]
        return subprocess.run([*words, command], capture_output=True, text=True, timeout=20)

    def ready(self) -> None:
        until(lambda: self.ssh("true").returncode == 0)

    def inside(self, *command: str) -> None:
        words = ["kubectl", "-n", NAMESPACE, "exec", f"instance-{self.id}", "-c", "host", "--", *command]
        subprocess.run(words, check=True, timeout=20)

    def bench(self, word: str, **body: Any) -> None:
        self.vast.post(f"/_bench/instances/{self.id}/{word}", json=body).raise_for_status()

    def state(self, state: str) -> None:
        self.vast.put(f"/api/v0/instances/{self.id}/", json={"state": state}).raise_for_status()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    headers = {"Authorization": f"Bearer {os.environ['VAST_API_KEY']}"}
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=10)
    with httpx.Client(base_url=os.environ["VAST_URL"], headers=headers, trust_env=False, timeout=20) as vast:
        vast.post("/_bench/reset").raise_for_status()
        query: dict[str, Any] = {"rentable": {"eq": True}, "direct_port_count": {"gte": 3}, "num_gpus": {"eq": 1}}
        ask = vast.post("/api/v0/bundles/", json=query).json()["offers"][0]["id"]
        body = {
            "image": "i",
            "disk": 20,
            "runtype": "ssh_direc ssh_proxy",
            "env": {"-p 8080:8080": "1", "COLOUR": "red"},
            "onstart": "touch ~/.no_auto_tmux; env | grep COLOUR >> /etc/environment; exec /workspace/serve.sh",
        }
        rented = vast.put(f"/api/v0/asks/{ask}/", json=body).raise_for_status().json()
        machine = Machine(vast, rented["new_contract"], key)
        public = key.with_suffix(".pub").read_text().strip()
        vast.post(f"/api/v0/instances/{machine.id}/ssh/", json={"ssh_key": public}).raise_for_status()
        machine.becomes("running")
        machine.ready()
        yield machine
        vast.request("DELETE", f"/api/v0/instances/{machine.id}/", json={}).raise_for_status()


def test_it_is_a_host_with_ports_of_its_own(machine: Machine) -> None:
    said = machine.ssh("echo $COLOUR $VAST_TCP_PORT_22; id -u; nvidia-smi -L; rsync --version | head -n 1").stdout
    assert said.splitlines()[:2] == ["red", "0"]  # only what onstart put into /etc/environment is seen
    assert "GPU 0: NVIDIA" in said
    url = f"http://{machine.address}:{machine.port('8080/tcp')}"
    assert until(lambda: httpx.get(f"{url}/healthz", trust_env=False).text == "ok\n")
    assert httpx.post(f"{url}/append", content="x", trust_env=False).json()["number"] == 1
    assert httpx.get(url, trust_env=False).json()["side"] == "gpu"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{machine.address}:8080/", trust_env=False)


def test_a_stop_and_a_start_keep_its_disk_and_its_host_key(machine: Machine) -> None:
    keys, port = machine.ssh("touch /workspace/mark; cat /etc/ssh/disk/*.pub").stdout, machine.port("22/tcp")
    machine.state("stopped")
    machine.becomes("exited")
    machine.state("running")
    machine.becomes("running")
    machine.ready()
    assert machine.port("22/tcp") != port
    assert machine.ssh("ls /workspace/mark && cat /etc/ssh/disk/*.pub").stdout == "/workspace/mark\n" + keys


def test_its_gpu_fails_and_hangs_as_told(machine: Machine) -> None:
    for mode, code in (("fail", "9"), ("hang", "137"), ("missing", "127"), ("ok", "0")):
        machine.bench("gpu", nvidia_smi=mode)
        assert machine.ssh("timeout -k 0.5 0.5 nvidia-smi >/dev/null 2>&1; echo $?").stdout.strip() == code


def test_it_can_be_frozen_killed_and_darkened(machine: Machine) -> None:
    machine.inside("nft", "table inet cut { chain in { type filter hook prerouting priority -300; policy drop; }; }")
    assert "timed out" in machine.ssh("true").stderr
    machine.inside("nft", "delete table inet cut")
    assert machine.ssh("true").returncode == 0
    machine.bench("kill")
    machine.becomes("offline")
    machine.bench("revive")
    machine.becomes("running")
    machine.ready()
    address, port = machine.address, machine.port("22/tcp")
    machine.bench("kill", silent=True)
    machine.becomes("offline")
    with pytest.raises(httpx.ConnectTimeout):  # not "no such host", not "refused"
        httpx.get(f"http://{address}:{port}/", timeout=4, trust_env=False)
