"""What every object of a pair has: its labels and its owner."""

from typing import Any

from gpu_standby.api import names
from gpu_standby.api.pair import GpuStandbyPair

Document = dict[str, Any]


def owner(pair: GpuStandbyPair) -> Document:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.PAIR_KIND,
        "name": pair.metadata.name,
        "uid": pair.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def metadata(pair: GpuStandbyPair, name: str, labels: dict[str, str] | None = None) -> Document:
    return {
        "name": name,
        "namespace": pair.metadata.namespace,
        "labels": {**names.pair_labels(pair.metadata.name), **(labels or {})},
        "ownerReferences": [owner(pair)],
    }


def restricted(*, read_only: bool) -> Document:
    """A container's security context by the "restricted" Pod Security Standard."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": read_only,
    }


def pod_security(user: int) -> Document:
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
