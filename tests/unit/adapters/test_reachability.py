"""Does a port answer? True, False, never an exception, never longer than allowed."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from gpu_standby.adapters import reachability
from gpu_standby.adapters.clock import SystemClock
from gpu_standby.errors import CannotTell


class Service:
    def __init__(self) -> None:
        self.port = 0
        self.answer = b""
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.asked.append(await reader.readline())
            if self.answer:
                writer.write(self.answer)
            else:
                await reader.read()
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest.fixture
async def nobody() -> int:
    """A port on which nothing listens."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def test_a_port_that_accepts_answers_and_one_that_refuses_does_not(service: Service, nobody: int) -> None:
    assert await reachability.service_answers("127.0.0.1", service.port, None, 2)
    assert not await reachability.service_answers("127.0.0.1", nobody, None, 2)
    assert not await reachability.service_answers("127.0.0.1", nobody, "/", 2)


@pytest.mark.parametrize(
    ("status", "answers"), [("200 OK", True), ("404 No", True), ("302 There", True), ("503 Not yet", False)]
)
async def test_with_a_path_any_status_below_500_is_an_answer(service: Service, status: str, answers: bool) -> None:
    service.answer = f"HTTP/1.1 {status}\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".encode()
    assert await reachability.service_answers("127.0.0.1", service.port, "/healthz", 2) is answers
    assert service.asked == [b"GET /healthz HTTP/1.1\r\n"]


async def test_every_question_is_asked_on_a_connection_of_its_own(service: Service) -> None:
    service.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    for _ in range(3):
        assert await reachability.service_answers("127.0.0.1", service.port, "/", 2)
    assert len(service.asked) == 3


async def test_a_service_that_accepts_and_says_nothing_is_no_answer_within_the_limit(service: Service) -> None:
    started = time.monotonic()
    assert not await reachability.service_answers("127.0.0.1", service.port, "/", 0.2)
    assert time.monotonic() - started < 1.5


async def test_what_is_no_http_is_no_answer(service: Service) -> None:
    service.answer = b"SSH-2.0-something\r\n"
    assert not await reachability.service_answers("127.0.0.1", service.port, "/", 2)


async def test_a_canary_is_an_endpoint_and_nonsense_is_one_that_does_not_answer(service: Service, nobody: int) -> None:
    assert await reachability.canary_answers(f"127.0.0.1:{service.port}", 2)
    assert not await reachability.canary_answers(f"127.0.0.1:{nobody}", 2)
    for nonsense in ("", "127.0.0.1", "127.0.0.1:ssh", ":", "[::1]:99999999", "a..b:1"):
        assert not await reachability.canary_answers(nonsense, 2)


async def test_a_name_becomes_an_address_and_an_address_stays_one() -> None:
    assert await reachability.resolve("localhost") == "127.0.0.1"
    assert await reachability.resolve("2001:db8::1") == "2001:db8::1"
    with pytest.raises(CannotTell):
        await reachability.resolve("nowhere.invalid")


async def test_the_clock_is_the_machines_own() -> None:
    clock = SystemClock()
    before = time.time()
    await clock.sleep(0.01)
    assert before < clock.now() <= time.time()
