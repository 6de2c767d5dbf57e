"""What each answer of an API server means to us, against one on loopback that says what it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client

from gpu_standby.adapters.kubernetes import PAGE, KubernetesCluster
from gpu_standby.errors import CannotTell, Conflict, Refused
from gpu_standby.ports import EventType, Kind

Json = dict[str, Any]
POD: Json = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "uid": "u"}}


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: dict[str, str]
    content: str
    authorization: str
    body: Any


@dataclass
class Server:
    """Says its answers in turn, the last one for ever."""

    settings: client.Configuration
    answers: list[tuple[int, Any]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    never: bool = False
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def says(self, *answers: tuple[int, Any]) -> None:
        self.answers = list(answers)

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = request.headers
        self.asked.append(
            Asked(
                request.method,
                request.path,
                dict(request.query),
                headers.get("Content-Type", ""),
                headers.get("Authorization", ""),
                json.loads(body) if body else None,
            )
        )
        self.reached.set()
        if self.never:
            await asyncio.Event().wait()
        status, said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(said, str):
            return web.Response(status=status, text=said)
        return web.json_response(said, status=status)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    settings = client.Configuration()
    server = Server(settings)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    settings.host = f"http://127.0.0.1:{port}"
    settings.api_key["BearerToken"] = "bearer one"
    yield server
    await runner.cleanup()


@pytest.fixture
async def cluster(server: Server) -> AsyncIterator[KubernetesCluster]:
    cluster = KubernetesCluster(server.settings, "operator-0", request_seconds=0.5)
    yield cluster
    await cluster.close()


def failure(code: int, message: str = "told so", **details: Any) -> tuple[int, Json]:
    return code, {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "code": code,
        "details": details or None,
    }


# --- reading ----------------------------------------------------------------------------------------------


async def test_an_object_that_is_not_there_is_none(cluster: KubernetesCluster, server: Server) -> None:
    server.says(failure(404, name="p", kind="pods"))
    assert await cluster.get(Kind.POD, "n", "p") is None


async def test_a_kind_that_the_server_does_not_know_is_no_proof_of_absence(
    cluster: KubernetesCluster, server: Server
) -> None:
    server.says(failure(404, "the server could not find the requested resource"))
    with pytest.raises(CannotTell, match="could not find the requested resource"):
        await cluster.get(Kind.PAIR, "n", "p")
    with pytest.raises(CannotTell):
        await cluster.delete(Kind.PAIR, "n", "p")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (failure(401), "401"),
        (failure(403, "pods is forbidden"), "403: pods is forbidden"),
        (failure(410, "the continue token is too old"), "410"),
        (failure(429), "429"),
        (failure(500), "500"),
        (failure(503), "503"),
        ((429, "Too many requests, please try again later."), "429 without JSON"),
        ((502, "<html>bad gateway</html>"), "502 without JSON"),
        ((200, "<html>log in first</html>"), "200 without JSON"),
        ((200, ["a list"]), "no object"),
        ((404, "page not found"), "404 without JSON"),
    ],
)
async def test_what_is_our_own_side_failing(
    cluster: KubernetesCluster, server: Server, answer: tuple[int, Any], words: str
) -> None:
    server.says(answer)
    with pytest.raises(CannotTell, match=words):
        await cluster.get(Kind.POD, "n", "p")
    with pytest.raises(CannotTell, match=words):
        await cluster.list(Kind.POD, "n")


async def test_a_server_that_does_not_answer_in_time_says_nothing(cluster: KubernetesCluster, server: Server) -> None:
    server.never = True
    with pytest.raises(CannotTell, match="did not answer"):
        await cluster.get(Kind.POD, "n", "p")


async def test_a_server_that_is_not_there_says_nothing(server: Server) -> None:
    server.settings.host = "http://127.0.0.1:1"
    cluster = KubernetesCluster(server.settings)
    with pytest.raises(CannotTell, match="did not answer"):
        await cluster.get(Kind.POD, "n", "p")
    await cluster.close()


async def test_cancelling_a_call_is_no_error_of_the_server(cluster: KubernetesCluster, server: Server) -> None:
    server.never = True
    call = asyncio.create_task(cluster.get(Kind.POD, "n", "p"))
    await server.reached.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_list_is_read_to_its_end_and_every_item_says_what_it_is(
    cluster: KubernetesCluster, server: Server
) -> None:
    server.says(
        (200, {"kind": "PodList", "metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}),
        (200, {"kind": "PodList", "metadata": {}, "items": [{"metadata": {"name": "b"}}]}),
    )
    found = await cluster.list(Kind.POD, "n", {"a": "1", "b": "2"})
    assert [(item["kind"], item["apiVersion"], item["metadata"]["name"]) for item in found] == [
        ("Pod", "v1", "a"),
        ("Pod", "v1", "b"),
    ]
    first, second = server.asked
    assert first.query == {"limit": str(PAGE), "labelSelector": "a=1,b=2"}
    assert second.query == {**first.query, "continue": "more"}


async def test_a_list_that_breaks_off_is_no_list(cluster: KubernetesCluster, server: Server) -> None:
    server.says(
        (200, {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}),
        failure(410, "the provided continue parameter is too old"),
    )
    with pytest.raises(CannotTell):
        await cluster.list(Kind.REPLACEMENT, None)
    assert server.asked[0].path == "/apis/gpustandby.dev/v1alpha1/gpureplacements"


async def test_an_answer_without_items_is_no_empty_list(cluster: KubernetesCluster, server: Server) -> None:
    server.says((200, {"kind": "Status", "status": "Success"}))
    with pytest.raises(CannotTell, match="without items"):
        await cluster.list(Kind.REPLACEMENT, None)


# --- writing ----------------------------------------------------------------------------------------------


async def test_an_apply_is_forced_as_our_field_manager_and_sent_as_it_is(
    cluster: KubernetesCluster, server: Server
) -> None:
    server.says((200, POD))
    document = {**POD, "spec": {"nobody": {"knows": ["this", None]}}}
    await cluster.apply(document)
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("PATCH", "/api/v1/namespaces/n/pods/p")
    assert asked.query == {"fieldManager": "gpu-standby", "force": "true"}
    assert asked.content == "application/apply-patch+yaml"
    assert asked.body == document


async def test_a_status_is_applied_on_its_subresource(cluster: KubernetesCluster, server: Server) -> None:
    pair = {"apiVersion": "gpustandby.dev/v1alpha1", "kind": "GpuStandbyPair", "metadata": POD["metadata"]}
    server.says((200, pair))
    await cluster.apply_status(pair)
    assert server.asked[0].path == "/apis/gpustandby.dev/v1alpha1/namespaces/n/gpustandbypairs/p/status"


async def test_a_merge_patch_carries_its_nulls(cluster: KubernetesCluster, server: Server) -> None:
    """A null is how an annotation is taken away."""
    server.says((200, POD))
    body = {"metadata": {"annotations": {"gpustandby.dev/failover": None}}}
    await cluster.patch(Kind.POD, "n", "p", body)
    assert server.asked[0].content == "application/merge-patch+json"
    assert server.asked[0].body == body


WRITES: dict[str, Callable[[KubernetesCluster], Any]] = {
    "create": lambda cluster: cluster.create(POD),
    "apply": lambda cluster: cluster.apply(POD),
    "apply_status": lambda cluster: cluster.apply_status(POD),
    "patch": lambda cluster: cluster.patch(Kind.POD, "n", "p", {}),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (failure(409, "the object has been modified"), Conflict),
        (failure(422, "spec.x: Invalid value"), Refused),
        (failure(400, "spec.x: Invalid value"), Refused),
        (failure(404, name="p"), CannotTell),
        (failure(403), CannotTell),
        (failure(500), CannotTell),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value.__name__,
)
async def test_a_write_that_was_not_done_says_why(
    cluster: KubernetesCluster,
    server: Server,
    write: Callable[[KubernetesCluster], Any],
    answer: tuple[int, Json],
    error: type[Exception],
) -> None:
    server.says(answer)
    with pytest.raises(error, match=answer[1]["message"]) as caught:
        await write(cluster)
    assert type(caught.value) is error


async def test_a_delete_asks_for_its_dependents_to_go_and_for_this_very_object(
    cluster: KubernetesCluster, server: Server
) -> None:
    server.says((200, {"kind": "Status", "status": "Success"}))
    await cluster.delete(Kind.POD, "n", "p", uid="u", grace_seconds=0)
    body = server.asked[0].body
    assert body["propagationPolicy"] == "Background"
    assert body["preconditions"] == {"uid": "u"}
    assert body["gracePeriodSeconds"] == 0


async def test_what_is_gone_already_is_deleted(cluster: KubernetesCluster, server: Server) -> None:
    server.says(failure(404, name="p"))
    await cluster.delete(Kind.POD, "n", "p")


async def test_another_object_of_that_name_means_that_ours_is_gone(cluster: KubernetesCluster, server: Server) -> None:
    other = {**POD, "metadata": {**POD["metadata"], "uid": "another"}}
    server.says(failure(409, "the UID in the precondition"), (200, other))
    await cluster.delete(Kind.POD, "n", "p", uid="u")


async def test_a_delete_that_conflicts_for_another_reason_is_not_done(
    cluster: KubernetesCluster, server: Server
) -> None:
    server.says(failure(409, "try again"), (200, POD))
    with pytest.raises(Conflict, match="try again"):
        await cluster.delete(Kind.POD, "n", "p", uid="u")


# --- events -----------------------------------------------------------------------------------------------


async def test_an_event_is_posted_about_its_object(cluster: KubernetesCluster, server: Server) -> None:
    server.says(failure(404, name="e"), (201, {}))
    await cluster.event(POD, EventType.WARNING, "FailedOver", "x" * 5000)
    event = server.asked[1].body
    assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": "n", "uid": "u"}
    assert (event["type"], event["reason"], event["count"]) == ("Warning", "FailedOver", 1)
    assert (event["reportingComponent"], event["reportingInstance"]) == ("gpu-standby", "operator-0")
    assert len(event["message"]) == 1024


async def test_an_event_that_was_said_before_is_counted(cluster: KubernetesCluster, server: Server) -> None:
    server.says((200, {"count": 2}), (200, {}))
    await cluster.event(POD, EventType.NORMAL, "FailedBack", "again")
    looked, counted = server.asked
    assert looked.path == counted.path
    assert counted.body["count"] == 3


@pytest.mark.parametrize("answer", [failure(403), failure(500), failure(409), (200, "nonsense")])
async def test_an_event_that_cannot_be_posted_is_no_error(
    cluster: KubernetesCluster, server: Server, answer: tuple[int, Any]
) -> None:
    server.says(answer)
    await cluster.event(POD, EventType.NORMAL, "FailedBack", "lost")


# --- the way there ----------------------------------------------------------------------------------------


async def test_a_token_that_was_renewed_is_used_at_once(cluster: KubernetesCluster, server: Server) -> None:
    """A pod's token lives for an hour; its file is renewed."""
    server.says((200, POD))
    await cluster.get(Kind.POD, "n", "p")

    def renew(settings: client.Configuration) -> None:
        settings.api_key["BearerToken"] = "bearer two"

    server.settings.refresh_api_key_hook = renew
    await cluster.get(Kind.POD, "n", "p")
    assert [asked.authorization for asked in server.asked] == ["bearer one", "bearer two"]


async def test_a_token_that_cannot_be_read_is_our_own_side_failing(cluster: KubernetesCluster, server: Server) -> None:
    def missing(_: client.Configuration) -> None:
        raise FileNotFoundError("token")

    server.settings.refresh_api_key_hook = missing
    with pytest.raises(CannotTell, match="token"):
        await cluster.get(Kind.POD, "n", "p")
    assert not server.asked


async def test_a_call_after_the_end_is_no_error_of_its_own_kind(cluster: KubernetesCluster, server: Server) -> None:
    """A deletion may still be in the midst of something when the operator stops."""
    server.says((200, POD))
    await cluster.get(Kind.POD, "n", "p")
    await cluster.close()
    with pytest.raises(CannotTell, match="stopping"):
        await cluster.get(Kind.POD, "n", "p")


async def test_a_proxy_in_the_environment_is_not_for_the_api_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.says((200, POD))
    cluster = KubernetesCluster(server.settings)
    assert await cluster.get(Kind.POD, "n", "p") == POD
    await cluster.close()
