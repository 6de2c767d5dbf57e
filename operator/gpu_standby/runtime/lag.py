"""How late is our own event loop? A prober that stood still must not testify."""

import asyncio
from collections.abc import Callable

PERIOD_SECONDS = 0.25


async def meter(note: Callable[[float], None]) -> None:
    """Monotonic time: a step of the wall clock is no lag."""
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(PERIOD_SECONDS)
        note(max(0.0, loop.time() - before - PERIOD_SECONDS))
