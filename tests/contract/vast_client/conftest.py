"""Our client against the stand-in Vast.ai on loopback. The client's pauses pass in no time."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from aiohttp import web
from hack.fakes.vast.app import make_app
from hack.fakes.vast.backend import NoMachines
from hack.fakes.vast.model import Settings

from gpu_standby.adapters.vast.provider import VastProvider
from gpu_standby.adapters.vast.wire import Wire

API_KEY = "secret-key-0123456789"


@dataclass
class Pauses:
    """A clock that a sleep moves on, so that intervals are kept and nobody waits."""

    time: float = 0.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


@dataclass
class Bench:
    url: str
    http: httpx.AsyncClient
    vast: VastProvider
    pauses: Pauses

    def with_key(self, key: str) -> VastProvider:
        return VastProvider(Wire(self.http, key, monotonic=self.pauses.now, sleep=self.pauses.sleep))

    async def control(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.http.request(method, f"/_bench/{path}", json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    async def fault(self, **fault: Any) -> None:
        await self.control("POST", "faults", fault)

    async def state(self) -> Any:
        return await self.control("GET", "state")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    quick = Settings(
        provisionSeconds=0.05, bootSeconds=0.1, exitedSeconds=0.05, attachLagSeconds=0.05, destroySeconds=0.05
    )
    runner = web.AppRunner(make_app(NoMachines(), API_KEY, settings=quick, tick_seconds=0.01), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    pauses = Pauses()
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=2.0, trust_env=False) as http:
        vast = VastProvider(Wire(http, API_KEY, monotonic=pauses.now, sleep=pauses.sleep))
        yield Bench(f"http://{host}:{port}", http, vast, pauses)
    await runner.cleanup()
