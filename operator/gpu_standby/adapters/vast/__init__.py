"""Vast.ai's REST API as a GpuProvider. One client per API key, so that its throttle sees every call on that key.

Facts about the API that the code relies on: HTTP 404 may mean "wrong key"; a list without an `instances` key is an
error and never "no instances"; a refused create can leave a machine behind; a create has no idempotency key.
"""

from gpu_standby.adapters.vast.accounts import DEFAULT_URL, VastAccounts
from gpu_standby.adapters.vast.provider import VastProvider

__all__ = ["DEFAULT_URL", "VastAccounts", "VastProvider"]
