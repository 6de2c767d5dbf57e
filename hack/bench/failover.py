"""`make bench-failover`: the GPU machine dies again and again, cleanly and silently; how long everything takes.

RUNS (20) of each kind. Times are taken where things happen: the stand-in says when the machine died and when a rented
one ran, `status.lastFailover` when the operator decided and flipped, and a client pod what a client saw.
"""

import os
import random
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from hack.bench.client import Client
from hack.bench.figures import Figure, finish, spread
from hack.bench.world import Json, World

GRACE_SECONDS = 1
PROBE_PERIOD_SECONDS = 5
CHANGES: Json = {"recovery": {"graceSeconds": GRACE_SECONDS, "keepOldSeconds": 1}}
"""Probe settings are the defaults."""


@dataclass(frozen=True)
class Run:
    kind: str
    detected: float
    """Death → decision."""
    flipped: float
    """Decision → EndpointSlice acknowledged."""
    gap: float
    """Between the client's last answer from the GPU and the first one from the standby."""
    recovery: float
    """Flip to the standby → flip to the new GPU."""
    provider: float
    """From the first call that rents until the machine runs and its keys are in place."""
    ours: float
    """What is left of the recovery without the grace, the provider, the boot."""
    gap_back: float
    """The same gap on the planned way back."""


def main() -> int:
    runs, count = [], int(os.environ.get("RUNS", "20"))
    world = World("bench")
    world.remove("trainer")
    world.protected("trainer", **CHANGES)
    for kind in ("container", "silent"):
        for number in range(1, count + 1):
            run = _run(world, kind)
            runs.append(run)
            print(
                f"{kind} {number}/{count}: detected {run.detected:.2f} s, flipped {run.flipped:.3f} s, "
                f"gap {run.gap:.2f} s, recovery {run.recovery:.1f} s of which ours {run.ours:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    # After a failure everything stays as it is, to be looked at.
    world.remove("trainer")
    for namespace in (world.namespace, world.operator_namespace, world.vast_namespace):
        world.kubectl("delete", "namespace", namespace, "--wait=false")
    return finish("failover", _figures(runs), [asdict(run) for run in runs])


def _figures(runs: list[Run]) -> list[Figure]:
    clean = [run for run in runs if run.kind == "container"]
    silent = [run for run in runs if run.kind == "silent"]
    return [
        *spread("clean death, death to decision", [r.detected for r in clean], p50=1.5, most=4.0),
        *spread("silent death, death to decision", [r.detected for r in silent], p50=8.5, most=11.0),
        *spread("decision to EndpointSlice acknowledged", [r.flipped for r in runs], p50=0.3, most=1.0),
        *spread("client's gap, clean death", [r.gap for r in clean], most=6.0),
        *spread("client's gap, silent death", [r.gap for r in silent], most=13.0),
        *spread("recovery, our own part", [r.ours for r in runs], p50=8.0, most=12.0),
        *spread("client's gap on the planned way back", [r.gap_back for r in runs]),
        *spread("recovery, all of it", [r.recovery for r in runs]),
    ]


def _run(world: World, kind: str) -> Run:
    name = "trainer"
    old = world.machine(name)
    epoch = world.status(name)["epoch"]
    client = Client(world, name)
    # Death comes at any moment of the probe's period, not always at the one that the last recovery left us at.
    time.sleep(random.uniform(0, PROBE_PERIOD_SECONDS))
    asked = world.vast.kill(old, **{kind: True})
    status = world.until(
        name,
        "recovered",
        lambda s: s["epoch"] == epoch + 2 and s["phase"] == "Protected" and s["lastFailover"].get("recoveredTime"),
        180,
    )
    last = {key: _seconds(text) for key, text in status["lastFailover"].items() if key.endswith("Time")}
    world.wait("the client is answered by the GPU", lambda: _answered(client, "gpu", last["recoveredTime"]), 30)
    gap, back = client.gap(asked, "cpu"), client.gap(last["recoveredTime"] - 1, "gpu")
    client.stop()
    rented, ready = _rented(world, world.machine(name))
    recovery = last["recoveredTime"] - last["flippedTime"]
    run = Run(
        kind=kind,
        detected=last["decidedTime"] - _died(world, old, asked),
        flipped=last["flippedTime"] - last["decidedTime"],
        gap=gap,
        recovery=recovery,
        provider=ready - rented,
        ours=recovery - GRACE_SECONDS - (ready - rented),
        gap_back=back,
    )
    world.wait("the old machine is gone", lambda: world.contracts() == [world.machine(name)], 90)
    return run


def _answered(client: Client, side: str, since: float) -> bool:
    return any(call.ok and call.side == side and call.time > since for call in client.calls())


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _instance(world: World, number: int) -> dict[str, Any]:
    state = world.vast.state()
    return next(i for i in [*state["instances"], *state["destroyed"]] if i["id"] == number)


def _died(world: World, number: int, asked: float) -> float:
    """The moment the stand-in killed it; never before it was asked to."""
    moments = [moment for moment, phase in _instance(world, number)["history"] if phase == "offline"]
    return max(asked, min((m for m in moments if m >= asked), default=asked))


def _rented(world: World, number: int) -> tuple[float, float]:
    """When the contract was made, and when the machine ran and took keys."""
    instance = _instance(world, number)
    lag = world.vast.state()["settings"]["attachLagSeconds"]
    return instance["created_at"], instance["running_since"] + lag


if __name__ == "__main__":
    sys.exit(main())
