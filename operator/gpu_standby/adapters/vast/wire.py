"""One HTTP call to Vast.ai and the meaning of its answer, as data or as one of our errors.

What a caller may conclude differs by the kind of call: a lost answer to a question is CannotTell, a lost answer to a
command is MayHaveHappened. Only what may safely be done twice is retried here.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from typing import Any

import httpx

from gpu_standby.adapters.vast.throttle import Endpoint, Throttle
from gpu_standby.errors import (
    AuthRejected,
    CannotTell,
    GpuStandbyError,
    MayHaveHappened,
    NoCredit,
    OfferGone,
    RateLimited,
    Refused,
)

JsonObject = dict[str, Any]

_TRIES = 3
_BACKOFF_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 20.0
"""A longer wait is the caller's business: he has other things to do meanwhile."""
_TEXT = 300


class Nature(Enum):
    QUESTION = auto()
    """Changes nothing; may be repeated."""
    COMMAND = auto()
    """Doing it twice is doing it once; may be repeated."""
    ONCE = auto()
    """Doing it twice is doing it twice: never repeated here."""


class Rejection(Refused):
    """A parsed "no" of the API; `error` is its own enumerated word."""

    def __init__(self, message: str, status: int, error: str, contract: int = 0) -> None:
        super().__init__(message, contract)
        self.status = status
        self.error = error


class Wire:
    """The API on one key. The key is in the Authorization header and nowhere else."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        api_key: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._api_key = api_key
        self._sleep = sleep
        self._throttle = Throttle(monotonic, sleep)

    def __repr__(self) -> str:
        return "Wire(Vast.ai)"

    async def call(
        self,
        nature: Nature,
        endpoint: Endpoint,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
    ) -> JsonObject:
        """A 200 whose `success` is not false. `path` ends in a slash: without it the API redirects."""
        tries = 1 if nature is Nature.ONCE else _TRIES
        for attempt in range(1, tries + 1):
            await self._throttle.slot(endpoint)
            try:
                return await self._once(nature, endpoint, method, path, query, body)
            except RateLimited as error:
                self._throttle.pushed_back(endpoint, error.retry_after_seconds)
                if attempt == tries or error.retry_after_seconds > _LONGEST_WAIT_SECONDS:
                    raise
            except (CannotTell, MayHaveHappened):
                if attempt == tries:
                    raise
                await self._sleep(_BACKOFF_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("the last try returns or raises")

    async def _once(
        self,
        nature: Nature,
        endpoint: Endpoint,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: JsonObject | None,
    ) -> JsonObject:
        what = f"Vast.ai, {endpoint.value[0]}"
        try:
            response = await self._client.request(
                method,
                path,
                params=dict(query) if query else None,
                json=body if body is not None else (None if method == "GET" else {}),
                headers={"Authorization": f"Bearer {self._api_key}"},
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            # Nothing was sent.
            raise CannotTell(f"{what}: no connection: {self._clean(str(error) or type(error).__name__)}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _lost(nature, f"{what}: the answer was lost ({type(error).__name__})") from None
        return self._meaning(nature, endpoint, what, response)

    def _meaning(self, nature: Nature, endpoint: Endpoint, what: str, response: httpx.Response) -> JsonObject:
        status = response.status_code
        document = _json_object(response)
        if status == 429:
            raise RateLimited(f"{what}: too frequent: {self._said(document, response)}", _wait(endpoint, response))
        if 300 <= status < 400 or status < 200:
            # Not an answer of this API, and so nothing was done by it.
            raise CannotTell(f"{what}: unexpected HTTP {status}")
        if status >= 500:
            raise _lost(nature, f"{what}: HTTP {status}: {self._said(document, response)}")
        if document is None:
            if status == 403:
                # The edge (not the API) throttles with an HTML page; a wrong key is answered in JSON.
                raise RateLimited(f"{what}: HTTP 403 without JSON, taken for throttling", _wait(endpoint, response))
            raise _lost(nature, f"{what}: HTTP {status} without a JSON object")
        if status >= 400 or document.get("success") is False:
            raise self._rejection(what, status, document, response)
        return document

    def _rejection(self, what: str, status: int, document: JsonObject, response: httpx.Response) -> GpuStandbyError:
        error = str(document.get("error") or "")
        said = self._said(document, response)
        message = f"{what}: {said} (HTTP {status})"
        contract = _whole(document.get("new_contract"))
        if contract:
            return Rejection(message, status, error, contract)
        lower = said.lower()
        if error == "auth_error" or status == 401 or "invalid user key" in lower or "authorization error" in lower:
            return AuthRejected(message)
        if "no_such_ask" in error or "no_such_ask" in said:
            return OfferGone(message)
        if error == "insufficient_credit" or error == "missing_billing":
            return NoCredit(message)
        return Rejection(message, status, error)

    def _said(self, document: JsonObject | None, response: httpx.Response) -> str:
        if document is None:
            return self._clean(response.text[:_TEXT])
        words = (document.get(key) for key in ("error", "msg", "detail", "message"))
        return self._clean(": ".join(str(word) for word in words if word) or "no reason given")

    def _clean(self, text: str) -> str:
        """Another's words, bounded, on one line, and never with our key in them."""
        return " ".join(text.replace(self._api_key, "***").split())[:_TEXT]


def _lost(nature: Nature, message: str) -> GpuStandbyError:
    return CannotTell(message) if nature is Nature.QUESTION else MayHaveHappened(message)


def _json_object(response: httpx.Response) -> JsonObject | None:
    try:
        document = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return document if isinstance(document, dict) else None


def _wait(endpoint: Endpoint, response: httpx.Response) -> float:
    """`Retry-After` where it is given; else the interval twice, which covers the observed penalties."""
    try:
        given = float(response.headers.get("Retry-After", ""))
    except ValueError:
        given = 0.0
    return min(max(given, 2 * endpoint.interval), 86_400.0)


def _whole(value: object) -> int:
    if isinstance(value, bool):
        return 0
    if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
        return int(value)
    return 0
