"""One authenticated connection to a host whose key is known, and what went wrong when there is none."""

import asyncio
import errno
from dataclasses import dataclass

import asyncssh

from gpu_standby.core.evidence import Outcome
from gpu_standby.errors import TargetDown

CLIENT_VERSION = "gpu-standby"
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr")
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED, errno.EHOSTDOWN)


@dataclass(frozen=True)
class Place:
    host: str
    port: int
    user: str
    host_key: str
    """One OpenSSH public key line; nothing is sent to a host that presents another."""


class _Pinned(asyncssh.SSHClient):
    """Accepts one host key, and remembers what was presented."""

    def __init__(self, expected: str | None) -> None:
        self._expected = expected.split()[:2] if expected is not None else None
        self.presented = ""
        self.lost: BaseException | None = None
        self.ended = asyncio.Event()

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.presented = key.export_public_key("openssh").decode().strip()
        return self._expected is not None and self.presented.split()[:2] == self._expected

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc
        self.ended.set()


class Unreached(Exception):
    """No connection, with the probe's word for why."""

    def __init__(self, outcome: Outcome, detail: str, presented: str = "") -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail
        self.presented = presented


async def connect(place: Place, private_key: str, timeout: float) -> tuple[asyncssh.SSHClientConnection, _Pinned]:
    """Raises Unreached, and nothing else but CancelledError."""
    pinned = _Pinned(place.host_key)
    try:
        async with asyncio.timeout(timeout):
            connection = await asyncssh.connect(
                place.host,
                place.port,
                username=place.user,
                client_keys=[asyncssh.import_private_key(private_key)],
                client_factory=lambda: pinned,
                known_hosts=([], [], []),
                server_host_key_algs=_algorithms(place.host_key),
                encryption_algs=CIPHERS,
                compression_algs=None,
                client_version=CLIENT_VERSION,
                agent_path=None,
                config=None,
                gss_host=None,
                preferred_auth="publickey",
                tcp_keepalive=False,
            )
    except Exception as error:  # noqa: BLE001 - every failure of a probe is data
        raise translate(error, pinned.presented) from None
    return connection, pinned


def _algorithms(host_key: str) -> list[str]:
    algorithm = host_key.split()[0]
    return ["rsa-sha2-512", "rsa-sha2-256"] if algorithm == "ssh-rsa" else [algorithm]


def translate(error: BaseException, presented: str = "") -> Unreached:
    text = f"{type(error).__name__}: {error}"[:160]
    match error:
        case TimeoutError():
            return Unreached(Outcome.TIMED_OUT, "no answer in time")
        case asyncssh.HostKeyNotVerifiable() | asyncssh.KeyExchangeFailed():
            return Unreached(Outcome.WRONG_HOST_KEY, "another host key", presented)
        case asyncssh.PermissionDenied():
            return Unreached(Outcome.AUTH_FAILED, "our key was not accepted")
        case asyncssh.Error() | ConnectionResetError() | BrokenPipeError() | EOFError():
            return Unreached(Outcome.CLOSED, text)
        case OSError() if error.errno in _UNREACHABLE or isinstance(error, ConnectionRefusedError):
            return Unreached(Outcome.REFUSED, error.strerror or text)
        case OSError() if error.errno == errno.ETIMEDOUT:
            return Unreached(Outcome.TIMED_OUT, text)
        case _:
            return Unreached(Outcome.CANNOT_TELL, text)


async def host_key(host: str, port: int, timeout: float) -> str:
    """What a host presents at first contact; it is told nothing about us. TargetDown."""
    try:
        async with asyncio.timeout(timeout):
            key = await asyncssh.get_server_host_key(
                host, port, client_version=CLIENT_VERSION, server_host_key_algs=["ssh-ed25519"], config=None
            )
    except (OSError, TimeoutError, asyncssh.Error) as error:
        raise TargetDown(f"{host}:{port} presents no host key: {type(error).__name__} {error}") from None
    if key is None:
        raise TargetDown(f"{host}:{port} presents no host key")
    return " ".join(key.export_public_key("openssh").decode().split()[:2])
