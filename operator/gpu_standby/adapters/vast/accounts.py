"""One provider per API key: pairs that share an account share its throttle and its lists."""

from hashlib import sha256

import httpx

from gpu_standby import __version__
from gpu_standby.adapters.vast.provider import VastProvider
from gpu_standby.adapters.vast.wire import Wire

DEFAULT_URL = "https://console.vast.ai"
_LIMITS = httpx.Limits(max_connections=16, max_keepalive_connections=8)


class VastAccounts:
    """Makes (and keeps) the provider of a key. The key itself is only in the provider's memory."""

    def __init__(self, url: str = DEFAULT_URL, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            follow_redirects=False,  # a 3xx body is never an answer, and the key must not travel to another host
            timeout=httpx.Timeout(15.0, connect=5.0),
            limits=_LIMITS,
            transport=transport,
            trust_env=True,
            headers={"User-Agent": f"gpu-standby/{__version__}", "Accept": "application/json"},
        )
        self._providers: dict[bytes, VastProvider] = {}

    def provider(self, api_key: str) -> VastProvider:
        digest = sha256(api_key.encode()).digest()
        if digest not in self._providers:
            self._providers[digest] = VastProvider(Wire(self._client, api_key.strip()))
        return self._providers[digest]

    async def close(self) -> None:
        await self._client.aclose()
