"""A client pod that calls a Service 20 times a second on fresh connections, and what it saw."""

import json
from dataclasses import dataclass

from hack.bench.world import World

PROGRAM = r"""
import http.client, json, os, sys, threading, time
host, number, lock = os.environ["TARGET"], 0, threading.Lock()

def call(n):
    began = time.time()
    line = {"n": n, "time": began}
    try:
        connection = http.client.HTTPConnection(host, 80, timeout=1)
        connection.request("GET", "/")
        line["side"] = json.load(connection.getresponse())["side"]
        line["ok"] = True
    except Exception as error:
        line["ok"], line["error"] = False, type(error).__name__
    line["took"] = time.time() - began
    with lock:
        print(json.dumps(line), flush=True)

start = time.time()
while time.time() - start < 600:
    number += 1
    threading.Thread(target=call, args=(number,), daemon=True).start()
    time.sleep(max(0, start + number / 20 - time.time()))
"""


@dataclass(frozen=True)
class Call:
    number: int
    time: float
    ok: bool
    side: str
    took: float


class Client:
    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.pod = f"client-{name}"
        service = world.get("service", name)
        if service is None:
            raise LookupError(f"the Service of {name} is not there")
        world.kubectl("delete", "pod", self.pod, "--ignore-not-found", "--grace-period=0", "--force")
        world.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": self.pod, "namespace": world.namespace},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 0,
                    "containers": [
                        {
                            "name": "client",
                            "image": "localhost/gpu-standby-fakes:dev",
                            "imagePullPolicy": "Never",
                            "command": ["python3", "-c", PROGRAM],
                            "env": [{"name": "TARGET", "value": service["spec"]["clusterIP"]}],
                        }
                    ],
                },
            }
        )
        world.wait("the client is answered", lambda: any(call.ok for call in self.calls()))

    def calls(self) -> list[Call]:
        text = self._world.kubectl("logs", self.pod, check=False)
        found = []
        for line in text.splitlines():
            if line.startswith("{"):
                raw = json.loads(line)
                found.append(Call(raw["n"], raw["time"], raw["ok"], raw.get("side", ""), raw["took"]))
        return sorted(found, key=lambda call: call.number)

    def gap(self, after: float, side: str) -> float:
        """Seconds from the last answer before the gap to the first one by `side` after it."""
        calls = self.calls()
        first = next(call for call in calls if call.ok and call.side == side and call.time >= after)
        before = max(call.time for call in calls if call.ok and call.time < first.time and call.side != side)
        return first.time + first.took - before

    def stop(self) -> None:
        self._world.kubectl("delete", "pod", self.pod, "--grace-period=0", "--force", check=False)
