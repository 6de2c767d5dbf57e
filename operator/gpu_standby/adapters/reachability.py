"""Does a port answer? Always on a fresh connection: a socket that was open before proves nothing."""

import asyncio
import ipaddress
import socket

import aiohttp

from gpu_standby.errors import CannotTell


async def port_answers(host: str, port: int, timeout: float) -> bool:
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError, ValueError, OverflowError):
        return False
    # Nothing was said, nothing is waited for: a machine that froze since must not hold us up.
    writer.transport.abort()
    return True


async def service_answers(host: str, port: int, path: str | None, timeout: float) -> bool:
    """TCP connect, or with a path any HTTP status below 500."""
    if path is None:
        return await port_answers(host, port, timeout)
    limits = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=limits, connector=aiohttp.TCPConnector(force_close=True)) as session,
            session.get(f"http://{_bracketed(host)}:{port}{path}", allow_redirects=False) as answer,
        ):
            return answer.status < 500
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return False


async def canary_answers(endpoint: str, timeout: float) -> bool:
    """`endpoint` is host:port."""
    host, _, port = endpoint.rpartition(":")
    return port.isdecimal() and await port_answers(host.strip("[]"), int(port), timeout)


async def resolve(host: str) -> str:
    """An EndpointSlice takes nothing but an address."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, family=socket.AF_INET)
    except OSError as error:
        raise CannotTell(f"the name {host} cannot be resolved: {error}") from None
    return str(found[0][4][0])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
