"""Status documents: whole each time, for server-side apply, guarded by the version that was read."""

from gpu_standby.api.pair import PairStatus
from gpu_standby.api.replacement import ReplacementStatus
from gpu_standby.core.objects.owned import Document


def pair_status(document: Document, status: PairStatus) -> Document:
    return _status(document, status.document())


def replacement_status(document: Document, status: ReplacementStatus) -> Document:
    return _status(document, status.document())


def _status(document: Document, status: Document) -> Document:
    meta = document["metadata"]
    return {
        "apiVersion": document["apiVersion"],
        "kind": document["kind"],
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        },
        "status": status,
    }
