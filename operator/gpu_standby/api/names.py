"""Every name that something outside can see: group, labels, annotations, and the objects a pair owns.

Names are functions of the pair alone, so doing an outside action twice is doing it once.
"""

from hashlib import sha256

GROUP = "gpustandby.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
PAIR_KIND = "GpuStandbyPair"
PAIR_PLURAL = "gpustandbypairs"
REPLACEMENT_KIND = "GpuReplacement"
REPLACEMENT_PLURAL = "gpureplacements"

FIELD_MANAGER = "gpu-standby"
FINALIZER = f"{GROUP}/finalizer"

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_PAIR = f"{GROUP}/pair"
LABEL_EPOCH = f"{GROUP}/epoch"
SLICE_MANAGED_BY = "gpu-standby.gpustandby.dev"
"""Value of endpointslice.kubernetes.io/managed-by: a label value may hold no slash."""

ANNOTATION_EPOCH = f"{GROUP}/epoch"
ANNOTATION_SIDE = f"{GROUP}/side"
ANNOTATION_CHANGE_TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"

ANNOTATION_PAUSE = f"{GROUP}/pause"
ANNOTATION_FAILOVER = f"{GROUP}/failover"
ANNOTATION_FAILBACK = f"{GROUP}/failback"
ANNOTATION_APPROVE = f"{GROUP}/approve"
ANNOTATION_ACCEPT_SHRINK = f"{GROUP}/accept-shrink"
ANNOTATION_ACCEPT_HOST_KEY = f"{GROUP}/accept-host-key"
ANNOTATION_ACKNOWLEDGE = f"{GROUP}/acknowledge"

PAIR_NAME_MAX = 40

INSTALLATION_CONFIGMAP = "gpu-standby-installation"
INSTALLATION_ID_KEY = "id"


def ssh_secret(pair: str) -> str:
    """The operator's own keys for this pair and, for a pod standby, its sshd's host key."""
    return f"{pair}-ssh"


def mover_secret(pair: str, epoch: int) -> str:
    return f"{pair}-mover-{epoch}"


def sync_objects(pair: str) -> str:
    """The mover's ConfigMap, ServiceAccount, Role and RoleBinding share one name."""
    return f"{pair}-sync"


def sync_job(pair: str, epoch: int) -> str:
    return f"{pair}-sync-{epoch}"


def standby(pair: str) -> str:
    return f"{pair}-standby"


def standby_pod(pair: str) -> str:
    return f"{standby(pair)}-0"


def standby_claim(pair: str) -> str:
    return f"standby-{standby_pod(pair)}"


def gate(pair: str) -> str:
    return f"{pair}-gate"


def endpoint_slice(service: str) -> str:
    return f"{service}-gpu-standby"


def replacement(pair: str, pair_uid: str, why: str, epoch: int, serial: int = 0) -> str:
    """Deterministic, so that two decisions to replace in one epoch make one object (I6)."""
    digest = sha256(f"{pair_uid}/{why}/{epoch}/{serial}".encode()).hexdigest()[:6]
    return f"{pair}-{digest}"


def pair_labels(pair: str) -> dict[str, str]:
    return {LABEL_MANAGED_BY: FIELD_MANAGER, LABEL_PAIR: pair}


def instance_label_prefix(installation: str) -> str:
    return f"gsp/{installation}/"


def instance_label(
    installation: str,
    namespace: str,
    pair_uid: str,
    replacement_uid: str,
    attempt: int,
    *,
    ready: bool = False,
) -> str:
    """The label of a rented machine; findable from it alone (I5). At most 256 characters on Vast.ai."""
    label = f"gsp/{installation}/{namespace}/{pair_uid}/{replacement_uid}/{attempt}"
    return f"{label}/ready" if ready else label


def vast_provider_id(contract: int) -> str:
    return f"vast://{contract}"


def ssh_provider_id(address: str, port: int) -> str:
    return f"ssh://{address}:{port}"


def pod_provider_id(pod: str) -> str:
    return f"pod://{pod}"
