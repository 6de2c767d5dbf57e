"""What kopf calls: short, and without a decision of their own."""

import asyncio
from typing import Any

import kopf

from gpu_standby.api.names import API_VERSION, GROUP, LABEL_PAIR, PAIR_PLURAL, REPLACEMENT_PLURAL, VERSION
from gpu_standby.runtime import settings as kopf_settings
from gpu_standby.runtime.app import App, Controller
from gpu_standby.runtime.liveness import check

CANCELLATION_SECONDS = 2.0
RELEASE_SECONDS = 2.0


async def _run(controller: Controller, stopped: kopf.DaemonStopped) -> None:
    """The controller until kopf says stop; it gets an event of its own, for it knows nothing of kopf."""
    ended = asyncio.Event()
    work = asyncio.ensure_future(controller.run(ended))
    try:
        await stopped.wait()
    finally:
        ended.set()
        controller.wake()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def register(registry: kopf.OperatorRegistry, app: App) -> None:
    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        kopf_settings.apply(settings)
        await app.start()

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        await app.stop()

    @kopf.daemon(GROUP, VERSION, PAIR_PLURAL, registry=registry, cancellation_timeout=CANCELLATION_SECONDS, backoff=1.0)
    async def pair(uid: str, namespace: str | None, name: str, stopped: kopf.DaemonStopped, **_: Any) -> None:
        await _run(app.pair(uid, namespace or "", name), stopped)

    @kopf.daemon(
        GROUP, VERSION, REPLACEMENT_PLURAL, registry=registry, cancellation_timeout=CANCELLATION_SECONDS, backoff=1.0
    )
    async def replacement(
        uid: str, namespace: str | None, name: str, spec: kopf.Spec, stopped: kopf.DaemonStopped, **_: Any
    ) -> None:
        await _run(app.replacement(uid, namespace or "", name, str(spec.get("pair"))), stopped)

    @kopf.on.delete(GROUP, VERSION, PAIR_PLURAL, registry=registry)
    async def pair_deleted(uid: str, namespace: str | None, name: str, body: kopf.Body, **_: Any) -> None:
        await _release(app, app.pair(uid, namespace or "", name), uid, body)

    @kopf.on.delete(GROUP, VERSION, REPLACEMENT_PLURAL, registry=registry)
    async def replacement_deleted(
        uid: str, namespace: str | None, name: str, spec: kopf.Spec, body: kopf.Body, **_: Any
    ) -> None:
        await _release(app, app.replacement(uid, namespace or "", name, str(spec.get("pair"))), uid, body)

    @kopf.on.event(GROUP, VERSION, PAIR_PLURAL, registry=registry)
    async def pair_changed(namespace: str | None, name: str, **_: Any) -> None:
        app.wake_all_of(namespace or "", name)

    for resource in ((GROUP, VERSION, REPLACEMENT_PLURAL), ("", "v1", "configmaps"), ("", "v1", "pods"),
                     ("", "v1", "services"), ("discovery.k8s.io", "v1", "endpointslices")):  # fmt: skip

        @kopf.on.event(*resource, registry=registry, labels={LABEL_PAIR: kopf.PRESENT})
        async def child_changed(namespace: str | None, labels: kopf.Labels, **_: Any) -> None:
            app.wake_all_of(namespace or "", labels[LABEL_PAIR])

    @kopf.on.probe(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    async def alive(**_: Any) -> str:
        return check(app)


async def _release(app: App, controller: Controller, uid: str, body: kopf.Body) -> None:
    waiting = await controller.release({"apiVersion": API_VERSION, **dict(body)})
    if waiting is not None:
        raise kopf.TemporaryError(waiting, delay=RELEASE_SECONDS)
    app.controllers.pop(uid, None)
