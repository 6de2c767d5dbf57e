"""The Service without a selector and its one EndpointSlice: at most one endpoint, always (I1)."""

from gpu_standby.api import names
from gpu_standby.api.pair import GpuStandbyPair
from gpu_standby.api.spec import Side
from gpu_standby.core.objects.owned import Document, metadata


def service(pair: GpuStandbyPair) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(pair, pair.spec.service.name),
        "spec": {
            "type": "ClusterIP",
            "ports": [
                {"name": port.name, "port": port.port, "targetPort": port.standby_port, "protocol": "TCP"}
                for port in pair.spec.service.ports
            ],
        },
    }


def is_ours(document: Document, pair: GpuStandbyPair) -> bool:
    return any(owner["uid"] == pair.metadata.uid for owner in document["metadata"].get("ownerReferences", []))


def has_selector(document: Document) -> bool:
    """With one the control plane would add slices of its own and split the traffic."""
    return bool(document["spec"].get("selector"))


def endpoint_slice(
    pair: GpuStandbyPair,
    *,
    side: Side,
    address: str,
    ports: tuple[tuple[str, int], ...],
    epoch: int,
    ready: bool,
    trigger_time: str,
    seen: Document | None,
) -> Document:
    """Address and ports change together, in one write. Not ready: no endpoint at all: clients are refused at once."""
    service_name = pair.spec.service.name
    meta = metadata(
        pair,
        names.endpoint_slice(service_name),
        {
            "kubernetes.io/service-name": service_name,
            "endpointslice.kubernetes.io/managed-by": names.SLICE_MANAGED_BY,
        },
    )
    meta["annotations"] = {
        names.ANNOTATION_EPOCH: str(epoch),
        names.ANNOTATION_SIDE: side.value,
        names.ANNOTATION_CHANGE_TRIGGER: trigger_time,
    }
    if seen is not None:
        # Guarded by what was read; the uid as well, or an apply would make anew what was deleted meanwhile.
        meta |= {"resourceVersion": seen["metadata"]["resourceVersion"], "uid": seen["metadata"]["uid"]}
    conditions = {"ready": True, "serving": True, "terminating": False}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": "IPv6" if ":" in address else "IPv4",
        "endpoints": [{"addresses": [address], "conditions": conditions}] if ready and address else [],
        "ports": [{"name": name, "port": number, "protocol": "TCP"} for name, number in ports],
    }
