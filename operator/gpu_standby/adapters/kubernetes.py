"""The Kubernetes API through `kubernetes.aio`: plain documents in and out, server-side apply, guarded writes.

The client's typed models refuse unknown fields, so its request layer is used without them.
"""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import aiohttp
from kubernetes.aio import client, config

from gpu_standby.api.names import API_VERSION, FIELD_MANAGER, PAIR_PLURAL, REPLACEMENT_PLURAL
from gpu_standby.errors import CannotTell, Conflict, Refused
from gpu_standby.ports import Document, EventType, Kind

log = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0
PAGE = 500
CONNECTIONS = 50
EVENT_TEXT = 1024
ERROR_TEXT = 1000
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Resource:
    api_version: str
    plural: str

    def path(self, namespace: str | None, name: str = "", part: str = "") -> str:
        root = "/api/v1" if self.api_version == "v1" else f"/apis/{self.api_version}"
        inside = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{inside}/{self.plural}" + (f"/{name}" if name else "") + (f"/{part}" if part else "")


RESOURCES: dict[Kind, Resource] = {
    Kind.PAIR: Resource(API_VERSION, PAIR_PLURAL),
    Kind.REPLACEMENT: Resource(API_VERSION, REPLACEMENT_PLURAL),
    Kind.SERVICE: Resource("v1", "services"),
    Kind.ENDPOINT_SLICE: Resource("discovery.k8s.io/v1", "endpointslices"),
    Kind.STATEFUL_SET: Resource("apps/v1", "statefulsets"),
    Kind.POD: Resource("v1", "pods"),
    Kind.PERSISTENT_VOLUME_CLAIM: Resource("v1", "persistentvolumeclaims"),
    Kind.JOB: Resource("batch/v1", "jobs"),
    Kind.CONFIG_MAP: Resource("v1", "configmaps"),
    Kind.SECRET: Resource("v1", "secrets"),
    Kind.SERVICE_ACCOUNT: Resource("v1", "serviceaccounts"),
    Kind.ROLE: Resource("rbac.authorization.k8s.io/v1", "roles"),
    Kind.ROLE_BINDING: Resource("rbac.authorization.k8s.io/v1", "rolebindings"),
}


class KubernetesCluster:
    """Implements `ports.Cluster`. Made inside the running event loop; `close` it there."""

    def __init__(
        self,
        settings: client.Configuration,
        instance: str = FIELD_MANAGER,
        *,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        settings.connection_pool_maxsize = CONNECTIONS
        # The API server is near; a proxy named in the environment is for what is far.
        settings.client_session_kwargs = {"trust_env": False}
        self._api = client.ApiClient(configuration=settings)
        self._instance = instance
        self._request_seconds = request_seconds
        self._closed = False

    @classmethod
    async def connect(cls, instance: str = FIELD_MANAGER) -> "KubernetesCluster":
        """In a pod by its ServiceAccount, else by KUBECONFIG."""
        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=settings)
        return cls(settings, instance)

    async def close(self) -> None:
        self._closed = True
        await self._api.close()

    # --- ports.Cluster ----------------------------------------------------------------------------------------

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        status, answer = await self._request("GET", RESOURCES[kind].path(namespace, name))
        if status == 404 and _is_absence(answer):
            return None
        return _expect(status, answer)

    async def list(
        self, kind: Kind, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> Sequence[Document]:
        query: dict[str, Any] = {"limit": PAGE}
        if labels:
            query["labelSelector"] = ",".join(f"{key}={value}" for key, value in labels.items())
        resource, found = RESOURCES[kind], list[Document]()
        while True:
            page = _expect(*await self._request("GET", resource.path(namespace), query=query))
            if "items" not in page:
                raise CannotTell("the Kubernetes API answered a list without items")
            found += [{"apiVersion": resource.api_version, "kind": kind.value, **item} for item in page["items"] or ()]
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return found
            query["continue"] = token

    async def create(self, document: Document) -> Document:
        path = self._path_of(document, named=False)
        query = {"fieldManager": FIELD_MANAGER}
        return _expect(*await self._request("POST", path, body=document, query=query))

    async def apply(self, document: Document) -> Document:
        return await self._apply(document, "")

    async def apply_status(self, document: Document) -> Document:
        return await self._apply(document, "status")

    async def patch(self, kind: Kind, namespace: str, name: str, body: Document) -> Document:
        path = RESOURCES[kind].path(namespace, name)
        return _expect(*await self._request("PATCH", path, body=body, content=MERGE))

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str | None = None, grace_seconds: int | None = None
    ) -> None:
        body: Document = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        status, answer = await self._request("DELETE", RESOURCES[kind].path(namespace, name), body=body)
        if status == 404 and _is_absence(answer):
            return
        if status == 409 and uid is not None:
            # Another object of that name stands there: the one that was meant is gone.
            there = await self.get(kind, namespace, name)
            if there is None or there["metadata"].get("uid") != uid:
                return
        _expect(status, answer)

    async def event(self, involved: Document, kind: EventType, reason: str, message: str) -> None:
        """One event per object, reason and message; said again, its count grows."""
        meta = involved["metadata"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        mark = sha256(f"{meta.get('uid')}/{reason}/{message}".encode()).hexdigest()[:12]
        name = f"{meta['name']}.{mark}"
        try:
            path = f"/api/v1/namespaces/{meta['namespace']}/events"
            status, old = await self._request("GET", f"{path}/{name}")
            if status == 200:
                body = {"count": int(old.get("count") or 1) + 1, "lastTimestamp": now}
                _expect(*await self._request("PATCH", f"{path}/{name}", body=body, content=MERGE))
                return
            event = {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": meta["namespace"]},
                "involvedObject": {
                    "apiVersion": involved["apiVersion"],
                    "kind": involved["kind"],
                    "name": meta["name"],
                    "namespace": meta["namespace"],
                    "uid": meta.get("uid"),
                },
                "type": kind.value,
                "reason": reason,
                "message": message[:EVENT_TEXT],
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
                "source": {"component": FIELD_MANAGER},
                "reportingComponent": FIELD_MANAGER,
                "reportingInstance": self._instance,
            }
            _expect(*await self._request("POST", path, body=event))
        except (CannotTell, Refused) as error:
            log.warning("event %s for %s not posted: %s", reason, meta["name"], error)

    # --- the wire ---------------------------------------------------------------------------------------------

    async def _apply(self, document: Document, part: str) -> Document:
        path = self._path_of(document, named=True) + (f"/{part}" if part else "")
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return _expect(*await self._request("PATCH", path, body=document, query=query, content=APPLY))

    def _path_of(self, document: Document, *, named: bool) -> str:
        meta = document["metadata"]
        return RESOURCES[Kind(document["kind"])].path(meta["namespace"], meta["name"] if named else "")

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Document | None = None,
        query: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> tuple[int, Document]:
        """(status, answer). CannotTell when there was none, or one that is nobody's but a broken server's."""
        if self._closed:
            raise CannotTell("the operator is stopping")
        try:
            async with asyncio.timeout(self._request_seconds):
                # Reads the ServiceAccount's token anew when it is a minute old, so it may fail as files do.
                prepared = await self._api.param_serialize(
                    method,
                    path,
                    query_params=list((query or {}).items()),
                    header_params={"Accept": "application/json", "Content-Type": content},
                    body=body,
                    auth_settings=["BearerToken"],
                )
                response = await self._api.call_api(*prepared, None, self._request_seconds)
                raw = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError, config.ConfigException) as error:
            raise CannotTell(f"the Kubernetes API did not answer: {type(error).__name__} {error}") from None
        try:
            answer = json.loads(raw)
        except ValueError:
            raise CannotTell(f"the Kubernetes API answered {response.status} without JSON") from None
        if not isinstance(answer, dict):
            raise CannotTell(f"the Kubernetes API answered {response.status} with JSON that is no object")
        return response.status, answer


def _is_absence(answer: Document) -> bool:
    """A 404 about this object; one about the whole resource (no CRD) is not proof of anything."""
    return bool((answer.get("details") or {}).get("name"))


def _expect(status: int, answer: Document) -> Document:
    if status < 300:
        return answer
    text = str(answer.get("message", ""))[:ERROR_TEXT]
    if status == 409:
        raise Conflict(text)
    if status in (400, 422):
        raise Refused(text)
    raise CannotTell(f"the Kubernetes API answered {status}: {text}")
