"""The API's routes: each operation's handler, and the table that says which path is which operation."""

from typing import Any

from aiohttp import web

from . import listing, wire
from .front import Handler, served, written
from .market import UnknownKey, offer_row, search
from .model import Instance, Offer
from .provider import Provider
from .wire import Answer, ok, refused

OWNER = 400_123
Body = dict[str, Any]


def _id(request: web.Request) -> int:
    return int(request.match_info["id"])


# -- the market


async def search_offers(provider: Provider, request: web.Request, body: Body) -> Answer:
    world = provider.world
    try:
        rows = search(provider.offers(), world.instances.values(), body, provider.clock(), world.settings.searchAbsence)
    except UnknownKey as error:
        return wire.invalid_request(f"Error in query parameters: {error} is not a valid search key")
    if not provider.search_budget(len(rows)):
        return wire.search_quota(world.settings.searchRowsPerDay, provider.clock())
    return Answer(200, {"offers": rows}, headers={"x-ratelimit-limit": "500"})


async def search_asks(provider: Provider, request: web.Request, body: Body) -> Answer:
    """The other search: its filters stand under `q`, and no defaults are applied."""
    extra = sorted(set(body) - {"select_cols", "q"})
    if extra:
        return wire.invalid_request(f"{extra[0]}: Extra inputs are not permitted")
    return await search_offers(provider, request, body.get("q") or {})


async def gpu_names(provider: Provider, request: web.Request, body: Body) -> Answer:
    return Answer(200, {"gpu_names": sorted({offer.gpu_name for offer in provider.offers()})})


# -- create


async def create(provider: Provider, request: web.Request, body: Body) -> Answer:
    number = _id(request)
    offer = provider.offer(number)
    problem = _bad_create(body, offer)
    if problem is not None:
        return problem
    if provider.world.settings.credit <= 0:
        return wire.NO_CREDIT
    if offer is None or not offer.listed:
        return wire.no_such_ask(number)
    if not provider.available(offer):
        return wire.ask_gone(number) if body.get("cancel_unavail") else wire.no_such_ask(number)
    price = body.get("price")
    low = price is not None and float(price) < offer.min_bid
    instance = provider.create(offer, body, refused_bid=low)
    if low:
        # The refusal that bills: a stopped instance is there all the same.
        return refused(
            400, "invalid_price", "error 400/3612: invalid_price  bid is below the minimum.", new_contract=instance.id
        )
    return ok(new_contract=instance.id, instance_api_key=instance.api_key)


def _bad_create(body: Body, offer: Offer | None) -> Answer | None:
    env, price, disk = body.get("env"), body.get("price"), body.get("disk")
    if env is not None and not isinstance(env, dict):
        return wire.invalid_args("env must be a dict")
    if not body.get("image") and not body.get("template_hash_id") and not body.get("template_id"):
        return wire.invalid_args("image is required")
    if len(str(body.get("image") or "")) > 1024:
        return wire.invalid_args("image too long (max 1024)")
    if len(str(body.get("label") or "")) > 256:
        return wire.invalid_args("label too long (max 256)")
    values = [str(value) for value in (env or {}).values()]
    if any(len(value) > 256 for value in values) or sum(map(len, values)) > 32_768:
        return wire.invalid_args("env value too long")
    script = str(body.get("onstart") or "") + str(body.get("args_str") or "") + "".join(body.get("args") or [])
    if len(script) > 4096:
        return wire.invalid_args("args + onstart too long (max 4096)")
    if disk is not None and (float(disk) < 8 or (offer is not None and float(disk) > offer.disk_space)):
        return wire.invalid_args("disk out of range")
    if price is not None and not 0.001 <= float(price) <= 128:
        return refused(400, "invalid_price", "error 400/3612: invalid_price  price out of range.")
    return None


# -- instances


async def show(provider: Provider, request: web.Request, body: Body) -> Answer:
    number = _id(request)
    found = next((one for one in provider.visible() if one.id == number), None)
    if found is None:
        return Answer(200, {"instances": None})
    row = wire.instance_row(found, provider.clock(), provider.world.settings)
    row.pop("volume_info", None)
    return Answer(200, {"instances": row})


async def list_instances(provider: Provider, request: web.Request, body: Body) -> Answer:
    now, settings = provider.clock(), provider.world.settings
    rows = [wire.instance_row(one, now, settings) for one in provider.visible()]
    return listing.page(rows, request.query)


async def old_list(provider: Provider, request: web.Request, body: Body) -> Answer:
    return wire.DEPRECATED


async def filters(provider: Provider, request: web.Request, body: Body) -> Answer:
    now, settings = provider.clock(), provider.world.settings
    rows = [wire.instance_row(one, now, settings) for one in provider.visible()]
    return Answer(
        200,
        {"filters": [{key: row[key] for key in ("actual_status", "verification", "gpu_name")} for row in rows]},
    )


def _known(provider: Provider, request: web.Request) -> Instance | None:
    return provider.get(_id(request))


async def change(provider: Provider, request: web.Request, body: Body) -> Answer:
    instance = _known(provider, request)
    if instance is None:
        return wire.no_such_instance(_id(request))
    if "state" not in body and "label" not in body:
        return wire.invalid_args("nothing to change")
    if "label" in body:
        label = body["label"]
        if label is not None and len(str(label)) > 1024:
            return refused(400, "label_too_long", "Label is too long (max 1024).")
        instance.label = None if label is None else str(label)
    return _set_state(provider, instance, body["state"]) if "state" in body else ok()


def _set_state(provider: Provider, instance: Instance, state: Any) -> Answer:
    match state:
        case "stopped":
            provider.stop(instance)
            return ok()
        case "running":
            if provider.world.settings.credit <= 0:
                return refused(400, "missing_billing", "Your account lacks credit; see the billing page.")
            return ok() if provider.start(instance) else wire.QUEUED
        case _:
            return wire.invalid_args(f"unknown state {state}")


async def change_many(provider: Provider, request: web.Request, body: Body) -> Answer:
    numbers = [int(one) for one in body.get("ids") or []]
    found = [one for number in numbers if (one := provider.get(number)) is not None]
    if len(found) != len(numbers) or not numbers:
        return wire.invalid_args("ids")
    answers = [_set_state(provider, one, body.get("state")) for one in found]
    return next((one for one in answers if one != ok()), ok())


async def destroy(provider: Provider, request: web.Request, body: Body) -> Answer:
    instance = _known(provider, request)
    if instance is None:
        return wire.no_such_instance(_id(request))
    provider.destroy(instance)
    return ok()


async def destroy_many(provider: Provider, request: web.Request, body: Body) -> Answer:
    for number in body.get("instance_ids") or []:
        instance = provider.get(int(number))
        if instance is None:
            return wire.no_such_instance(int(number))
        provider.destroy(instance)
    return ok()


async def reboot(provider: Provider, request: web.Request, body: Body) -> Answer:
    instance = _known(provider, request)
    if instance is None:
        return wire.no_such_instance(_id(request))
    provider.reboot(instance)
    return ok()


async def change_bid(provider: Provider, request: web.Request, body: Body) -> Answer:
    instance = _known(provider, request)
    if instance is None:
        return wire.no_such_instance(_id(request))
    price = body.get("price")
    instance.bid = instance.offer.min_bid * 1.1 if price is None else float(price)
    return ok()


async def price_increases(provider: Provider, request: web.Request, body: Body) -> Answer:
    return ok(count=0, truncated=False, pending_price_increases=[])


# -- keys


def _public_key(body: Body) -> str | None:
    text = str(body.get("ssh_key") or "").strip()
    words = text.split()
    good = len(words) >= 2 and words[0].startswith(("ssh-", "ecdsa-", "sk-")) and "\n" not in text
    return text if good else None


NOT_A_KEY = refused(400, "invalid_args", "Invalid ssh key")


async def attach(provider: Provider, request: web.Request, body: Body) -> Answer:
    instance, key = _known(provider, request), _public_key(body)
    if instance is None:
        return wire.no_such_instance(_id(request))
    if key is None:
        return NOT_A_KEY
    provider.attach(instance, key)
    return ok(msg="SSH key attached successfully")


async def attached(provider: Provider, request: web.Request, body: Body) -> Answer:
    instance = _known(provider, request)
    if instance is None:
        return wire.no_such_instance(_id(request))
    return ok(ssh_keys=wire.keys_text(instance.keys, OWNER))


async def detach(provider: Provider, request: web.Request, body: Body) -> Answer:
    instance = _known(provider, request)
    if instance is None:
        return wire.no_such_instance(_id(request))
    number = int(request.match_info["key"])
    gone = [key for key in instance.keys if key.id == number]
    if not gone:
        return refused(404, "not_found", f"SSH key {number} not found.")
    instance.keys = [key for key in instance.keys if key.id != number]
    if instance.running_since is not None:
        await provider.backend.write_keys(instance, [key.public_key for key in gone])
    return ok(msg="SSH key detached successfully")


async def account_keys(provider: Provider, request: web.Request, body: Body) -> Answer:
    return Answer(200, [wire.key_row(key, OWNER) for key in provider.world.account_keys])


async def add_account_key(provider: Provider, request: web.Request, body: Body) -> Answer:
    """Only instances created after this have the key."""
    text = _public_key(body)
    if text is None:
        return NOT_A_KEY
    key = provider.new_key(text)
    provider.world.account_keys.append(key)
    return ok(key=wire.key_row(key, OWNER))


async def remove_account_key(provider: Provider, request: web.Request, body: Body) -> Answer:
    keys = provider.world.account_keys
    if not any(key.id == _id(request) for key in keys):
        return refused(404, "not_found", f"SSH key {_id(request)} not found.")
    provider.world.account_keys = [key for key in keys if key.id != _id(request)]
    return ok()


# -- the account


async def user(provider: Provider, request: web.Request, body: Body) -> Answer:
    credit = provider.world.settings.credit
    keys = provider.world.account_keys
    return Answer(
        200,
        {
            "id": OWNER,
            "email": "bench@example.invalid",
            "username": "bench",
            "fullname": "Test Bench",
            "credit": credit,
            "balance": 0.0,
            "balance_threshold": 0.0,
            "ssh_key": keys[0].public_key if keys else None,
            "host_agreement_accepted": 0,
            "has_billing": True,
            "email_verified": True,
            "rights": "user",
            "sid": "",
        },
    )


async def show_ask(provider: Provider, request: web.Request, body: Body) -> Answer:
    offer = provider.offer(_id(request))
    if offer is None:
        return refused(404, "not_found", f"Ask {_id(request)} not found.")
    return Answer(200, {"offers": offer_row(offer, 8.0, False, provider.available(offer), provider.clock())})


TABLE: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", "/api/v0/bundles/", "search", search_offers),
    ("PUT", "/api/v0/search/asks/", "search", search_asks),
    ("PUT", "/api/v0/asks/{id:\\d+}/", "create", create),
    ("GET", "/api/v0/asks/{id:\\d+}/", "other", show_ask),
    ("GET", "/api/v1/instances/", "list", list_instances),
    ("GET", "/api/v0/instances/", "old-list", old_list),
    ("PUT", "/api/v0/instances/", "state", change_many),
    ("DELETE", "/api/v0/instances/", "destroy", destroy_many),
    ("GET", "/api/v0/instances/filters/", "filters", filters),
    ("GET", "/api/v0/instances/pending-price-increases/", "other", price_increases),
    ("GET", "/api/v0/instances/{id:\\d+}/", "show", show),
    ("PUT", "/api/v0/instances/{id:\\d+}/", "state", change),
    ("DELETE", "/api/v0/instances/{id:\\d+}/", "destroy", destroy),
    ("PUT", "/api/v0/instances/reboot/{id:\\d+}/", "reboot", reboot),
    ("PUT", "/api/v0/instances/bid_price/{id:\\d+}/", "bid", change_bid),
    ("POST", "/api/v0/instances/{id:\\d+}/ssh/", "ssh-attach", attach),
    ("GET", "/api/v0/instances/{id:\\d+}/ssh/", "ssh-list", attached),
    ("DELETE", "/api/v0/instances/{id:\\d+}/ssh/{key:\\d+}/", "ssh-detach", detach),
    ("GET", "/api/v0/ssh/", "ssh-list", account_keys),
    ("POST", "/api/v0/ssh/", "account-key", add_account_key),
    ("DELETE", "/api/v0/ssh/{id:\\d+}/", "account-key", remove_account_key),
    ("GET", "/api/v0/users/current/", "user", user),
)


async def _moved(request: web.Request) -> web.Response:
    query = f"?{request.query_string}" if request.query_string else ""
    return written(wire.moved(f"{request.path}/{query}"))


async def _unknown(request: web.Request) -> web.Response:
    return written(refused(404, "not_found", f"{request.path} not found."))


def add_routes(app: web.Application) -> None:
    """All routes; each without its slash answers 301, but for the one that the client itself asks without."""
    for method, path, op, handler in TABLE:
        app.router.add_route(method, path, served(op, handler))
        if op == "user":
            app.router.add_route(method, path.rstrip("/"), served(op, handler))
        else:
            app.router.add_route(method, path.rstrip("/"), _moved)
    app.router.add_route("GET", "/api/v0/gpu_names/unique/", served("gpu-names", gpu_names, login=False))
    app.router.add_route("*", "/api/{rest:.*}", _unknown)
