"""What a pair needs in the cluster before it can be protected: keys, the standby, the Service, the conductor.

Level-triggered: everything is applied again when it differs from what was applied last, and now and then anyway.
"""

import json
from base64 import b64decode, b64encode
from typing import Any

from gpu_standby.api import names
from gpu_standby.api.pair import GpuStandbyPair
from gpu_standby.controllers.context import Context
from gpu_standby.core.objects import service as service_objects
from gpu_standby.core.objects import standby as standby_objects
from gpu_standby.core.objects import sync as sync_objects
from gpu_standby.errors import Conflict
from gpu_standby.ports import Document, KeyPair, Kind

REAPPLY_SECONDS = 60.0
EPOCHS_SWEPT = 3
"""A move raises the epoch by one, one that had to be undone by two."""


class MissingSecret(Exception):
    """A Secret (or a key of it) that the user has to make."""

    def __init__(self, field: str, secret: str, key: str) -> None:
        super().__init__(f"{field}: the Secret {secret!r} with the key {key!r} is not there; make it and all goes on")
        self.field = field


class Provisions:
    def __init__(self, context: Context, namespace: str) -> None:
        self._context = context
        self._namespace = namespace
        self._applied: dict[tuple[str, str], tuple[str, float]] = {}
        self._keys: dict[str, tuple[dict[str, str], float]] = {}
        """Read again now and then; they never change while the pair lives."""

    async def apply(self, document: Document) -> None:
        """Apply unless the very same was applied a moment ago."""
        key = (document["kind"], document["metadata"]["name"])
        text = json.dumps(document, sort_keys=True)
        now = self._context.clock.now()
        old = self._applied.get(key)
        if old is not None and old[0] == text and now - old[1] < REAPPLY_SECONDS:
            return
        await self._context.cluster.apply(document)
        self._applied[key] = (text, now)

    async def user_secret(self, field: str, name: str, key: str) -> str:
        secret = await self._context.cluster.get(Kind.SECRET, self._namespace, name)
        value = (secret or {}).get("data", {}).get(key)
        if not value:
            raise MissingSecret(field, name, key)
        return b64decode(value).decode().strip()

    async def keys(self, pair: GpuStandbyPair) -> tuple[KeyPair, KeyPair]:
        """(the operator's key of this pair, the host key of its pod standby's sshd), made once."""
        name = names.ssh_secret(pair.metadata.name)
        data = await self._key_secret(pair, name, {"operator": "gpu-standby operator", "host": "gpu-standby standby"})
        return (
            KeyPair(data["operator"], data["operator.pub"]),
            KeyPair(data["host"], data["host.pub"]),
        )

    async def mover_key(self, pair: GpuStandbyPair, epoch: int) -> KeyPair:
        name = names.mover_secret(pair.metadata.name, epoch)
        data = await self._key_secret(pair, name, {"mover": f"gpu-standby mover {epoch}"})
        return KeyPair(data["mover"], data["mover.pub"])

    async def _key_secret(self, pair: GpuStandbyPair, name: str, wanted: dict[str, str]) -> dict[str, str]:
        """Created once and never overwritten: a key that was replaced would lock us out of what trusts it."""
        cluster, now = self._context.cluster, self._context.clock.now()
        known = self._keys.get(name)
        if known is not None and now - known[1] < REAPPLY_SECONDS:
            return known[0]
        secret = await cluster.get(Kind.SECRET, self._namespace, name)
        if secret is None:
            fresh: dict[str, str] = {}
            for key, comment in wanted.items():
                made = self._context.connections.generate_key(comment)
                fresh[key] = b64encode(made.private.encode()).decode()
                fresh[f"{key}.pub"] = b64encode(made.public.encode()).decode()
            try:
                secret = await cluster.create(sync_objects.key_secret(pair, name, fresh))
            except Conflict:
                secret = await cluster.get(Kind.SECRET, self._namespace, name)
        data = {key: b64decode(value).decode() for key, value in (secret or {}).get("data", {}).items()}
        self._keys[name] = (data, now)
        return data

    async def standby(self, pair: GpuStandbyPair) -> None:
        if pair.spec.standby.pod is None:
            return
        await self.apply(standby_objects.gate_config_map(pair, self._context.gate_script))
        await self.apply(standby_objects.stateful_set(pair, self._context.image))

    async def service(self, pair: GpuStandbyPair) -> None:
        await self.apply(service_objects.service(pair))

    async def conductor(self, pair: GpuStandbyPair, epoch: int) -> None:
        """The mover's permission, its ConfigMap and the epoch's Job; those of lower epochs go."""
        for document in (
            sync_objects.service_account(pair),
            sync_objects.role(pair),
            sync_objects.role_binding(pair),
            sync_objects.config_map(pair),
        ):
            await self.apply(document)
        await self.apply(sync_objects.job(pair, epoch, self._context.image))

    async def drop_conductors_below(self, pair: GpuStandbyPair, epoch: int) -> None:
        cluster, name = self._context.cluster, pair.metadata.name
        for document in await cluster.list(Kind.JOB, self._namespace, names.pair_labels(name)):
            meta: dict[str, Any] = document["metadata"]
            told = meta.get("labels", {}).get(names.LABEL_EPOCH, "")
            if told.isdecimal() and int(told) < epoch:
                await cluster.delete(Kind.JOB, self._namespace, meta["name"], uid=meta["uid"], grace_seconds=1)
        # By name: to list Secrets is to read them all, and we have no business with the others.
        for old in range(max(1, epoch - EPOCHS_SWEPT), epoch):
            await cluster.delete(Kind.SECRET, self._namespace, names.mover_secret(name, old))
