"""Vast.ai's rows as values of core/market. Fields may be null, strings, absent, or end in a newline."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from gpu_standby.core.market import Instance, InstanceState, Offer
from gpu_standby.errors import CannotTell

Row = Mapping[str, Any]

_ENDING = frozenset({"destroying", "destroyed", "deleted", "unloaded"})
_DEAD_AT_BOOT = ("oci runtime create failed", "error response from daemon")
_DEAREST = Decimal(1_000_000)
_REGION = re.compile(r"(?:^|,)\s*([A-Z]{2})\s*$")


def instance(row: Row) -> Instance:
    contract = _whole(row.get("id"))
    if contract <= 0:
        # A row that we cannot read makes the list incomplete, and an incomplete list proves nothing.
        raise CannotTell("Vast.ai, list: a row without an id")
    state = instance_state(row)
    return Instance(
        contract=contract,
        label=_text(row.get("label")),
        state=state,
        intended_running=_word(row.get("intended_status")) == "running",
        status_text=_text(row.get("status_msg"))[:500],
        machine_id=_whole(row.get("machine_id")),
        host_id=_whole(row.get("host_id")),
        gpu_name=_text(row.get("gpu_name")),
        gpu_count=_whole(row.get("num_gpus")),
        price=_decimal(row.get("dph_total")),
        is_bid=row.get("is_bid") is True,
        address=_text(row.get("public_ipaddr")),
        # Port numbers of a machine that is not running are those of its last run: the next has others.
        ports=_ports(row.get("ports")) if state is InstanceState.RUNNING else (),
        start_time=_float(row.get("start_date")),
        end_time=_float(row.get("end_date")),
    )


def instance_state(row: Row) -> InstanceState:
    """Our reading of four words and a text.

    | actual_status | the others | reading |
    |---|---|---|
    | any | cur or next destroying, destroyed, deleted, unloaded | Ending |
    | created | an error of the container runtime in the text | Broken |
    | running | | Running |
    | offline | | Offline (the host is gone; may come back) |
    | not running | cur, next (and intended) all stopped: outbid, ended, stopped by somebody | Stopped |
    | stopped, exited | intended stopped | Stopped |
    | stopped, exited | intended running, not all of cur and next stopped: just started, or queued | Booting |
    | null, created, loading, scheduling, rebooting … | | Booting |
    | unknown, frozen, anything new | | Unknown: no opinion |
    """
    actual = _word(row.get("actual_status"))
    intended = _word(row.get("intended_status"))
    current, following = _word(row.get("cur_state")), _word(row.get("next_state"))
    text = _text(row.get("status_msg")).lower()
    if current in _ENDING or following in _ENDING:
        return InstanceState.ENDING
    if actual == "created" and any(word in text for word in _DEAD_AT_BOOT):
        return InstanceState.BROKEN
    match actual:
        case "running":
            return InstanceState.RUNNING
        case "offline":
            return InstanceState.OFFLINE
        case "stopped" | "exited":
            released = current == "stopped" and following == "stopped"
            return InstanceState.STOPPED if released or intended == "stopped" else InstanceState.BOOTING
        case "" | "created" | "loading" | "scheduling" | "rebooting" | "restarting" | "recycling":
            # "Outbid while loading" never leaves `loading`: the contract says stopped three times.
            stopped = current == intended == following == "stopped"
            return InstanceState.STOPPED if stopped else InstanceState.BOOTING
        case _:
            return InstanceState.UNKNOWN


def offer(row: Row, *, bid: bool) -> Offer | None:
    """None: a row that lacks what a rental needs."""
    offer_id = _whole(row.get("ask_contract_id")) or _whole(row.get("id"))
    machine_id = _whole(row.get("machine_id"))
    price = _decimal(row.get("dph_total"))
    if offer_id <= 0 or machine_id <= 0 or price <= 0:
        return None
    reliability = row.get("reliability") if row.get("reliability") is not None else row.get("reliability2")
    external, rentable = row.get("external"), row.get("rentable")
    if external is True or rentable is False:
        return None
    return Offer(
        offer_id=offer_id,
        machine_id=machine_id,
        host_id=_whole(row.get("host_id")),
        gpu_name=_text(row.get("gpu_name")),
        gpu_count=_whole(row.get("num_gpus")),
        price=price,
        min_bid=_decimal(row.get("min_bid")) if bid else Decimal(0),
        reliability=_float(reliability),
        download_mbps=_float(row.get("inet_down")),
        direct_ports=_whole(row.get("direct_port_count")),
        disk_gb=_float(row.get("disk_space")),
        region=region(row.get("geolocation")),
        verified=_word(row.get("verification")) == "verified",
        end_time=_float(row.get("end_date")),
    )


def region(value: object) -> str:
    """ "Sweden, SE" → SE. Some rows have null, and some lack the comma: then nobody knows."""
    found = _REGION.search(_text(value))
    return found.group(1) if found else ""


def _ports(value: object) -> tuple[tuple[int, int], ...]:
    """As `docker inspect` has it: {"22/tcp": [{"HostPort": "40022"}, …], "80/tcp": null}."""
    if not isinstance(value, Mapping):
        return ()
    found: dict[int, int] = {}
    for inside, bindings in value.items():
        number, _, protocol = str(inside).partition("/")
        if protocol not in ("", "tcp") or not number.isdigit() or not isinstance(bindings, list):
            continue
        for binding in bindings:
            outside = _whole(binding.get("HostPort")) if isinstance(binding, Mapping) else 0
            if 0 < outside < 65536:
                found.setdefault(int(number), outside)
    return tuple(sorted(found.items()))


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _word(value: object) -> str:
    return _text(value).lower()


def _whole(value: object) -> int:
    number = _float(value)
    return int(number) if number.is_integer() else 0


def _float(value: object) -> float:
    """0 for whatever is no number: of each field used here 0 means "unknown"."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0.0
    try:
        number = float(value)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _decimal(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return Decimal(0)
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return Decimal(0)
    if not number.is_finite():
        return Decimal(0)
    # Capped: a price that is absurd must still be too dear, and not unknown.
    return max(min(number, _DEAREST), Decimal(0)).quantize(Decimal("0.000001"))
