"""One stand-in Vast.ai, one operator and one namespace of pairs on a real cluster, as a person would drive them."""

import contextlib
import json
import os
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
Json = dict[str, Any]


class NotYet(AssertionError):
    """A condition did not come true in time; the text has what was seen."""


class World:
    def __init__(self, name: str) -> None:
        self.namespace = name
        self.operator_namespace = f"{name}-operator"
        self.vast_namespace = f"{name}-vast"
        self._environment = {**os.environ, **_exports([str(TOP / "hack/cluster/env")])}
        told = _exports([str(TOP / "hack/bench/install"), name], self._environment)
        self.vast = Vast(told["VAST_URL"])
        self.api_key = told["VAST_API_KEY"]

    # --- kubectl ----------------------------------------------------------------------------------------------

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True, namespace: str | None = None) -> str:
        command = ["kubectl", "-n", namespace or self.namespace, *words]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=self._environment, timeout=180, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{shlex.join(command)}: {done.stderr.strip()}")
        return done.stdout if done.returncode == 0 else done.stderr

    def get(self, kind: str, name: str, namespace: str | None = None) -> Json | None:
        text = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found", namespace=namespace)
        return dict(json.loads(text)) if text.strip() else None

    def objects(self, kind: str, *words: str, namespace: str | None = None) -> list[Json]:
        found: list[Json] = json.loads(self.kubectl("get", kind, "-o", "json", *words, namespace=namespace))["items"]
        return found

    def apply(self, document: Json) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps(document))

    def refusal(self, document: Json) -> str:
        """What the API server says to a document that it must refuse."""
        return self.kubectl("apply", "-f", "-", stdin=json.dumps(document), check=False)

    def annotate(self, name: str, annotation: str) -> None:
        self.kubectl("annotate", "gsp", name, f"gpustandby.dev/{annotation}", "--overwrite")

    def pod_exec(self, pod: str, container: str, script: str, namespace: str | None = None) -> str:
        return self.kubectl("exec", pod, "-c", container, "--", "sh", "-c", script, namespace=namespace)

    # --- pairs ------------------------------------------------------------------------------------------------

    def pair(self, name: str, **changes: Any) -> Json:
        """A pair with short settings; `changes` are laid over its spec, deeply."""
        spec: Json = {
            "gpu": {
                "vast": {
                    "apiKeySecretRef": {"name": "vast", "key": "api-key"},
                    "image": "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime",
                    "offer": {"gpuName": "RTX 4090", "diskGiB": 20, "maxPricePerHour": "0.60"},
                },
                "startCommand": "/workspace/serve.sh",
            },
            "standby": {"pod": {"storage": "1Gi", "command": ["/workspace/serve-cpu.sh"]}, "stopSeconds": 3},
            "service": {"name": name, "ports": [{"port": 80, "gpuPort": 8080, "standbyPort": 8080}]},
            "sync": {"periodSeconds": 2},
            "probe": {"service": {"port": 8080, "httpPath": "/healthz"}},
            "recovery": {"graceSeconds": 2, "keepOldSeconds": 1},
            "deletionPolicy": "Delete",
        }
        return {
            "apiVersion": "gpustandby.dev/v1alpha1",
            "kind": "GpuStandbyPair",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": _laid_over(spec, changes),
        }

    def status(self, name: str) -> Json:
        pair = self.get("gsp", name)
        return (pair or {}).get("status") or {}

    def condition(self, name: str, kind: str) -> Json:
        found = [c for c in self.status(name).get("conditions", []) if c["type"] == kind]
        return found[0] if found else {"status": None, "reason": None, "message": ""}

    def until(self, name: str, what: str, holds: Callable[[Json], object], seconds: float = 60) -> Json:
        """Until the pair's status is as wanted; the failure tells its story."""

        def look() -> Json | None:
            status = self.status(name)
            return status if holds(status) else None

        return dict(self.wait(what, look, seconds, lambda: self._story(name)))

    def wait(
        self,
        what: str,
        look: Callable[[], Any],
        seconds: float = 60,
        story: Callable[[], str] | None = None,
        every: float = 0.2,
    ) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > deadline:
                raise NotYet(f"not within {seconds:g} s: {what}\n{story() if story else ''}")
            time.sleep(every)

    def protected(self, name: str, **changes: Any) -> Json:
        """Apply a pair and wait until it is protected."""
        self.apply(self.pair(name, **changes))
        return self.until(name, "Protected", lambda s: s.get("phase") == "Protected", 120)

    def remove(self, name: str, seconds: float = 90) -> None:
        self.kubectl("delete", "gsp", name, "--ignore-not-found", "--wait=false")
        self.wait(f"{name} is gone", lambda: self.get("gsp", name) is None, seconds, lambda: self._story(name))

    def _story(self, name: str) -> str:
        parts = [
            self.kubectl("get", "gsp", name, "-o", "yaml", check=False).partition("status:")[2],
            self.kubectl("get", "gpr,pods", "-o", "wide", check=False),
            self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)[-3000:],
            self.operator_log(40),
        ]
        return "\n---\n".join(parts)

    # --- machines ---------------------------------------------------------------------------------------------

    def machine(self, name: str) -> int:
        return int(self.status(name)["gpu"]["providerID"].removeprefix("vast://"))

    def on_machine(self, number: int, script: str) -> str:
        return self.pod_exec(f"instance-{number}", "host", script, namespace=self.vast_namespace)

    def on_standby(self, name: str, script: str, container: str = "agent") -> str:
        return self.pod_exec(f"{name}-standby-0", container, script)

    def contracts(self) -> list[int]:
        """What is rented at present, as it really is."""
        return [instance["id"] for instance in self.vast.state()["instances"]]

    def rent(self) -> int:
        """A machine rented by hand, as a person would with the provider's own client; its number once it runs."""
        offers = self._vast_api("POST", "bundles/", {"gpu_name": {"eq": "RTX 4090"}, "num_gpus": {"eq": 1}, "limit": 1})
        env = {"-p 8080:8080": "1"}
        body = {"image": "mine", "disk": 20, "label": "mine", "runtype": "ssh_direc ssh_proxy", "env": env}
        number = int(self._vast_api("PUT", f"asks/{offers['offers'][0]['id']}/", body)["new_contract"])
        self.wait("it runs", lambda: self._instance(number).get("actual_status") == "running", 60)
        return number

    def destroy(self, number: int) -> None:
        self._vast_api("DELETE", f"instances/{number}/", {})

    def _instance(self, number: int) -> Json:
        return self._vast_api("GET", f"instances/{number}/")["instances"] or {}

    def _vast_api(self, method: str, path: str, body: Json | None = None) -> Json:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.vast.url}/api/v0/{path}", data=data, method=method)  # noqa: S310
        request.add_header("Authorization", f"Bearer {self.api_key}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return dict(json.load(answer))

    # --- the operator -----------------------------------------------------------------------------------------

    def operator_pod(self) -> Json:
        def look() -> Json | None:
            pods = self.objects("pods", namespace=self.operator_namespace)
            alive = [p for p in pods if not p["metadata"].get("deletionTimestamp") and _is_ready(p)]
            return alive[0] if alive else None

        found: Json = self.wait("the operator runs", look, 60)
        return found

    def kill_operator(self) -> None:
        """kill -9, by way of a grace of zero."""
        name = self.operator_pod()["metadata"]["name"]
        self.kubectl("delete", "pod", name, "--grace-period=0", "--force", namespace=self.operator_namespace)

    @contextlib.contextmanager
    def cut_off(self, address: str, *, except_for: str) -> Iterator[None]:
        """Every packet of one pod is dropped on its node, but for those to and from one address."""
        rules = (
            f"table inet cut {{ chain way {{ type filter hook prerouting priority -300; policy accept; "
            f"ip saddr {address} ip daddr != {{ {except_for}, 10.125.0.1 }} drop; "
            f"ip daddr {address} ip saddr != {except_for} drop; }}; }}"
        )
        inside = ["nsenter", "--net=/run/netns/gpu-standby"]
        subprocess.run([*inside, "nft", rules], check=True, timeout=10)
        try:
            yield
        finally:
            subprocess.run([*inside, "nft", "delete", "table", "inet", "cut"], check=True, timeout=10)

    def operator_log(self, lines: int) -> str:
        words = ("logs", "deployment/gpu-standby", f"--tail={lines}")
        return self.kubectl(*words, check=False, namespace=self.operator_namespace)

    # --- clients ----------------------------------------------------------------------------------------------

    def ask(self, name: str, path: str = "/", method: str = "GET") -> Json | None:
        """One request to the Service, from this machine."""
        service = self.get("service", name)
        if service is None:
            return None
        request = urllib.request.Request(f"http://{service['spec']['clusterIP']}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:  # noqa: S310
                return dict(json.load(answer))
        except (OSError, ValueError):
            return None

    def side(self, name: str) -> str | None:
        return (self.ask(name) or {}).get("side")


class Vast:
    """The stand-in's control."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}/_bench/{path}", data=data, method=method)  # noqa: S310
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return dict(json.load(answer))

    def state(self) -> Json:
        return self.call("GET", "state")

    def kill(self, number: int, **how: bool) -> float:
        """The moment before it dies."""
        before = time.time()
        self.call("POST", f"instances/{number}/kill", dict(how))
        return before

    def revive(self, number: int) -> None:
        self.call("POST", f"instances/{number}/revive", {})

    def fault(self, **what: Any) -> None:
        self.call("POST", "faults", what)

    def no_faults(self) -> None:
        self.call("DELETE", "faults")


def _is_ready(pod: Json) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def _laid_over(base: Json, changes: Json) -> Json:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(old, dict):
            merged[key] = _laid_over(old, value)
        else:
            merged[key] = value
    return merged


def _exports(command: Sequence[str], environment: dict[str, str] | None = None) -> dict[str, str]:
    """What a script's `export A=b C=d` lines set."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{shlex.join(command)}: {done.stderr.strip()[-2000:]}")
    script = f"set -a; {done.stdout}\nenv -0"
    told = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=10, check=True
    ).stdout
    pairs = (line.partition("=") for line in told.split("\0") if line)
    return {key: value for key, _, value in pairs}
