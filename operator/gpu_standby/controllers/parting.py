"""Deleting a pair: a last sync, then the rented machines with proof, then the volume by `deletionPolicy`.

Runs from the finalizer, again and again until everything is gone; it keeps what it has done in the API.
"""

import json
from typing import Any

from gpu_standby.api import names
from gpu_standby.api.pair import GpuStandbyPair, PairStatus
from gpu_standby.api.spec import DeletionPolicy, Side
from gpu_standby.controllers.context import Context
from gpu_standby.controllers.observing import parse_report
from gpu_standby.controllers.provisions import Provisions
from gpu_standby.core.objects import status as status_objects
from gpu_standby.errors import CannotTell, Conflict
from gpu_standby.ports import Document, EventType, Kind

LAST_SYNC_LIMIT_SECONDS = 60.0


class Parting:
    def __init__(self, context: Context, provisions: Provisions, namespace: str) -> None:
        self._context = context
        self._provisions = provisions
        self._namespace = namespace
        self._told = ""

    async def release(self, document: Document) -> str | None:
        name = document["metadata"]["name"]
        fresh = await self._context.cluster.get(Kind.PAIR, self._namespace, name)
        if fresh is None:
            return None
        pair = GpuStandbyPair.model_validate(fresh)
        try:
            waiting = await self._last_sync(pair, fresh)
            waiting = waiting or await self._machines(pair, fresh)
        except (CannotTell, Conflict) as error:
            waiting = str(error)
        if waiting is not None:
            if waiting != self._told:
                self._told = waiting
                await self._event(fresh, EventType.WARNING, "DeletionWaits", waiting)
            return waiting
        await self._volume(pair, fresh)
        return None

    async def _event(self, document: Document, kind: EventType, reason: str, text: str) -> None:
        await self._context.cluster.event(document, kind, reason, text)

    async def _last_sync(self, pair: GpuStandbyPair, document: Document) -> str | None:
        """Once status.gpu is empty this has been done; the replacement's finalizer waits for that."""
        if pair.status.gpu is None:
            return None
        if pair.status.active is Side.GPU and pair.status.sync is not None:
            request = f"parting-{pair.metadata.uid}"
            name = names.sync_objects(pair.metadata.name)
            config_map = await self._context.cluster.get(Kind.CONFIG_MAP, self._namespace, name)
            report = parse_report(config_map, pair.status.epoch)
            since = pair.metadata.deletion_timestamp or self._context.clock.now()
            overdue = self._context.clock.now() - since > LAST_SYNC_LIMIT_SECONDS
            if report.cycle_answered != request and not overdue and config_map is not None:
                await self._request(config_map, request)
                return "the last sync is not done yet"
            if report.cycle_answered == request and report.cycle_completed:
                await self._event(document, EventType.NORMAL, "LastSync", "the last sync is complete")
            else:
                why = report.error or f"no answer within {LAST_SYNC_LIMIT_SECONDS:.0f} s"
                await self._event(document, EventType.WARNING, "LastSyncFailed", f"the last sync failed: {why}")
        status = PairStatus.model_validate(document["status"]).model_copy(update={"gpu": None, "move": None})
        await self._context.cluster.apply_status(status_objects.pair_status(document, status))
        return "the GPU is being given up"

    async def _request(self, config_map: Document, request: str) -> None:
        wanted: dict[str, Any] = json.loads((config_map.get("data") or {}).get("sync") or "{}")
        if not wanted or wanted.get("cycleRequest") == request:
            return
        text = json.dumps({**wanted, "cycleRequest": request}, sort_keys=True)
        name = config_map["metadata"]["name"]
        await self._context.cluster.patch(Kind.CONFIG_MAP, self._namespace, name, {"data": {"sync": text}})

    async def _machines(self, pair: GpuStandbyPair, document: Document) -> str | None:
        labels = names.pair_labels(pair.metadata.name)
        left = await self._context.cluster.list(Kind.REPLACEMENT, self._namespace, labels)
        for child in left:
            if child["metadata"].get("deletionTimestamp") is None:
                await self._context.cluster.delete(Kind.REPLACEMENT, self._namespace, child["metadata"]["name"])
        if not left:
            return None
        words = [
            f"{c['metadata']['name']}: {(c.get('status') or {}).get('message') or 'being destroyed'}" for c in left
        ]
        return "rented machines are not proven gone yet: " + "; ".join(words)

    async def _volume(self, pair: GpuStandbyPair, document: Document) -> None:
        if pair.spec.standby.pod is None:
            path = pair.spec.standby.existing.path if pair.spec.standby.existing is not None else ""
            await self._event(document, EventType.NORMAL, "CopyKept", f"the standby's copy stays at {path}")
            return
        claim = names.standby_claim(pair.metadata.name)
        cluster = self._context.cluster
        if pair.spec.deletion_policy is DeletionPolicy.RETAIN:
            text = f"the copy stays on the claim {claim} (deletionPolicy: Retain)"
            await self._event(document, EventType.NORMAL, "VolumeKept", text)
            return
        await cluster.delete(Kind.STATEFUL_SET, self._namespace, names.standby(pair.metadata.name))
        await cluster.delete(Kind.PERSISTENT_VOLUME_CLAIM, self._namespace, claim)
        await self._event(document, EventType.NORMAL, "VolumeRemoved", f"the claim {claim} is removed")
