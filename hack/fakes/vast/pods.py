"""Machines that are pods: sshd, rsync, a GPU that can be told to fail, a network of their own.

A pod `instance-<id>` is one boot of a machine; the claim of the same name is its disk and outlives it. The world is
kept in a ConfigMap, so that the server can die at any moment.
"""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from .backend import Seen
from .instances import Machine, MachineState, is_identity
from .kube import Kube, KubeError
from .model import GpuMode, Instance

INSTANCE = "bench.gpustandby.dev/instance"
BOOT = "bench.gpustandby.dev/boot"
STATE = "vast-state"
# Folders of the machine that stand on its disk, and where on the disk.
ON_DISK = {"/workspace": "workspace", "/root": "root", "/var/tmp": "var-tmp", "/etc/ssh/disk": "host-keys"}


class PodBackend:
    def __init__(self, kube: Kube, image: str, disk: str, storage_class: str | None) -> None:
        self._kube = kube
        self._image = image
        self._disk = disk
        self._storage_class = storage_class

    @classmethod
    def in_cluster(cls) -> "PodBackend":
        """HOST_IMAGE; HOST_DISK (size of a claim, whatever was asked for); HOST_STORAGE_CLASS (the default one)."""
        return cls(
            Kube.in_cluster(),
            os.environ["HOST_IMAGE"],
            os.environ.get("HOST_DISK", "1Gi"),
            os.environ.get("HOST_STORAGE_CLASS") or None,
        )

    async def open(self) -> None:
        await self._kube.open()

    async def close(self) -> None:
        await self._kube.close()

    # -- the world's memory

    async def load(self) -> str | None:
        found = await self._kube.find(f"configmaps/{STATE}")
        return None if found is None else (found.get("data") or {}).get("world")

    async def save(self, world: str) -> None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": STATE}, "data": {"world": world}}
        try:
            await self._kube.call("PUT", f"configmaps/{STATE}", body)
        except KubeError as error:
            if error.status != 404:
                raise
            await self._kube.create("configmaps", body)

    # -- machines

    async def look(self) -> Seen:
        mine = {"labelSelector": INSTANCE}
        pods = await self._kube.call("GET", "pods", params=mine)
        claims = await self._kube.call("GET", "persistentvolumeclaims", params=mine)
        return Seen(
            {_number(pod): _machine(pod) for pod in pods["items"]},
            frozenset(_number(claim) for claim in claims["items"]),
        )

    async def boot(self, instance: Instance) -> None:
        await self._kube.create("persistentvolumeclaims", self._claim(instance))
        await self._kube.create("pods", self._pod(instance))

    async def power_off(self, instance: int) -> None:
        name = f"instance-{instance}"
        # Ending a pod alone would give its processes a TERM and two seconds.
        with contextlib.suppress(KubeError, TimeoutError):
            await self._kube.execute(name, "host", ["sh", "-c", "kill -9 -1"], timeout=3.0)
        await self._kube.delete(f"pods/{name}", grace_seconds=1)

    async def darken(self, instance: int) -> None:
        await self._kube.execute(f"instance-{instance}", "host", ["/opt/host/silence"])

    async def collapse(self, instance: int) -> None:
        await self._kube.execute(f"instance-{instance}", "host", ["/opt/host/collapse"])

    async def erase(self, instance: int) -> None:
        await self._kube.delete(f"pods/instance-{instance}", grace_seconds=1)
        await self._kube.delete(f"persistentvolumeclaims/instance-{instance}")

    async def write_keys(self, instance: Instance, removed: Sequence[str] = (), alone: bool = False) -> None:
        changes = [f"-{key}" for key in removed] + [f"+{key.public_key}" for key in instance.keys]
        await self._host(instance, ["/opt/host/keys", "alone" if alone else "merge", *changes])

    async def set_gpu(self, instance: Instance, mode: GpuMode) -> None:
        await self._host(instance, ["/opt/host/gpu", mode])

    async def _host(self, instance: Instance, command: Sequence[str]) -> None:
        await self._kube.execute(f"instance-{instance.id}", "host", command)

    # -- objects

    def _labels(self, instance: Instance) -> dict[str, str]:
        return {
            "app.kubernetes.io/name": "gpu-standby-fakes-host",
            INSTANCE: str(instance.id),
            BOOT: str(instance.boot),
        }

    def _claim(self, instance: Instance) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": self._disk}},
        }
        if self._storage_class is not None:
            spec["storageClassName"] = self._storage_class
        labels = {key: value for key, value in self._labels(instance).items() if key != BOOT}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": f"instance-{instance.id}", "labels": labels},
            "spec": spec,
        }

    def _pod(self, instance: Instance) -> dict[str, Any]:
        name = f"instance-{instance.id}"
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": self._labels(instance)},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "host",
                        "image": self._image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["/opt/host/entry"],
                        "env": environment(instance),
                        "securityContext": {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}},
                        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
                        "volumeMounts": [
                            {"name": "disk", "mountPath": path, "subPath": folder} for path, folder in ON_DISK.items()
                        ],
                    }
                ],
                "volumes": [{"name": "disk", "persistentVolumeClaim": {"claimName": name}}],
            },
        }


def environment(instance: Instance) -> list[dict[str, Any]]:
    """What a rented container's environment holds, and the bench's own words to its entry script."""
    published = {
        # An identity port has its outside number inside as well.
        f"{outside if is_identity(inside) else inside.split('/')[0]}/{inside.split('/')[1]}": outside
        for inside, outside in instance.ports.items()
    }
    values: dict[str, str] = {
        "CONTAINER_ID": str(instance.id),
        "CONTAINER_API_KEY": instance.api_key,
        "VAST_CONTAINERLABEL": f"C.{instance.id}",
        "GPU_COUNT": str(len(instance.offer.slots)),
        "SSH_PUBLIC_KEY": "\n".join(key.public_key for key in instance.keys),
        "DATA_DIRECTORY": "/workspace/",
        "BENCH_PORTS": " ".join(f"{inside}={outside}" for inside, outside in published.items()) or "none",
        "BENCH_ONSTART": instance.onstart,
        "BENCH_NVIDIA_SMI": instance.nvidia_smi,
        "BENCH_GPU_NAME": instance.offer.gpu_name,
    }
    for inside, outside in instance.ports.items():
        number, protocol = inside.split("/")
        values[f"VAST_{protocol.upper()}_PORT_{number}"] = str(outside)
    values |= {key: value for key, value in instance.env.items() if not key.startswith("-")}
    address = {"name": "PUBLIC_IPADDR", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    return [address, *({"name": key, "value": value} for key, value in values.items())]


def _number(item: dict[str, Any]) -> int:
    return int(item["metadata"]["labels"][INSTANCE])


def _machine(pod: dict[str, Any]) -> Machine:
    meta, status = pod["metadata"], pod.get("status") or {}
    boot = int(meta["labels"].get(BOOT, "0"))
    if meta.get("deletionTimestamp"):
        return Machine(boot, MachineState.LEAVING)
    phase, address = status.get("phase"), status.get("podIP")
    if phase in ("Succeeded", "Failed"):
        return Machine(boot, MachineState.ENDED)
    if phase == "Running" and address:
        return Machine(boot, MachineState.RUNNING, address)
    return Machine(boot, MachineState.STARTING)
