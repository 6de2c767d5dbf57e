"""The front of the API: login, rate limits, faults, and the exact way answers are written.

Every API handler is a function (provider, request, body) → Answer; `served` makes an aiohttp handler of it.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from .faults import AFTER_COMMIT, INTERVALS, NO_ANSWER, answer, pick
from .model import Call, Fault
from .provider import Provider
from .wire import INVALID_KEY, NO_LOGIN, Answer, invalid_request, refused, too_frequent

PROVIDER: web.AppKey[Provider] = web.AppKey("provider", Provider)
Handler = Callable[[Provider, web.Request, dict[str, Any]], Awaitable[Answer]]
READS = frozenset({"search", "list", "show", "user", "ssh-list", "filters", "old-list", "other"})


def served(op: str, handler: Handler, login: bool = True) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of one operation; `op` is its name for faults, limits and the log of calls."""

    async def serve(request: web.Request) -> web.StreamResponse:
        provider = request.app[PROVIDER]
        now = provider.clock()
        raw = await request.read()
        body, well_formed = _json(raw)
        call = Call(time=now, op=op, method=request.method, path=request.path, body=_loggable(body))
        if op == "create":
            provider.world.create_calls += 1
        fault = pick(provider.world.faults, op)
        call.fault = fault.fault if fault else None
        if fault is not None and fault.fault == "slow":
            await asyncio.sleep(fault.seconds)
        refusal = _login(provider, request) if login else None
        if fault is not None and fault.fault in NO_ANSWER:
            _record(provider, call, None)
            return await _no_answer(request, fault)
        if refusal is None:
            refusal = _limit(provider, op, now)
        if refusal is None and fault is not None:
            ask = int(request.match_info.get("id", "0")) if op == "create" else 0
            refusal = answer(fault, op, ask, now)
        if refusal is None and not well_formed:
            refusal = invalid_request("Invalid json body")
        result = refusal if refusal is not None else await handler(provider, request, body)
        _record(provider, call, result)
        if op not in READS:
            await provider.save()
        if fault is not None and refusal is None and fault.fault in AFTER_COMMIT:
            if fault.fault != "commit-then-500":
                return await _no_answer(request, fault)
            result = refused(500, "server_error", "Internal server error")
        return written(result)

    return serve


def written(result: Answer) -> web.Response:
    """The real API's Content-Type has no charset, and its client insists on that."""
    body = result.body if isinstance(result.body, str) else json.dumps(result.body)
    response = web.Response(status=result.status, body=body.encode(), headers=dict(result.headers))
    response.headers["Content-Type"] = result.content_type
    return response


def _json(raw: bytes) -> tuple[dict[str, Any], bool]:
    if not raw.strip():
        return {}, True
    try:
        body = json.loads(raw)
    except ValueError:
        return {}, False
    return (body, True) if isinstance(body, dict) else ({}, False)


def _login(provider: Provider, request: web.Request) -> Answer | None:
    given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip() or request.query.get("api_key", "")
    if not given:
        return NO_LOGIN
    return None if given == provider.api_key else INVALID_KEY


def _limit(provider: Provider, op: str, now: float) -> Answer | None:
    scale = provider.world.settings.rateLimitScale
    interval = INTERVALS.get(op, 0.0) * scale
    last = provider.last_call.get(op)
    if interval <= 0:
        return None
    if last is not None and now - last < interval:
        if op == "create":
            provider.last_call[op] = now + (12.0 - 4.5) * scale  # the penalty: further calls wait 12 s
        return too_frequent("429-json", INTERVALS[op])
    provider.last_call[op] = now
    return None


async def _no_answer(request: web.Request, fault: Fault) -> web.StreamResponse:
    if fault.fault in ("timeout", "commit-then-timeout"):
        await asyncio.sleep(fault.seconds)
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # No lingering: the peer gets a reset, not a polite end.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=500)


def _record(provider: Provider, call: Call, result: Answer | None) -> None:
    call.status = None if result is None else result.status
    parts = [part for part in call.path.split("/") if part.isdigit()]
    if result is not None and isinstance(result.body, dict) and "new_contract" in result.body:
        call.instance = int(result.body["new_contract"])
    elif call.op != "create" and parts:
        call.instance = int(parts[0])
    provider.requests.append(call.model_dump())
    if call.op not in READS:
        provider.record(call)


def _loggable(body: dict[str, Any]) -> dict[str, Any]:
    """Bodies without what may be secret or long."""
    shown = dict(body)
    if shown.get("image_login"):
        shown["image_login"] = "…"
    if isinstance(shown.get("onstart"), str):
        shown["onstart"] = shown["onstart"][:200]
    if isinstance(shown.get("env"), dict):
        shown["env"] = {key: (value if key.startswith("-") else "…") for key, value in shown["env"].items()}
    return shown
