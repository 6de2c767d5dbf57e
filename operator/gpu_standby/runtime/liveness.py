"""The liveness probe: not "does the loop turn", but "are we still probing"."""

import time

from gpu_standby.runtime.app import App

STALLED_SECONDS = 60.0


def check(app: App) -> str:
    """Raises when probing has stalled: the kubelet then restarts us, which is always safe."""
    if app.fleet is None:
        return "starting"
    age = time.time() - app.fleet.last_round
    if age > STALLED_SECONDS:
        raise RuntimeError(f"no canary round for {age:.0f} s")
    return "probing"
