"""The standby pod: the agent (our half) beside the user's workload, one volume for both."""

from gpu_standby.api import names
from gpu_standby.api.pair import GpuStandbyPair
from gpu_standby.api.spec import PodStandbySpec
from gpu_standby.core.objects.owned import Document, metadata, pod_security, restricted

AGENT_PORT = 2222
ROOT = "/standby"
GATE = "/standby-gate"
AGENT = ["/opt/gpu-standby/bin/python", "-m", "gpu_standby.agent", "--root", ROOT]


def gate_config_map(pair: GpuStandbyPair, gate_script: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(pair, names.gate(pair.metadata.name)),
        "data": {"gate.sh": gate_script},
    }


def stateful_set(pair: GpuStandbyPair, image: str) -> Document:
    pod = _pod_spec(pair)
    name = names.standby(pair.metadata.name)
    labels = {**names.pair_labels(pair.metadata.name), "app.kubernetes.io/component": "standby"}
    claim: Document = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": pod.storage}}}
    if pod.storage_class_name is not None:
        claim["storageClassName"] = pod.storage_class_name
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(pair, name),
        "spec": {
            "replicas": 1,
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            # The claim outlives us always; under `deletionPolicy: Delete` the controller removes it and says so.
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "template": {"metadata": {"labels": labels}, "spec": _template(pair, pod, image)},
            "volumeClaimTemplates": [{"metadata": {"name": "standby"}, "spec": claim}],
        },
    }


def _pod_spec(pair: GpuStandbyPair) -> PodStandbySpec:
    if pair.spec.standby.pod is None:
        raise ValueError("this pair's standby is not a pod")
    return pair.spec.standby.pod


def _template(pair: GpuStandbyPair, pod: PodStandbySpec, image: str) -> Document:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(pod.run_as_user),
        "terminationGracePeriodSeconds": pair.spec.standby.stop_seconds + 5,
        "initContainers": [_passwd(pod, image), _prepare(image)],
        "containers": [_agent(image), _workload(pair, pod, image)],
        "volumes": [
            {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
            {"name": "agent-tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            {"name": "gate-script", "configMap": {"name": names.gate(pair.metadata.name), "defaultMode": 0o555}},
            {"name": "ssh", "secret": {"secretName": names.ssh_secret(pair.metadata.name), "items": _items()}},
        ],
    }


def _items() -> list[Document]:
    """The operator's *public* half only: its private key has no business on a standby (I11)."""
    return [{"key": key, "path": key} for key in ("host", "host.pub", "operator.pub")]


def _passwd(pod: PodStandbySpec, image: str) -> Document:
    """sshd serves no user that /etc/passwd does not name, and the user may choose any id."""
    line = f"gpu-standby:x:{pod.run_as_user}:{pod.run_as_user}::/tmp:/bin/sh"
    script = f"grep -v '^gpu-standby:' /etc/passwd > /run/gpu-standby/passwd; echo '{line}' >> /run/gpu-standby/passwd"
    return {
        "name": "passwd",
        "image": image,
        "command": ["/bin/sh", "-c", script],
        "securityContext": restricted(read_only=True),
        "volumeMounts": [{"name": "run", "mountPath": "/run/gpu-standby"}],
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}},
    }


def _prepare(image: str) -> Document:
    """The folders that the containers mount parts of."""
    return {
        "name": "prepare",
        "image": image,
        "command": [*AGENT, "prepare"],
        "securityContext": restricted(read_only=True),
        "volumeMounts": [{"name": "standby", "mountPath": ROOT}],
        "resources": {"requests": {"cpu": "5m", "memory": "32Mi"}},
    }


def _agent(image: str) -> Document:
    keys = "/etc/gpu-standby/ssh"
    return {
        "name": "agent",
        "image": image,
        "command": [
            *AGENT,
            "sshd",
            "--port",
            str(AGENT_PORT),
            "--host-key",
            f"{keys}/host",
            "--operator-key",
            f"{keys}/operator.pub",
            "--run-dir",
            "/run/gpu-standby/sshd",
        ],
        "ports": [{"name": "agent", "containerPort": AGENT_PORT}],
        "readinessProbe": {"tcpSocket": {"port": AGENT_PORT}, "periodSeconds": 2},
        "securityContext": restricted(read_only=True),
        "volumeMounts": [
            {"name": "standby", "mountPath": ROOT},
            {"name": "run", "mountPath": "/run/gpu-standby"},
            {"name": "run", "mountPath": "/etc/passwd", "subPath": "passwd", "readOnly": True},
            {"name": "agent-tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "ssh", "mountPath": keys, "readOnly": True},
        ],
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
    }


def _workload(pair: GpuStandbyPair, pod: PodStandbySpec, image: str) -> Document:
    ports = {port.standby_port: port.name for port in pair.spec.service.ports}
    return {
        "name": "workload",
        "image": pod.image or image,
        "command": ["/bin/sh", "/gate/gate.sh", *pod.command],
        "env": [
            *pod.env,
            {"name": "GATE_DIR", "value": GATE},
            {"name": "STOP_SECONDS", "value": str(pair.spec.standby.stop_seconds)},
        ],
        "envFrom": pod.env_from,
        "ports": [{"name": name, "containerPort": number} for number, name in ports.items()],
        "securityContext": restricted(read_only=False),
        "volumeMounts": [
            {"name": "standby", "mountPath": pair.spec.workspace.path, "subPath": "tree"},
            {"name": "standby", "mountPath": GATE, "subPath": "gate"},
            {"name": "gate-script", "mountPath": "/gate", "readOnly": True},
        ],
        **({"resources": pod.resources} if pod.resources is not None else {}),
    }
