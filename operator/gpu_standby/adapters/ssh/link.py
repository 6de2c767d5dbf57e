"""One authenticated connection to a host whose key is known, and the probe's word for why there is none.

Everything comes from memory: no configuration file, no known_hosts, no agent, no GSSAPI, no forwarding. A host that
presents another key than the pinned one gets our key exchange and nothing after it.
"""

import asyncio
import errno
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import asyncssh

from gpu_standby.core.evidence import Outcome
from gpu_standby.errors import CannotTell, TargetDown, WrongHostKey

CLIENT_VERSION = "gpu-standby"
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr")
KEY_EXCHANGES = ("curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp521")
"""Elliptic curves first: cheap enough for a handshake a second, from every pair at once."""
HOST_KEY_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "rsa-sha2-512", "rsa-sha2-256")
_SECOND_LOOK_SECONDS = 1.0
_REFUSED = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)
_CLOSED = (errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE)

_resolver = ThreadPoolExecutor(4, "resolve")
"""Of its own: asyncssh needs the loop's threads at each connection, and name servers that hang must not fill those."""

# Each connection, with its commands, would be told at INFO; what matters of that is in our own lines.
asyncssh.set_log_level("WARNING")


@dataclass(frozen=True)
class Place:
    host: str
    port: int
    user: str
    host_key: str
    """One OpenSSH public key line; nothing is sent to a host that presents another."""


class Unreached(Exception):
    """No connection, with the probe's word for why. Stays inside this package."""

    def __init__(self, outcome: Outcome, detail: str, presented: str = "") -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail
        self.presented = presented

    def as_error(self, who: str) -> TargetDown | CannotTell:
        text = f"{who}: {self.outcome}: {self.detail}"
        match self.outcome:
            case Outcome.WRONG_HOST_KEY:
                return WrongHostKey(text, self.presented)
            case Outcome.CANNOT_TELL:
                return CannotTell(text)
            case _:
                return TargetDown(text)


class _Pinned(asyncssh.SSHClient):
    """Accepts one host key, and remembers what was presented."""

    def __init__(self, expected: list[str]) -> None:
        self._expected = expected
        self.presented = ""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.presented = _line(key)
        return self.presented.split() == self._expected


async def connect(place: Place, private_key: str, timeout: float) -> asyncssh.SSHClientConnection:
    """Raises Unreached, and nothing else but CancelledError."""
    deadline = asyncio.get_running_loop().time() + timeout
    pinned = _Pinned(place.host_key.split()[:2])
    dialled = False
    try:
        async with asyncio.timeout_at(deadline):
            kind, _ = pinned._expected
            # Before anything is opened: a key that cannot be read leaves no socket behind.
            key = asyncssh.import_private_key(private_key)
            opened = await _dial(place.host, place.port)
            dialled = True
            return await asyncssh.connect(
                sock=opened,
                username=place.user,
                client_keys=[key],
                client_factory=lambda: pinned,
                known_hosts=([], [], []),
                server_host_key_algs=["rsa-sha2-512", "rsa-sha2-256"] if kind == "ssh-rsa" else [kind],
                kex_algs=KEY_EXCHANGES,
                encryption_algs=CIPHERS,
                compression_algs=None,
                client_version=CLIENT_VERSION,
                agent_path=None,
                config=None,
                gss_host=None,
                preferred_auth="publickey",
                tcp_keepalive=False,
            )
    except TimeoutError:
        raise Unreached(
            Outcome.TIMED_OUT, "connected, no SSH in time" if dialled else "no connection in time"
        ) from None
    except Exception as error:  # noqa: BLE001 - every failure of a probe is data
        found = translate(error, pinned.presented)
    if found.outcome is Outcome.CLOSED and dialled and not pinned.presented:
        # A host that has no key of this kind hangs up before it presents any: another machine, or none at all?
        found = await _second_look(place, found, deadline - asyncio.get_running_loop().time())
    raise found


async def _dial(host: str, port: int) -> socket.socket:
    """One connected TCP socket. We do it ourselves to keep the errno that asyncio loses over several addresses."""
    loop = asyncio.get_running_loop()
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await loop.run_in_executor(_resolver, partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM))
    first: OSError | None = None
    for family, kind, protocol, _, address in found:
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setblocking(False)
            await loop.sock_connect(opened, address)
        except OSError as error:
            opened.close()
            first = first or error
        except BaseException:
            opened.close()
            raise
        else:
            return opened
    raise first or OSError("the name has no address")


async def _second_look(place: Place, found: Unreached, remaining: float) -> Unreached:
    if remaining <= 0:
        return found
    with suppress(TargetDown):
        presented = await host_key(place.host, place.port, min(remaining, _SECOND_LOOK_SECONDS))
        if presented.split() != place.host_key.split()[:2]:
            return Unreached(Outcome.WRONG_HOST_KEY, "another host key, of another kind", presented)
    return found


def translate(error: BaseException, presented: str = "") -> Unreached:
    """What an exception of asyncssh or of the system says about the host. What we do not know is our own fault."""
    text = f"{type(error).__name__}: {error}"[:160]
    match error:
        case Unreached():
            return error
        case TimeoutError():
            return Unreached(Outcome.TIMED_OUT, "no answer in time")
        case asyncssh.HostKeyNotVerifiable():
            return Unreached(Outcome.WRONG_HOST_KEY, "another host key", presented)
        case asyncssh.KeyExchangeFailed() if presented:
            return Unreached(Outcome.WRONG_HOST_KEY, "the host key was not proven", presented)
        case asyncssh.PermissionDenied():
            return Unreached(Outcome.AUTH_FAILED, "our key was not accepted")
        case asyncssh.Error() | EOFError():
            return Unreached(Outcome.CLOSED, text)
        case OSError() if error.errno in _REFUSED:
            return Unreached(Outcome.REFUSED, error.strerror or text)
        case OSError() if error.errno in _CLOSED or isinstance(error, ConnectionError):
            return Unreached(Outcome.CLOSED, text)
        case OSError() if error.errno == errno.ETIMEDOUT:
            return Unreached(Outcome.TIMED_OUT, text)
        case _:
            return Unreached(Outcome.CANNOT_TELL, text)


async def host_key(host: str, port: int, timeout: float) -> str:
    """What a host presents at first contact; it is told nothing about us. TargetDown."""
    try:
        async with asyncio.timeout(timeout):
            key = await asyncssh.get_server_host_key(
                sock=await _dial(host, port),
                client_version=CLIENT_VERSION,
                kex_algs=KEY_EXCHANGES,
                server_host_key_algs=HOST_KEY_KINDS,
                config=None,
            )
    except (OSError, TimeoutError, asyncssh.Error) as error:
        raise TargetDown(f"{host}:{port} presents no host key: {type(error).__name__} {error}") from None
    if key is None:
        raise TargetDown(f"{host}:{port} presents no host key")
    return _line(key)


def _line(key: asyncssh.SSHKey) -> str:
    """Without the comment."""
    return " ".join(key.export_public_key("openssh").decode().split()[:2])
