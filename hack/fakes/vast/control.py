"""The bench's own API, under `/_bench/`: what a test does to machines, market and answers, and what it may see.

No login, JSON in and out. Not a part of Vast.ai.
"""

from typing import Any

from aiohttp import web
from pydantic import ValidationError

from . import wire
from .backend import Death
from .front import PROVIDER, written
from .model import Fault, Instance, Offer, Phase, Settings
from .provider import Provider
from .wire import Answer, ok, refused

_CREATE_WORDS = {"commit-then-500", "commit-then-timeout", "commit-then-reset"}


async def _body(request: web.Request) -> dict[str, Any]:
    text = await request.text()
    body = (await request.json()) if text.strip() else {}
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="an object is wanted")
    return body


def _instance(request: web.Request) -> tuple[Provider, Instance]:
    provider = request.app[PROVIDER]
    instance = provider.get(int(request.match_info["id"]))
    if instance is None:
        raise web.HTTPNotFound(text="no such instance")
    return provider, instance


def _shown(provider: Provider, instance: Instance) -> dict[str, Any]:
    """An instance as it really is, beside what the API says of it. No secrets."""
    actual, intended, current, following, _ = wire.status(instance, provider.clock(), provider.world.settings)
    return instance.model_dump(exclude={"api_key", "onstart"}, mode="json") | {
        "actual_status": actual,
        "intended_status": intended,
        "cur_state": current,
        "next_state": following,
        "holds_gpu": instance.holds_gpu,
        "machine_id": instance.offer.machine_id,
        "ask": instance.offer.id,
    }


async def state(request: web.Request) -> web.Response:
    provider = request.app[PROVIDER]
    world = provider.world
    return written(
        Answer(
            200,
            {
                "time": provider.clock(),
                "settings": world.settings.model_dump(),
                "faults": [fault.model_dump() for fault in world.faults],
                "instances": [_shown(provider, one) for one in world.instances.values()],
                "destroyed": [_shown(provider, one) for one in world.destroyed],
                "createCalls": world.create_calls,
                "created": world.created,
                "searchRows": world.search_rows,
                "requests": list(provider.requests),
            },
        )
    )


async def calls(request: web.Request) -> web.Response:
    return written(Answer(200, {"calls": [call.model_dump() for call in request.app[PROVIDER].world.calls]}))


async def reset(request: web.Request) -> web.Response:
    await request.app[PROVIDER].reset()
    return written(ok())


async def set_settings(request: web.Request) -> web.Response:
    provider = request.app[PROVIDER]
    try:
        merged = Settings.model_validate(provider.world.settings.model_dump() | await _body(request))
    except ValidationError as error:
        return written(refused(400, "invalid", str(error)))
    provider.world.settings = merged
    if merged.credit <= 0:  # nothing is said, everything stops
        for instance in provider.world.instances.values():
            provider.stop(instance)
    await provider.save()
    return written(Answer(200, merged.model_dump()))


async def add_fault(request: web.Request) -> web.Response:
    """`{"fault": …, "on": …, "times": …}`; short: `{"status": 500}`, `{"create": "commit-then-500"}`,
    `{"create": "refuse-after-3"}`."""
    provider, body = request.app[PROVIDER], await _body(request)
    if "create" in body:
        word = str(body.pop("create"))
        if word in _CREATE_WORDS:
            body = {"fault": word, "on": "create", "times": 1} | body
        elif word.startswith("refuse-after-"):
            body = {"fault": "no_such_ask", "on": "create", "after": int(word.rsplit("-", 1)[1])} | body
        else:
            body = {"fault": word, "on": "create"} | body
    elif "fault" not in body and "status" in body:
        body = {"fault": "status"} | body
    try:
        fault = Fault.model_validate(body)
    except ValidationError as error:
        return written(refused(400, "invalid", str(error)))
    provider.world.faults.append(fault)
    await provider.save()
    return written(ok(faults=[one.model_dump() for one in provider.world.faults]))


async def clear_faults(request: web.Request) -> web.Response:
    provider = request.app[PROVIDER]
    provider.world.faults = []
    await provider.save()
    return written(ok())


async def kill(request: web.Request) -> web.Response:
    provider, instance = _instance(request)
    body = await _body(request)
    death = next((death for death in Death if body.get(death.value)), Death.POWER)
    await provider.kill(instance, death)
    return written(ok())


async def revive(request: web.Request) -> web.Response:
    provider, instance = _instance(request)
    provider.revive(instance)
    await provider.save()
    return written(ok(phase=instance.phase))


async def set_gpu(request: web.Request) -> web.Response:
    provider, instance = _instance(request)
    mode = (await _body(request)).get("nvidia_smi")
    if mode not in ("ok", "fail", "hang", "xid", "missing"):
        return written(refused(400, "invalid", "nvidia_smi: ok, fail, hang, xid or missing"))
    instance.nvidia_smi = mode
    await provider.save()
    if instance.phase is Phase.RUNNING:
        await provider.backend.set_gpu(instance, mode)
    return written(ok())


async def outbid(request: web.Request) -> web.Response:
    """A higher bid came; the contract stays and bills its disk."""
    provider, instance = _instance(request)
    await provider.cut(instance, Phase.OUTBID if instance.phase is Phase.RUNNING else Phase.OUTBID_LOADING)
    return written(ok())


async def end(request: web.Request) -> web.Response:
    """The host's listing ended."""
    provider, instance = _instance(request)
    instance.intended = "stopped"
    instance.enter(Phase.ENDED, provider.clock())
    await provider.save()
    return written(ok())


async def set_row(request: web.Request) -> web.Response:
    """What the API shall say of it instead, field by field: `{"actual_status": "unknown"}`; `{}` ends it."""
    provider, instance = _instance(request)
    instance.row = await _body(request)
    await provider.save()
    return written(ok())


async def set_instance(request: web.Request) -> web.Response:
    """`{"refuseStart": true}`: the next starts are queued; `{"boot": "stuck" | "oci" | "ok"}`."""
    provider, instance = _instance(request)
    body = await _body(request)
    if "refuseStart" in body:
        instance.refuse_start = bool(body["refuseStart"])
    if "boot" in body:
        instance.boot_fault = body["boot"]
    await provider.save()
    return written(ok())


async def wipe_keys(request: web.Request) -> web.Response:
    """Vast's refresh: only attached keys stay; `{"all": true}`: those are gone from the file as well."""
    provider, instance = _instance(request)
    if (await _body(request)).get("all"):
        bare = instance.model_copy(update={"keys": []})
        await provider.backend.write_keys(bare, alone=True)
    else:
        await provider.write_keys(instance, alone=True)
    return written(ok())


async def offers(request: web.Request) -> web.Response:
    provider = request.app[PROVIDER]
    rows = [one.model_dump() | {"available": provider.available(one)} for one in provider.offers()]
    return written(Answer(200, {"offers": rows}))


def _change(provider: Provider, chosen: list[Offer], body: dict[str, Any]) -> web.Response:
    if not chosen:
        return written(refused(404, "not_found", "no such offer"))
    try:
        changed = [Offer.model_validate(offer.model_dump() | body) for offer in chosen]
    except ValidationError as error:
        return written(refused(400, "invalid", str(error)))
    for offer in changed:
        provider.world.offers[offer.id] = offer
    return written(ok(offers=[offer.id for offer in changed]))


async def change_offer(request: web.Request) -> web.Response:
    """Fields of model.Offer: a price, `listed: false` (the host took it back), `boot`, `nvidia_smi`, …"""
    provider = request.app[PROVIDER]
    offer = provider.offer(int(request.match_info["id"]))
    answer = _change(provider, [offer] if offer else [], await _body(request))
    await provider.save()
    return answer


async def change_machine(request: web.Request) -> web.Response:
    """The same for all offers of one machine; without a number: for all machines."""
    provider = request.app[PROVIDER]
    number = request.match_info.get("id")
    chosen = [one for one in provider.offers() if number is None or one.machine_id == int(number)]
    answer = _change(provider, chosen, await _body(request))
    await provider.save()
    return answer


async def health(request: web.Request) -> web.Response:
    return written(ok())


def add_routes(app: web.Application) -> None:
    post, get = app.router.add_post, app.router.add_get
    get("/_bench/health", health)
    get("/_bench/state", state)
    get("/_bench/calls", calls)
    get("/_bench/offers", offers)
    post("/_bench/reset", reset)
    post("/_bench/settings", set_settings)
    post("/_bench/faults", add_fault)
    app.router.add_delete("/_bench/faults", clear_faults)
    post("/_bench/offers/{id:\\d+}", change_offer)
    post("/_bench/machines", change_machine)
    post("/_bench/machines/{id:\\d+}", change_machine)
    for word, handler in (
        ("kill", kill),
        ("revive", revive),
        ("gpu", set_gpu),
        ("outbid", outbid),
        ("end", end),
        ("row", set_row),
        ("set", set_instance),
        ("wipe-keys", wipe_keys),
    ):
        post(f"/_bench/instances/{{id:\\d+}}/{word}", handler)
