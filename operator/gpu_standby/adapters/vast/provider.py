"""Vast.ai as a GpuProvider: which call does what, and what its answer lets one conclude."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from math import ceil

from gpu_standby.adapters.vast import translate
from gpu_standby.adapters.vast.throttle import Endpoint
from gpu_standby.adapters.vast.wire import JsonObject, Nature, Rejection, Wire
from gpu_standby.core.market import InstanceList, Offer, OfferQuery, Pricing, RentRequest
from gpu_standby.errors import CannotTell, MayHaveHappened, Refused

SEARCH_ROWS = 20
"""The API counts rows against a daily quota of 20 000."""
_PAGE = 25
_MOST_PAGES = 400


class VastProvider:
    def __init__(self, wire: Wire, now: Callable[[], float] = time.time) -> None:
        self._wire = wire
        self._now = now
        self._running: asyncio.Task[InstanceList] | None = None
        self._next: asyncio.Task[InstanceList] | None = None

    async def search(self, query: OfferQuery) -> Sequence[Offer]:
        answer = await self._wire.call(
            Nature.QUESTION, Endpoint.SEARCH, "POST", "/api/v0/bundles/", body=search_body(query)
        )
        rows = answer.get("offers")
        if not isinstance(rows, list):
            raise CannotTell("Vast.ai, search: an answer without offers")
        bid = query.pricing is Pricing.INTERRUPTIBLE
        found = (translate.offer(row, bid=bid) for row in rows if isinstance(row, dict))
        return tuple(offer for offer in found if offer is not None)

    async def create(self, request: RentRequest) -> int:
        answer = await self._wire.call(
            Nature.ONCE, Endpoint.CREATE, "PUT", f"/api/v0/asks/{request.offer_id}/", body=create_body(request)
        )
        contract = answer.get("new_contract")
        if isinstance(contract, bool) or not isinstance(contract, int) or contract <= 0:
            raise MayHaveHappened("Vast.ai, create: the answer names no contract")
        if answer.get("success") is not True:
            # A contract without "success" costs money all the same.
            raise Refused("Vast.ai, create: not successful, yet a contract was made", contract)
        return contract

    async def list(self) -> InstanceList:
        """Shared by all who ask before it starts: the API allows one list per second and key.

        Nobody is given a list that began before he asked.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._listed_after(self._running))
            # Whoever waits may be cancelled; an error nobody is left to see is not a warning in the log.
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._next)

    async def _listed_after(self, former: asyncio.Task[InstanceList] | None) -> InstanceList:
        if former is not None:
            await asyncio.wait([former])
        self._running, self._next = self._next, None
        return await self._list()

    async def _list(self) -> InstanceList:
        started = self._now()
        query = {
            "select_filters": "{}",
            "order_by": json.dumps([{"col": "id", "dir": "asc"}]),
            "limit": str(_PAGE),
        }
        found = {}
        tokens: set[str] = set()
        for _ in range(_MOST_PAGES):
            answer = await self._wire.call(Nature.QUESTION, Endpoint.LIST, "GET", "/api/v1/instances/", query=query)
            rows = answer.get("instances")
            if answer.get("success") is not True or not isinstance(rows, list):
                raise CannotTell("Vast.ai, list: an answer without instances")
            for row in rows:
                if not isinstance(row, dict):
                    raise CannotTell("Vast.ai, list: a row that is no object")
                instance = translate.instance(row)
                found[instance.contract] = instance
            token = answer.get("next_token")
            if not token:
                return InstanceList(time=started, instances=tuple(found[key] for key in sorted(found)))
            if not isinstance(token, str) or token in tokens:
                raise CannotTell("Vast.ai, list: the pages go in a circle")
            tokens.add(token)
            query = {**query, "after_token": token}
        raise CannotTell("Vast.ai, list: too many pages")

    async def start(self, contract: int) -> None:
        try:
            await self._command(Endpoint.STATE, "PUT", _path(contract), {"state": "running"})
        except Rejection as error:
            if error.error != "resources_unavailable":
                raise
            # Queued: the machine may start now, later or never. Its state will say; this answer does not.

    async def stop(self, contract: int) -> None:
        await self._command(Endpoint.STATE, "PUT", _path(contract), {"state": "stopped"})

    async def destroy(self, contract: int) -> None:
        try:
            await self._command(Endpoint.DESTROY, "DELETE", _path(contract), {})
        except Rejection as error:
            if error.status != 404:
                raise
            # Unknown to the API, and the key is good (a wrong one is AuthRejected). Proof is left to the lists.

    async def label(self, contract: int, label: str) -> None:
        await self._command(Endpoint.STATE, "PUT", _path(contract), {"label": label})

    async def attach_key(self, contract: int, public_key: str) -> None:
        await self._command(Endpoint.SSH_KEY, "POST", f"{_path(contract)}ssh/", {"ssh_key": public_key})

    async def _command(self, endpoint: Endpoint, method: str, path: str, body: JsonObject) -> None:
        answer = await self._wire.call(Nature.COMMAND, endpoint, method, path, body=body)
        if answer.get("success") is not True:
            raise MayHaveHappened(f"Vast.ai, {endpoint.value[0]}: the answer does not say success")


def _path(contract: int) -> str:
    return f"/api/v0/instances/{contract}/"


def search_body(query: OfferQuery) -> JsonObject:
    """Everything is filtered on the server, since the quota counts rows; core/offers filters once more."""
    body: JsonObject = {
        "verified": {"eq": True},
        "external": {"eq": False},
        "rentable": {"eq": True},
        "gpu_name": {"eq": query.gpu_name},
        "num_gpus": {"eq": query.gpu_count},
        "dph_total": {"lte": float(query.max_price)},
        "reliability": {"gte": float(query.min_reliability)},
        "inet_down": {"gte": query.min_download_mbps},
        "direct_port_count": {"gte": query.min_direct_ports},
        "disk_space": {"gte": query.disk_gb},
        "duration": {"gte": query.min_duration_seconds},
        "order": [["dph_total", "asc"]],
        "type": "bid" if query.pricing is Pricing.INTERRUPTIBLE else "on-demand",
        "limit": SEARCH_ROWS,
        "allocated_storage": query.disk_gb,
    }
    if query.regions:
        body["geolocation"] = {"in": list(query.regions)}
    if query.excluded_machines:
        body["machine_id"] = {"notin": list(query.excluded_machines)}
    return body


def create_body(request: RentRequest) -> JsonObject:
    """`env` is an object here (a string is ignored); its port flags are keys with the value "1"."""
    return {
        "client_id": "me",
        "image": request.image,
        "env": {f"-p {port}:{port}": "1" for port in request.ports},
        "price": None if request.bid is None else float(request.bid),
        "disk": ceil(request.disk_gb),
        "label": request.label,
        "onstart": request.onstart,
        "runtype": "ssh_direc ssh_proxy",  # sic: what the official client sends for direct SSH
        "cancel_unavail": True,  # a machine that cannot run now must not be left stopped, and billed
        "target_state": "running",
    }
