"""As much of an API server as pods.py asks: objects, conflicts, deletion that takes a moment, and exec's channels."""

import asyncio
import json
from typing import Any

from aiohttp import web


class KubeStub:
    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {}
        self.executed: list[tuple[str, list[str]]] = []

    def app(self) -> web.Application:
        app = web.Application()
        kind = "/api/v1/namespaces/n/{kind:pods|persistentvolumeclaims|configmaps}"
        app.router.add_get("/api/v1/namespaces/n/pods/{name}/exec", self.execute)
        app.router.add_get(kind, self.find)
        app.router.add_post(kind, self.create)
        app.router.add_get(kind + "/{name}", self.get)
        app.router.add_put(kind + "/{name}", self.replace)
        app.router.add_delete(kind + "/{name}", self.delete)
        return app

    def of(self, request: web.Request) -> dict[str, dict[str, Any]]:
        if request.headers.get("Authorization") != "Bearer token":
            raise web.HTTPUnauthorized
        return self.objects.setdefault(request.match_info["kind"], {})

    async def find(self, request: web.Request) -> web.Response:
        label = request.query["labelSelector"]
        return web.json_response(
            {"items": [one for one in self.of(request).values() if label in one["metadata"].get("labels", {})]}
        )

    async def get(self, request: web.Request) -> web.Response:
        found = self.of(request).get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        return web.json_response(found)

    async def create(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["metadata"]["name"]
        objects = self.of(request)
        if name in objects:
            raise web.HTTPConflict
        if request.match_info["kind"] == "pods":
            body["status"] = {"phase": "Running", "podIP": "10.9.8.7"}
        objects[name] = body
        return web.json_response(body, status=201)

    async def replace(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.of(request):
            raise web.HTTPNotFound
        self.of(request)[name] = await request.json()
        return web.json_response({})

    async def delete(self, request: web.Request) -> web.Response:
        objects, name = self.of(request), request.match_info["name"]
        if name not in objects:
            raise web.HTTPNotFound
        objects[name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        gone = objects[name]

        def remove() -> None:
            if objects.get(name) is gone:
                del objects[name]

        asyncio.get_running_loop().call_later(0.05, remove)
        return web.json_response({})

    async def execute(self, request: web.Request) -> web.WebSocketResponse:
        channel = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await channel.prepare(request)
        command = request.query.getall("command")
        self.executed.append((request.match_info["name"], command))
        failed = "unwilling" in command
        await channel.send_bytes(b"\x01out")
        await channel.send_bytes(b"\x02err")
        status = {"status": "Failure", "message": "exit code 3"} if failed else {"status": "Success"}
        await channel.send_bytes(b"\x03" + json.dumps(status).encode())
        await channel.close()
        return channel
