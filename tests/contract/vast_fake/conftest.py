"""The stand-in Vast.ai on loopback, and the real `vastai` client in a virtual environment of its own."""

import asyncio
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from hack.fakes.vast.app import make_app
from hack.fakes.vast.backend import NoMachines
from hack.fakes.vast.front import PROVIDER
from hack.fakes.vast.model import Settings
from hack.fakes.vast.provider import Provider

LOCK = Path(__file__).parents[3] / "hack" / "fakes" / "vastai-requirements.txt"
API_KEY = "k" * 64


@dataclass
class Served:
    url: str
    provider: Provider
    backend: NoMachines


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    backend = NoMachines()
    quick = Settings(
        provisionSeconds=0.05, bootSeconds=0.1, exitedSeconds=0.05, attachLagSeconds=0.05, destroySeconds=0.05
    )
    app = make_app(backend, API_KEY, settings=quick, tick_seconds=0.01)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    yield Served(f"http://{host}:{port}", app[PROVIDER], backend)
    await runner.cleanup()


@pytest.fixture
async def vast(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the key."""
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=10, trust_env=False) as client:
        yield client


@dataclass(frozen=True)
class Rental:
    id: int
    ask: int


Rent = Callable[..., Awaitable[Rental]]


@pytest.fixture
def rent(vast: httpx.AsyncClient) -> Rent:
    async def rent(**more: Any) -> Rental:
        query = {"gpu_name": {"eq": "RTX 4090"}, "num_gpus": {"eq": "1"}, "rentable": {"eq": True}}
        offers = (await vast.post("/api/v0/bundles/", json=query)).json()["offers"]
        ask = next(offer["id"] for offer in offers if offer["direct_port_count"] > 2)
        body = {
            "client_id": "me",
            "image": "img:1",
            "env": {"-p 8080:8080": "1", "A": "b"},
            "disk": 20.0,
            "label": "x",
            "runtype": "ssh_direc ssh_proxy",
            "cancel_unavail": True,
        }
        answer = await vast.put(f"/api/v0/asks/{ask}/", json=body | more)
        assert answer.status_code == 200, answer.text
        return Rental(answer.json()["new_contract"], ask)

    return rent


async def eventually(check: Callable[[], Awaitable[Any]], seconds: float = 5.0) -> Any:
    """What `check` gives as soon as it gives something."""
    async with asyncio.timeout(seconds):
        while True:
            found = await check()
            if found:
                return found
            await asyncio.sleep(0.02)


@pytest.fixture
def status(vast: httpx.AsyncClient) -> Callable[[int, str | None], Awaitable[dict[str, Any]]]:
    """Wait until an instance has this actual_status; its row."""

    async def status(number: int, wanted: str | None) -> dict[str, Any]:
        async def check() -> dict[str, Any] | None:
            row = (await vast.get(f"/api/v0/instances/{number}/")).json()["instances"]
            return row if row is not None and row["actual_status"] == wanted else None

        found: dict[str, Any] = await eventually(check)
        return found

    return status


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("GPU_STANDBY_CACHE") or Path(home) / "gpu-standby")


@pytest.fixture(scope="session")
def vastai_command() -> Path:
    """The real client, installed from its lock file once per version of that."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    folder = _cache() / f"vastai-{digest}"
    done = folder / ".complete"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder / "venv"], check=True, timeout=120)
            python = folder / "venv" / "bin" / "python"
            install: list[str | Path] = [
                python,
                "-m",
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--require-hashes",
                "-r",
                LOCK,
            ]
            subprocess.run([*install, "-r", LOCK], check=True, timeout=280)
            done.touch()
    return folder / "venv" / "bin" / "vastai"


@dataclass(frozen=True)
class Said:
    out: str
    err: str
    code: int

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Vastai = Callable[..., Awaitable[Said]]


@pytest.fixture
def vastai(served: Served, vastai_command: Path, tmp_path: Path) -> Vastai:
    """Run the real client against the stand-in, with a home of its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "VAST_URL": served.url,
        "VAST_API_KEY": API_KEY,
        "VASTAI_NO_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
        "CI": "1",
        "COLUMNS": "200",
    }

    async def run(*words: str, **more: str) -> Said:
        process = await asyncio.create_subprocess_exec(
            vastai_command,
            *words,
            env=environment | more,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(30):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Said(out.decode(), err.decode(), process.returncode or 0)

    return run
