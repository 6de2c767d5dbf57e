"""Minimum intervals between calls of one kind on one key, as the API demands them.

A 429 after the fact is not enough: a burst of destroys that is refused leaves machines that cost money.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum

MARGIN_SECONDS = 0.05
"""The server counts from arrival to arrival, we from sending to sending."""


class Endpoint(Enum):
    """Kinds of calls that are counted apart, with the interval in seconds."""

    CREATE = ("create", 4.5)
    DESTROY = ("destroy", 3.0)
    LIST = ("list", 1.0)
    STATE = ("state", 1.0)
    SSH_KEY = ("ssh key", 1.0)
    SEARCH = ("search", 6.0)

    @property
    def interval(self) -> float:
        return float(self.value[1])


class Throttle:
    """Hands out slots in the order of asking."""

    def __init__(self, monotonic: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        self._monotonic = monotonic
        self._sleep = sleep
        self._free_at: dict[Endpoint, float] = {}
        self._locks = {endpoint: asyncio.Lock() for endpoint in Endpoint}

    async def slot(self, endpoint: Endpoint) -> None:
        async with self._locks[endpoint]:
            wait = self._free_at.get(endpoint, 0.0) - self._monotonic()
            if wait > 0:
                await self._sleep(wait)
            self._free_at[endpoint] = self._monotonic() + endpoint.interval + MARGIN_SECONDS

    def pushed_back(self, endpoint: Endpoint, seconds: float) -> None:
        """The server said "too fast": nobody calls again before that."""
        self._free_at[endpoint] = max(self._free_at.get(endpoint, 0.0), self._monotonic() + seconds)
