"""As much of the Kubernetes API as the machines need, over aiohttp: objects as JSON, and exec.

Used inside the cluster, with the pod's ServiceAccount. The token is read for every call, because it is replaced.
"""

import json
import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubeError(Exception):
    """The API server said no; `status` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Kube:
    def __init__(self, base: str, namespace: str, context: ssl.SSLContext, token: Path) -> None:
        self.namespace = namespace
        self._base = f"{base}/api/v1/namespaces/{namespace}"
        self._context = context
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def in_cluster(cls) -> "Kube":
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        return cls(
            f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
            (ACCOUNT / "namespace").read_text().strip(),
            ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")),
            ACCOUNT / "token",
        )

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("not opened")
        return self._session

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token.read_text().strip()}"}

    async def call(
        self, method: str, path: str, body: Any = None, params: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        async with self.session.request(
            method, f"{self._base}/{path}", json=body, params=params, headers=self._headers(), ssl=self._context
        ) as answer:
            if answer.status >= 400:
                raise KubeError(answer.status, (await answer.text())[:500])
            found: dict[str, Any] = await answer.json()
            return found

    async def find(self, path: str) -> dict[str, Any] | None:
        try:
            return await self.call("GET", path)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    async def create(self, kind: str, body: Any) -> None:
        """It is no error if it is there already."""
        try:
            await self.call("POST", kind, body)
        except KubeError as error:
            if error.status != 409:
                raise

    async def delete(self, path: str, grace_seconds: int | None = None) -> None:
        """It is no error if it is gone already."""
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            await self.call("DELETE", path, options)
        except KubeError as error:
            if error.status != 404:
                raise

    async def execute(self, pod: str, container: str, command: Sequence[str], timeout: float = 10.0) -> str:
        """Run a command in a container; its output. Raises KubeError when it fails."""
        params = [("container", container), ("stdout", "true"), ("stderr", "true")]
        params += [("command", word) for word in command]
        output: list[bytes] = []
        verdict: dict[str, Any] = {}
        try:
            async with self.session.ws_connect(
                f"{self._base}/pods/{pod}/exec",
                params=params,
                headers=self._headers(),
                protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"),
                ssl=self._context,
                timeout=aiohttp.ClientWSTimeout(ws_receive=timeout, ws_close=1.0),
            ) as channel:
                async for message in channel:
                    if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                        continue
                    if message.data[0] == 3:
                        verdict = json.loads(message.data[1:])
                        break
                    output.append(message.data[1:])
        except aiohttp.ClientError as error:
            raise KubeError(0, f"{command[0]}: {error}") from error
        text = b"".join(output).decode(errors="replace")
        if verdict.get("status") != "Success":
            raise KubeError(500, f"{command[0]}: {verdict.get('message', 'no verdict')}: {text[:300]}")
        return text
