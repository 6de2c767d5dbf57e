"""The loop: watch the ConfigMap, ask the agent, report. It never exits because a target is down."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import asyncssh
from kubernetes.aio import client, config, watch

from gpu_standby.api.names import sync_objects
from gpu_standby.errors import TargetDown
from gpu_standby.mover.agent_session import AgentSession
from gpu_standby.mover.wanted import (
    RETRY_SECONDS,
    Cycle,
    Done,
    Restore,
    Wait,
    Wanted,
    after_cycle,
    is_news,
    next_task,
    report,
)

log = logging.getLogger("gpu_standby.mover")

KEY_FILE = Path("/var/run/gpu-standby/mover")
WATCH_SECONDS = 300
TRANSFER_SECONDS = 24 * 3600.0
Json = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    pair: str
    pair_uid: str
    namespace: str
    epoch: int

    @classmethod
    def from_environment(cls) -> "Settings":
        return cls(
            pair=os.environ["GPU_STANDBY_PAIR"],
            pair_uid=os.environ["GPU_STANDBY_PAIR_UID"],
            namespace=os.environ["GPU_STANDBY_NAMESPACE"],
            epoch=int(os.environ["GPU_STANDBY_EPOCH"]),
        )


class Conductor:
    def __init__(self, settings: Settings, private_key: str, api: client.CoreV1Api) -> None:
        self._settings = settings
        self._key = private_key
        self._api = api
        self._name = sync_objects(settings.pair)
        self._wanted = Wanted()
        self._news = asyncio.Event()
        self._done = Done()
        self._session: AgentSession | None = None
        self._told: Json | None = None
        self._phase = "Starting"

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._conduct())

    # --- the ConfigMap ----------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Its content at once, then every change. An API server that is away only means that nothing new is wanted."""
        chosen = {"namespace": self._settings.namespace, "field_selector": f"metadata.name={self._name}"}
        while True:
            try:
                async with watch.Watch() as stream:
                    async for event in stream.stream(
                        self._api.list_namespaced_config_map, timeout_seconds=WATCH_SECONDS, **chosen
                    ):
                        self._take(event["raw_object"].get("data"))
            except (client.ApiException, aiohttp.ClientError, OSError, TimeoutError) as error:
                log.warning("watching the ConfigMap: %s", type(error).__name__)
            await asyncio.sleep(1.0)

    def _take(self, data: Json | None) -> None:
        wanted = Wanted.parse(data, self._settings.epoch)
        if wanted != self._wanted:
            self._wanted = wanted
            self._news.set()

    async def _report(self) -> None:
        now = time.time()
        new = report(self._done, self._settings.epoch, self._phase, now)
        if not is_news(self._told, new, now):
            return
        body = {"data": {"report": json.dumps(new, sort_keys=True)}}
        try:
            await self._api.patch_namespaced_config_map(
                self._name, self._settings.namespace, body, _request_timeout=10.0
            )
        except (client.ApiException, aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("reporting: %s", type(error).__name__)
            return
        self._told = new

    # --- the work ---------------------------------------------------------------------------------------------

    async def _conduct(self) -> None:
        while True:
            self._news.clear()
            match next_task(self._wanted, self._done, time.time()):
                case Wait(seconds):
                    self._phase = "Idle"
                    await self._report()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(max(0.01, seconds)):
                            await self._news.wait()
                case Cycle() as cycle:
                    await self._cycle(cycle)
                    await self._report()
                case Restore(id):
                    await self._restore(id)
                    await self._report()

    async def _ask(self, request: Json, progress: Any) -> Json:
        """What went wrong on the way is an answer too: of class Standby."""
        standby = self._wanted.sync.get("standby")
        if not standby:
            return {"ok": False, "class": "Standby", "error": "the standby has no address yet"}
        if self._session is None or self._session.standby != standby:
            if self._session is not None:
                self._session.close()
            self._session = AgentSession(standby, self._key)
        try:
            async with asyncio.timeout(TRANSFER_SECONDS):
                return await self._session.ask({"pair": self._settings.pair_uid, **request}, progress)
        except (TargetDown, TimeoutError) as error:
            return {"ok": False, "class": "Standby", "error": str(error)}

    async def _cycle(self, cycle: Cycle) -> None:
        self._phase = "Syncing" if self._done.last is not None else "Seeding"
        sync, started = self._wanted.sync, time.time()
        request = {
            "op": "pull",
            "gpu": sync["gpu"],
            "exclude": sync.get("exclude", []),
            "acceptShrink": cycle.accept_shrink,
        }
        answer = await self._ask(request, lambda _: None)
        self._done = after_cycle(self._done, cycle, started, answer, time.time())
        if not answer.get("ok"):
            log.warning("cycle: %s", answer.get("error"))

    async def _restore(self, task: str) -> None:
        self._phase = "Restoring"
        wanted = self._wanted.restore
        progress: Json = {"id": task, "state": "Running", "startedTime": time.time()}
        reporting: set[asyncio.Task[None]] = set()

        def follow(told: Json) -> None:
            progress.update(told)
            self._done = replace(self._done, restore=dict(progress))
            writer = asyncio.ensure_future(self._report())
            reporting.add(writer)
            writer.add_done_callback(reporting.discard)

        follow({})
        request = {
            "op": "restore",
            "gpu": wanted["gpu"],
            "exclude": wanted.get("exclude", []),
            "final": bool(wanted.get("final")),
        }
        answer = await self._ask(request, follow)
        await asyncio.gather(*reporting)
        if answer.get("ok"):
            kept = {key: answer.get(key) for key in _RESTORED}
            ended = {**progress, **kept, "state": "Done", "finishedTime": time.time()}
        elif answer.get("class") in ("Standby", "Target") and self._done.restore_failures < len(RETRY_SECONDS):
            # The way was cut, nothing was refused: the same restore goes on from what is there already.
            failures = self._done.restore_failures
            self._done = replace(self._done, restore_failures=failures + 1)
            await asyncio.sleep(RETRY_SECONDS[failures])
            return
        elif answer.get("refused") == "Locked":
            # A session of ours that was cut may still be at work there; sshd ends it within half a minute.
            await asyncio.sleep(RETRY_SECONDS[1])
            return
        else:
            error = f"{answer.get('refused') or answer.get('class') or 'Ours'}: {answer.get('error')}"
            ended = {**progress, "state": "Failed", "error": error[:300], "finishedTime": time.time()}
        self._done = replace(self._done, restore=ended, restore_failures=0)


_RESTORED = ("files", "bytes", "verifiedFiles", "verifiedBytes", "manifest", "transferSeconds", "verifySeconds")


async def _run() -> None:
    settings, key = Settings.from_environment(), await asyncio.to_thread(KEY_FILE.read_text)
    connection = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=connection)
    except config.ConfigException:
        await config.load_kube_config(client_configuration=connection)
    async with client.ApiClient(configuration=connection) as api:
        conductor = Conductor(settings, key, client.CoreV1Api(api))
        work = asyncio.ensure_future(conductor.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await work


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncssh.set_log_level("WARNING")
    asyncio.run(_run())
    return 0
