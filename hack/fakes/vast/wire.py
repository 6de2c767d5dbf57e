"""How the stand-in speaks: the rows and the answers of the real API, oddities included. Pure.

`Answer` is a status and a body; routes.py writes it. The texts are the real ones, two spaces and all: clients match
on substrings of them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .instances import is_identity
from .market import HOURS_A_MONTH
from .model import Instance, Phase, Settings, SshKey


@dataclass(frozen=True)
class Answer:
    """A body that is a str goes out as it is, with `content_type`; anything else as JSON."""

    status: int
    body: Any
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def ok(**more: Any) -> Answer:
    return Answer(200, {"success": True, **more})


def refused(status: int, error: str, msg: str, **more: Any) -> Answer:
    return Answer(status, {"success": False, "error": error, "msg": msg, **more})


INVALID_KEY = refused(404, "auth_error", "Invalid user key")
NO_LOGIN = refused(403, "auth_error", "This action requires login.")
DEPRECATED_BODY = {
    "success": False,
    "error": "deprecated_endpoint",
    "msg": "/api/v0/instances/ is deprecated. Use /api/v1/instances/ instead.",
}
DEPRECATED = Answer(410, DEPRECATED_BODY)
HTML_403 = Answer(
    403,
    "<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body>\r\n<center><h1>403 Forbidden</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n",
    "text/html",
)
QUEUED = refused(200, "resources_unavailable", "Required resources are currently unavailable, state change queued.")
NO_CREDIT = refused(400, "insufficient_credit", "Your account lacks credit; see the billing page.")
SPEND_RATE = refused(400, "spend_rate_limit", "Your account is too new for this spend rate; try again later.")


def lacks_permission(route: str) -> Answer:
    return refused(
        401,
        "auth_error",
        f"Authorization Error. Your key lacks the api.{route} route access which is required for this action.",
    )


def moved(path: str) -> Answer:
    body = {"message": "The resource has been moved permanently.", "code": "301 Moved Permanently"}
    return Answer(301, body, headers={"Location": path})


def no_such_ask(ask: int) -> Answer:
    return refused(
        400,
        "invalid_args",
        f"error 404/3603: no_such_ask  Instance type by id {ask} is not available.",
        ask_id=ask,
    )


def ask_gone(ask: int) -> Answer:
    """What `cancel_unavail` answers."""
    return refused(
        410,
        "no_such_ask",
        f"error 410/3907: no_such_ask  Instance type {ask} is no longer available.",
        ask_id=ask,
    )


def no_such_instance(instance: int) -> Answer:
    return refused(404, "no_such_instance", f"Instance {instance} not found.")


def invalid_args(text: str) -> Answer:
    return refused(400, "invalid_args", f"error 400/3467: Invalid args: {text}")


def invalid_request(text: str) -> Answer:
    return refused(400, "invalid_request", text)


def too_frequent(shape: str, threshold: float, retry_after: int | None = None) -> Answer:
    """The three shapes of a 429, seen on the same API."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    text = "API requests too frequent"
    match shape:
        case "429-text":
            return Answer(429, f"{text}: endpoint threshold={threshold}", "text/plain", headers)
        case "429-detail":
            return Answer(429, {"detail": f"{text} endpoint threshold={threshold}"}, headers=headers)
        case _:
            body = {"success": False, "error": "rate_limit_exceeded", "msg": f"{text}: endpoint threshold={threshold}"}
            return Answer(429, body, headers=headers)


def search_quota(limit: int, now: float) -> Answer:
    midnight = (int(now) // 86_400 + 1) * 86_400
    body = {
        "success": False,
        "error": "search_quota_exceeded",
        "msg": "Daily search quota exceeded.",
        "limit": limit,
        "remaining": 0,
        "retry_after": midnight - int(now),
    }
    return Answer(429, body, headers={"X-RateLimit-Reset": str(midnight)})


def status(instance: Instance, now: float, settings: Settings) -> tuple[str | None, str, str, str, str]:
    """actual_status, intended_status, cur_state, next_state, status_msg."""
    want = instance.intended
    running = f"success, running {instance.image}\n"
    match instance.phase:
        case Phase.PROVISIONING:
            return None, want, "running", "running", ""
        case Phase.LOADING:
            early = now - instance.since < settings.bootSeconds / 3 and instance.boot == 1
            pulling = f"{instance.image.rsplit(':', 1)[-1]}: Pulling from {instance.image.rsplit(':', 1)[0]}\n"
            return ("created" if early else "loading"), want, "running", "running", pulling
        case Phase.RUNNING:
            return "running", want, "running", "running", running
        case Phase.STOPPING:
            return "running", want, "running", "stopped", running
        case Phase.STOPPED:
            return "exited", want, "stopped", "stopped", "stopped\n"
        case Phase.STARTING:
            return "exited", want, "running", "running", "stopped\n"
        case Phase.QUEUED:
            return "exited", want, "stopped", "running", "stopped\n"
        case Phase.REBOOTING:
            return "rebooting", want, "running", "running", running
        case Phase.OFFLINE:
            late = now - instance.since < settings.heartbeatSeconds
            return ("running" if late else "offline"), want, "running", "running", running
        case Phase.FAILED:
            message = (
                "Error response from daemon: failed to create task for container: failed to create shim task: "
                "OCI runtime create failed: runc create failed: unable to start container process: "
                "error during container init: error running hook #0\n"
            )
            return "created", "stopped", "stopped", "stopped", message
        case Phase.OUTBID:
            return "exited", want, "stopped", "stopped", "stopped\n"
        case Phase.OUTBID_LOADING:
            return "loading", "stopped", "stopped", "stopped", ""
        case Phase.ENDED:
            return "stopped", "stopped", "stopped", "stopped", "stopped\n"
        case Phase.DESTROYING:
            return "exited", want, "destroying", "destroyed", ""


def docker_ports(instance: Instance) -> dict[str, list[dict[str, str]]]:
    """As `docker inspect` has it: numbers are strings, once for IPv4 and once for IPv6."""
    return {
        # An identity port (above 70000) has the same number on both sides.
        (f"{outside}/{inside.split('/')[1]}" if is_identity(inside) else inside): [
            {"HostIp": "0.0.0.0", "HostPort": str(outside)},  # noqa: S104
            {"HostIp": "::", "HostPort": str(outside)},
        ]
        for inside, outside in instance.ports.items()
    }


def instance_row(instance: Instance, now: float, settings: Settings) -> dict[str, Any]:
    """One instance as list and show give it."""
    offer = instance.offer
    actual, intended, current, following, message = status(instance, now, settings)
    running = actual == "running"
    base = offer.dph_base if instance.bid is None else min(instance.bid, offer.dph_base)
    disk_hour = offer.storage_cost * instance.disk / HOURS_A_MONTH
    gpus = len(offer.slots)
    view = {
        "gpuCostPerHour": base,
        "diskHour": disk_hour,
        "totalHour": base + disk_hour,
        "discountTotalHour": 0,
        "discountedTotalPerHour": base + disk_hour,
    }
    row: dict[str, Any] = {
        "id": instance.id,
        "actual_status": actual,
        "intended_status": intended,
        "cur_state": current,
        "next_state": following,
        "status_msg": message,
        "label": instance.label,
        "image_uuid": instance.image,
        "image_args": [],
        "image_runtype": instance.runtype,
        "extra_env": [[key, value] for key, value in instance.env.items()],
        "onstart": instance.onstart,
        "jupyter_token": "",
        "ssh_host": f"ssh{instance.id % 9 + 1}.vast.ai",
        "ssh_idx": str(instance.id % 9 + 1),
        "ssh_port": 10_000 + instance.id % 20_000,
        "machine_dir_ssh_port": 20_000 + offer.machine_id % 10_000,
        # The newline is the real API's.
        "public_ipaddr": f"{instance.address}\n" if instance.address is not None else None,
        "local_ipaddrs": "10.0.0.2 172.17.0.1 \n",
        "direct_port_count": offer.direct_port_count,
        "direct_port_start": -1,
        "direct_port_end": -1,
        "machine_id": offer.machine_id,
        "host_id": offer.host_id,
        "bundle_id": offer.id - 500_000,
        "hosting_type": offer.hosting_type,
        "start_date": instance.created_at,
        "end_date": instance.created_at + offer.duration,
        "uptime_mins": None if instance.running_since is None else (now - instance.running_since) / 60,
        "duration": now - instance.created_at,
        "dph_base": base,
        "dph_total": base + disk_hour,
        "min_bid": offer.min_bid,
        "is_bid": instance.bid is not None,
        "storage_cost": offer.storage_cost,
        "storage_total_cost": disk_hour,
        "inet_up": offer.inet_up,
        "inet_down": offer.inet_down,
        "inet_up_cost": offer.inet_up_cost,
        "inet_down_cost": offer.inet_down_cost,
        "inet_up_billed": None,
        "inet_down_billed": None,
        "disk_space": instance.disk,
        "disk_usage": -1,
        "disk_util": -1,
        "disk_bw": offer.disk_bw,
        "disk_name": "SAMSUNG MZQL21T9HCJR",
        "gpu_name": offer.gpu_name,
        "num_gpus": gpus,
        "gpu_frac": gpus / offer.machine_gpus,
        "gpu_ram": offer.gpu_ram,
        "gpu_totalram": offer.gpu_ram * gpus,
        "gpu_util": 0.0 if running else None,
        "gpu_temp": 41.0 if running else None,
        "gpu_arch": "nvidia",
        "compute_cap": offer.compute_cap,
        "cpu_name": offer.cpu_name,
        "cpu_arch": "amd64",
        "cpu_cores": offer.cpu_cores,
        "cpu_cores_effective": (offer.cpu_cores or 0) * gpus / offer.machine_gpus,
        "cpu_ram": offer.cpu_ram,
        "cpu_util": 0.0,
        "mem_limit": None,
        "mem_usage": None,
        "vmem_usage": None,
        "cuda_max_good": offer.cuda_max_good,
        "driver_version": offer.driver_version,
        "dlperf": offer.dlperf * gpus,
        "dlperf_per_dphtotal": offer.dlperf * gpus / (base + disk_hour),
        "total_flops": offer.total_flops * gpus,
        "score": 0.0,
        "geolocation": offer.geolocation,
        "country_code": offer.geocode,
        "verification": offer.verification,
        "reliability2": offer.reliability,
        "template_id": None,
        "template_hash_id": None,
        "template_name": None,
        "credit_balance": None,
        "credit_discount": None,
        "credit_discount_max": 0.4,
        "client_run_time": 1.1,
        "host_run_time": 2_592_000.0,
        "vram_costperhour": base / max(1, offer.gpu_ram * gpus),
        "external": False,
        "rentable": True,
        "rented": True,
        "search": view,
        "instance": view,
        "time_remaining": "",
        "time_remaining_isbid": "",
        "volume_info": [],
        "static_ip": offer.static_ip,
        "os_version": "22.04",
        "mobo_name": "ROME2D32GM-2T",
        "webpage": None,
        "logo": "/static/logos/vastai_small2.png",
    }
    if running:
        row["ports"] = docker_ports(instance)
    return row | instance.row


def keys_text(keys: Iterable[SshKey], owner: int) -> str:
    """The attached keys: a JSON string inside JSON, as the real API sends it."""
    return json.dumps([key_row(key, owner) for key in keys])


def key_row(key: SshKey, owner: int) -> dict[str, Any]:
    made = datetime.fromtimestamp(key.attached_at, UTC).isoformat()
    return {
        "id": key.id,
        "user_id": owner,
        "key": key.public_key,
        "public_key": key.public_key,
        "created_at": made,
        "deleted_at": None,
    }


LIST_KEYS = frozenset(
    {
        "id",
        "label",
        "actual_status",
        "intended_status",
        "cur_state",
        "next_state",
        "gpu_name",
        "verification",
        "machine_id",
        "host_id",
        "image_uuid",
        "is_bid",
        "start_date",
        "geolocation",
    }
)  # computed columns can't be filtered on
