"""The conductor's objects: one Job per pair and epoch, its one permission, its ConfigMap, its key."""

from gpu_standby.api import names
from gpu_standby.api.pair import GpuStandbyPair
from gpu_standby.core.objects.owned import Document, metadata, pod_security, restricted

USER = 10001
"""The uid of our image."""
NEVER_GIVES_UP = 2_147_483_647
"""The largest back-off limit the API takes: a conductor whose target is down must not end the pair's syncing."""
KEY_FOLDER = "/var/run/gpu-standby"


def key_secret(pair: GpuStandbyPair, name: str, data: dict[str, str]) -> Document:
    """`data` is base64 already. A mover's Secret carries its epoch as a label, so that old ones can be swept."""
    prefix, _, epoch = name.rpartition("-")
    labels = {names.LABEL_EPOCH: epoch} if prefix == f"{pair.metadata.name}-mover" else {}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(pair, name, labels),
        "type": "Opaque",
        "data": data,
    }


def service_account(pair: GpuStandbyPair) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(pair, names.sync_objects(pair.metadata.name)),
        "automountServiceAccountToken": False,
    }


def role(pair: GpuStandbyPair) -> Document:
    """One object, and nothing else in the cluster."""
    name = names.sync_objects(pair.metadata.name)
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": metadata(pair, name),
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["configmaps"],
                "resourceNames": [name],
                "verbs": ["get", "list", "watch", "patch"],
            }
        ],
    }


def role_binding(pair: GpuStandbyPair) -> Document:
    name = names.sync_objects(pair.metadata.name)
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata(pair, name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": pair.metadata.namespace}],
    }


def config_map(pair: GpuStandbyPair) -> Document:
    """Without data: each key has its own writer, by merge patch."""
    name = names.sync_objects(pair.metadata.name)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(pair, name)}


def job(pair: GpuStandbyPair, epoch: int, image: str) -> Document:
    """`podReplacementPolicy: Failed`: a second conductor is made only when the first is gone for certain."""
    name = names.sync_objects(pair.metadata.name)
    labels = {
        **names.pair_labels(pair.metadata.name),
        names.LABEL_EPOCH: str(epoch),
        "app.kubernetes.io/component": "sync",
    }
    environment = {
        "GPU_STANDBY_PAIR": pair.metadata.name,
        "GPU_STANDBY_PAIR_UID": pair.metadata.uid,
        "GPU_STANDBY_NAMESPACE": pair.metadata.namespace,
        "GPU_STANDBY_EPOCH": str(epoch),
    }
    secret = names.mover_secret(pair.metadata.name, epoch)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(pair, names.sync_job(pair.metadata.name, epoch), {names.LABEL_EPOCH: str(epoch)}),
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": NEVER_GIVES_UP,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "serviceAccountName": name,
                    "automountServiceAccountToken": True,
                    "enableServiceLinks": False,
                    "securityContext": pod_security(USER),
                    "terminationGracePeriodSeconds": 2,
                    "containers": [
                        {
                            "name": "mover",
                            "image": image,
                            "args": ["mover"],
                            "env": [{"name": key, "value": value} for key, value in environment.items()],
                            "securityContext": restricted(read_only=True),
                            "volumeMounts": [{"name": "key", "mountPath": KEY_FOLDER, "readOnly": True}],
                            "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
                        }
                    ],
                    "volumes": [
                        {
                            "name": "key",
                            "secret": {
                                "secretName": secret,
                                "defaultMode": 0o440,
                                "items": [{"key": "mover", "path": "mover"}],
                            },
                        }
                    ],
                },
            },
        },
    }
