"""What one HTTP answer lets us conclude; and that the key is in no text."""

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal

import httpx
import pytest

from gpu_standby.adapters.vast.provider import VastProvider
from gpu_standby.adapters.vast.throttle import MARGIN_SECONDS, Endpoint, Throttle
from gpu_standby.adapters.vast.wire import Wire
from gpu_standby.core.market import RentRequest
from gpu_standby.errors import AuthRejected, CannotTell, GpuStandbyError, MayHaveHappened, RateLimited, Refused

KEY = "the-secret-key"
REQUEST = RentRequest(5, "label", "image", 20, "true", (8080,), Decimal("0.25"))


class Server:
    def __init__(self, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = answer
        client = httpx.AsyncClient(base_url="http://vast.test", transport=httpx.MockTransport(self._handle))
        self.time = 0.0
        self.vast = VastProvider(Wire(client, KEY, monotonic=lambda: self.time, sleep=self._sleep))

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answer(request)

    async def _sleep(self, seconds: float) -> None:
        self.time += seconds


def always(status: int, body: object, headers: dict[str, str] | None = None) -> Server:
    content = body if isinstance(body, str) else json.dumps(body)
    return Server(lambda request: httpx.Response(status, text=content, headers=headers))


def failing(error: Exception) -> Server:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    return Server(answer)


async def test_every_path_ends_in_a_slash_and_the_key_is_only_in_the_header() -> None:
    server = always(200, {"success": True, "instances": [], "offers": [], "new_contract": 7})
    await server.vast.list()
    await server.vast.create(REQUEST)
    for call in (server.vast.start, server.vast.stop, server.vast.destroy):
        await call(7)
    await server.vast.label(7, "x")
    await server.vast.attach_key(7, "ssh-ed25519 AAAA")
    for request in server.requests:
        assert request.url.path.endswith("/")
        assert KEY not in str(request.url)
        assert KEY.encode() not in request.content
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        assert request.method == "GET" or json.loads(request.content) is not None


async def test_a_create_asks_for_what_can_be_had_now_and_for_direct_ssh() -> None:
    server = always(200, {"success": True, "new_contract": 7})
    assert await server.vast.create(REQUEST) == 7
    body = json.loads(server.requests[0].content)
    assert body["cancel_unavail"] is True
    assert body["runtype"] == "ssh_direc ssh_proxy"
    assert body["env"] == {"-p 8080:8080": "1"}
    assert body["price"] == 0.25


@pytest.mark.parametrize(
    ("server", "error"),
    [
        (always(500, f"<html>{KEY}</html>"), MayHaveHappened),
        (always(200, "not json"), MayHaveHappened),
        (always(200, {"success": True}), MayHaveHappened),
        (failing(httpx.ReadTimeout("slow")), MayHaveHappened),
        (failing(httpx.RemoteProtocolError(f"reset {KEY}")), MayHaveHappened),
        (failing(httpx.ConnectError(f"refused {KEY}")), CannotTell),
        (always(301, {"success": True, "new_contract": 7}), CannotTell),
        (always(429, f"API requests too frequent {KEY}"), RateLimited),
        (always(403, "<html>403</html>", {"Content-Type": "text/html"}), RateLimited),
        (always(400, {"success": False, "error": "invalid_args", "msg": KEY}), Refused),
        (always(404, {"success": False, "error": "auth_error", "msg": f"Invalid user key {KEY}"}), AuthRejected),
        (always(200, {"success": False, "error": "x"}), Refused),
    ],
)
async def test_a_create_is_sent_once_and_its_answer_judged(server: Server, error: type[GpuStandbyError]) -> None:
    with pytest.raises(error) as caught:
        await server.vast.create(REQUEST)
    assert len(server.requests) == 1
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("status", [200, 400])
async def test_a_failure_with_a_contract_names_the_machine_that_must_be_destroyed(status: int) -> None:
    server = always(status, {"success": False, "error": "no_such_ask", "msg": "x", "new_contract": 77})
    with pytest.raises(Refused) as caught:
        await server.vast.create(REQUEST)
    assert caught.value.contract == 77


@pytest.mark.parametrize(
    "body",
    [
        {"success": True},
        {"instances": []},
        {"success": True, "instances": None},
        [],
        {"success": True, "instances": [{}]},
    ],
)
async def test_a_list_that_is_not_whole_is_no_list(body: object) -> None:
    with pytest.raises(CannotTell):
        await always(200, body).vast.list()


async def test_pages_that_go_in_a_circle_end() -> None:
    server = always(200, {"success": True, "instances": [{"id": 1}], "next_token": "again"})
    with pytest.raises(CannotTell):
        await server.vast.list()
    assert len(server.requests) == 2


async def test_nobody_is_given_a_list_that_began_before_he_asked() -> None:
    release, started = asyncio.Event(), asyncio.Event()
    began: list[float] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        began.append(len(began))
        started.set()
        await release.wait()
        return httpx.Response(200, json={"success": True, "instances": []})

    client = httpx.AsyncClient(base_url="http://vast.test", transport=httpx.MockTransport(answer))
    ticks = iter(range(100))
    vast = VastProvider(Wire(client, KEY, monotonic=lambda: 0.0, sleep=asyncio.sleep), now=lambda: float(next(ticks)))
    vast._wire._throttle = Throttle(lambda: next(ticks) * 100.0, asyncio.sleep)
    first = asyncio.create_task(vast.list())
    await started.wait()
    later = [asyncio.create_task(vast.list()) for _ in range(5)]
    await asyncio.sleep(0)
    release.set()
    answers = await asyncio.gather(first, *later)
    assert len(began) == 2
    assert len({a.time for a in answers[1:]}) == 1
    assert answers[1].time > answers[0].time


async def test_slots_are_handed_out_at_the_endpoints_interval_in_the_order_of_asking() -> None:
    now, order = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    throttle = Throttle(lambda: now, sleep)

    async def take(name: int) -> None:
        await throttle.slot(Endpoint.DESTROY)
        order.append((name, now))

    await asyncio.gather(*(take(number) for number in range(4)))
    step = Endpoint.DESTROY.interval + MARGIN_SECONDS
    assert order == [(number, pytest.approx(number * step)) for number in range(4)]
