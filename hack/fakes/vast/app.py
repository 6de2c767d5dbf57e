"""The server as an aiohttp application; `make_app` is all that a test needs.

app = make_app(NoMachines(), api_key="k")
runner = web.AppRunner(app); await runner.setup(); await web.TCPSite(runner, "127.0.0.1", 0).start()
"""

import time
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from . import control, routes
from .backend import Backend
from .front import PROVIDER
from .model import Settings
from .provider import Provider


def make_app(
    backend: Backend,
    api_key: str,
    clock: Callable[[], float] = time.time,
    settings: Settings | None = None,
    tick_seconds: float = 0.05,
) -> web.Application:
    """The stand-in over one backend; its provider is `app[PROVIDER]`."""
    app = web.Application()
    app[PROVIDER] = Provider(backend, api_key, clock, settings, tick_seconds)
    app.cleanup_ctx.append(_alive)
    routes.add_routes(app)
    control.add_routes(app)
    return app


async def _alive(app: web.Application) -> AsyncIterator[None]:
    await app[PROVIDER].open()
    yield
    await app[PROVIDER].close()
