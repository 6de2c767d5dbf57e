"""The operator's settings, read from the environment once. The chart sets every one of them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from gpu_standby.api.names import INSTALLATION_CONFIGMAP

DEFAULT_VAST_URL = "https://console.vast.ai"


@dataclass(frozen=True)
class Configuration:
    vast_url: str
    canaries: tuple[str, ...]
    """host:port each; by default the provider's own API."""
    watch_namespace: str
    """Empty: all namespaces."""
    namespace: str
    """The operator's own."""
    pod_name: str
    image: str
    installation_config_map: str
    creates_per_hour: int
    log_level: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Configuration":
        vast_url = environment.get("VAST_URL") or DEFAULT_VAST_URL
        told = [canary.strip() for canary in environment.get("CANARIES", "").split(",") if canary.strip()]
        return cls(
            vast_url=vast_url.rstrip("/"),
            canaries=tuple(told) or (_endpoint(vast_url),),
            watch_namespace=environment.get("WATCH_NAMESPACE", ""),
            namespace=environment.get("POD_NAMESPACE", "default"),
            pod_name=environment.get("POD_NAME", "gpu-standby"),
            image=environment.get("OPERATOR_IMAGE", "localhost/gpu-standby:dev"),
            installation_config_map=environment.get("INSTALLATION_CONFIGMAP", INSTALLATION_CONFIGMAP),
            creates_per_hour=int(environment.get("CREATES_PER_HOUR", "10")),
            log_level=environment.get("LOG_LEVEL", "INFO"),
        )


def _endpoint(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
