"""The replacement's controller, with the real client, against the stand-in server: a rental from end to end."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.contract.vast_client.conftest import API_KEY, Bench
from tests.unit.controllers.rental_world import HEALTHY, NAME, NAMESPACE, World, WorldCluster, good_mover, pair

from gpu_standby.controllers.context import Context
from gpu_standby.controllers.fleet import Fleet
from gpu_standby.controllers.replacement import ReplacementController
from gpu_standby.core.evidence import MachineAddress, Outcome, Sample
from gpu_standby.ports import Kind


class Healthy:
    """Every machine lets us in and is well."""

    def __init__(self, address: MachineAddress) -> None:
        self.address = address

    async def confirm(self, timeout: float) -> Sample:
        return Sample(0, 0, Outcome.ANSWERED, held=False)

    async def run(self, command: str, *, timeout: float, stdin: str | None = None) -> str:
        return HEALTHY

    async def close(self) -> None:
        return None


class Connections:
    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def provider(self, api_key: str) -> Any:
        assert api_key == API_KEY
        return self._bench.vast

    def machine(self, address: MachineAddress, private_key: str) -> Healthy:
        return Healthy(address)

    async def host_key(self, host: str, port: int, timeout: float) -> str:
        return f"ssh-ed25519 {host}"


class RealClock:
    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Rental:
    def __init__(self, bench: Bench) -> None:
        self.world = World(mover=good_mover)
        document = pair()
        document["spec"]["gpu"]["vast"]["offer"] |= {"regions": [], "diskGiB": 20}
        self.world.put(document)
        self.world.secret("vast", {"api-key": API_KEY})
        clock, connections = RealClock(), Connections(bench)
        context = Context(
            cluster=WorldCluster(self.world),
            connections=connections,  # type: ignore[arg-type]
            clock=clock,
            fleet=Fleet(connections, clock, ()),  # type: ignore[arg-type]
            installation="inst",
            image="image",
            gate_script="",
        )
        self.controller = ReplacementController(context, NAMESPACE, NAME)

    async def until(self, so: Callable[[], bool]) -> None:
        stopped = asyncio.Event()
        task = asyncio.create_task(self.controller.run(stopped))
        try:
            async with asyncio.timeout(20):
                while not so():
                    await asyncio.sleep(0.02)
                    self.world._mover()
        except TimeoutError:
            raise AssertionError(f"{self.world.status} {self.world.events}") from None
        finally:
            stopped.set()
            self.controller.wake()
            await task

    async def released(self) -> None:
        document = self.world.get(Kind.REPLACEMENT, NAME)
        document["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        async with asyncio.timeout(40):
            while await self.controller.release(document) is not None:  # noqa: ASYNC110 - asked again and again, as by kopf
                await asyncio.sleep(0.3)


async def test_a_machine_is_rented_made_ready_and_destroyed(bench: Bench) -> None:
    rental = Rental(bench)
    await rental.until(rental.world.phase("Ready"))
    await rental.until(lambda: "labels" not in rental.world.status)
    (machine,) = (await bench.vast.list()).instances
    assert rental.world.status["providerID"] == f"vast://{machine.contract}"
    rental.world.get(Kind.PAIR, "trainer")["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    await rental.released()
    assert (await bench.vast.list()).instances == ()
    assert (await bench.state())["createCalls"] == 1


@pytest.mark.parametrize("fault", ["commit-then-500", "commit-then-reset"])
async def test_a_create_whose_answer_is_lost_rents_one_machine(bench: Bench, fault: str) -> None:
    await bench.control("POST", "settings", {"readLagSeconds": 1})
    await bench.fault(fault=fault, on="create", times=1)
    rental = Rental(bench)
    await rental.until(rental.world.phase("Ready"))
    assert len((await bench.vast.list()).instances) == 1
    assert (await bench.state())["createCalls"] == 1


async def test_offers_that_are_taken_and_throttling_are_got_over(bench: Bench) -> None:
    await bench.fault(fault="no_such_ask", on="create", times=2)
    await bench.fault(fault="429-text", on="list", times=2)
    await bench.fault(fault="html-403", on="search", times=1)
    rental = Rental(bench)
    await rental.until(rental.world.phase("Ready"))
    assert len((await bench.vast.list()).instances) == 1


async def test_a_destroy_is_repeated_through_errors_until_it_is_proven(bench: Bench) -> None:
    rental = Rental(bench)
    rental.world.mover = None
    await rental.until(rental.world.phase("Restoring"))
    await bench.fault(fault="status", status=503, on="destroy", times=4)
    await bench.fault(fault="429-detail", on="list", times=1)
    await rental.released()
    assert (await bench.vast.list()).instances == ()
