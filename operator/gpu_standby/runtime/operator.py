"""Running the operator: kopf around the app."""

import asyncio
import logging

import kopf

from gpu_standby.runtime.app import App
from gpu_standby.runtime.configuration import Configuration
from gpu_standby.runtime.handlers import register

LIVENESS = "http://0.0.0.0:8080/healthz"


def _not_a_wait(record: logging.LogRecord) -> bool:
    """A release that still waits for something is no error; what it waits for is in an event."""
    return "failed temporarily" not in record.getMessage()


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s %(message)s")
    # kopf tells every handler's success and every retry; what matters is in our own lines and events.
    logging.getLogger("kopf").setLevel("WARNING")
    logging.getLogger("kopf.objects").addFilter(_not_a_wait)
    for noisy in ("kopf.objects", "httpx", "httpcore", "asyncssh", "aiohttp.access"):
        logging.getLogger(noisy).setLevel("WARNING")


def main() -> int:
    configuration = Configuration.from_environment()
    _log_to_stderr(configuration.log_level)
    registry = kopf.OperatorRegistry()
    register(registry, App(configuration))
    namespaces = [configuration.watch_namespace] if configuration.watch_namespace else []
    asyncio.run(
        kopf.operator(
            registry=registry,
            namespaces=namespaces,
            clusterwide=not namespaces,
            standalone=True,
            liveness_endpoint=LIVENESS,
        )
    )
    return 0
