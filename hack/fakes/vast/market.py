"""The market: a seeded, believable set of offers, and what a search finds in it. Pure.

Units are the server's: MB, Mbps, $/h, $/GB/month; a month has 720 hours.
"""

import random
from collections.abc import Iterable, Mapping
from typing import Any

from .model import Instance, Offer

HOURS_A_MONTH = 720
ROW_CAP = 64  # seen live, whatever the limit asked for

# name, MB per GPU, compute capability, CUDA, driver, TFLOPS, dlperf, $/h low and high per GPU
_GPUS = (
    ("RTX 4090", 24564, 890, 12.8, "570.86.15", 82.6, 92.0, 0.28, 0.58),
    ("RTX 3090", 24576, 860, 12.6, "560.35.03", 35.6, 41.0, 0.13, 0.26),
    ("RTX 5090", 32607, 1200, 12.9, "575.57.08", 104.8, 168.0, 0.38, 0.75),
    ("RTX A5000", 24564, 860, 12.4, "550.127.05", 27.8, 38.0, 0.17, 0.24),
    ("RTX A6000", 49140, 860, 12.8, "570.124.04", 38.7, 52.0, 0.39, 0.55),
    ("A100 SXM4", 81920, 800, 12.8, "570.86.15", 19.5, 98.0, 0.72, 1.15),
    ("H100 SXM", 81559, 900, 12.8, "570.133.20", 66.9, 310.0, 1.75, 2.60),
    ("L40S", 46068, 890, 12.6, "560.35.05", 91.6, 110.0, 0.50, 0.78),
    ("RTX 4060 Ti", 16380, 890, 12.4, "550.120", 22.1, 24.0, 0.08, 0.13),
)
# How many machines of each kind: the 4090 is what most people rent.
_MACHINES = (14, 6, 4, 2, 3, 3, 3, 2, 2)
_PLACES = (
    ("California, US", "US"),
    ("Texas, US", "US"),
    ("Quebec, CA", "CA"),
    ("Sweden, SE", "SE"),
    ("Washington, US", "US"),
    ("Ontario, CA", "CA"),
    ("Norway, NO", "NO"),
    ("Bulgaria, BG", "BG"),
    ("Taiwan, TW", "TW"),
    ("Poland, PL", "PL"),
    (", JP", "JP"),
    ("Czechia", "CZ"),  # no comma: code that splits blindly trips here
)
_CPUS = (("AMD EPYC 7763 64-Core Processor", 128), ("Xeon® Gold 6330", 56), ("AMD Ryzen 9 7950X", 32))


def seeded_offers(seed: int) -> dict[int, Offer]:
    """The same seed gives the same market, ids included, so that a restarted server agrees with itself."""
    # A stable market, not a secret: Mersenne Twister is what is wanted.
    chance = random.Random(seed)
    offers: dict[int, Offer] = {}
    number = 0
    for kind, count in zip(_GPUS, _MACHINES, strict=True):
        for _ in range(count):
            for offer in _machine(chance, number, kind):
                offers[offer.id] = offer
            number += 1
    return offers


def _machine(
    chance: random.Random, number: int, kind: tuple[str, int, int, float, str, float, float, float, float]
) -> list[Offer]:
    name, ram, capability, cuda, driver, flops, dlperf, low, high = kind
    gpus = 2 if number % 6 == 3 else 1
    place, code = _PLACES[number % len(_PLACES)]
    cpu, cores = chance.choice(_CPUS)
    price = round(chance.uniform(low, high), 4)
    bid = round(price * chance.uniform(0.45, 0.7), 4)
    machine = {
        "machine_id": 11_000 + number * 137,
        "host_id": 90_000 + (number // 3) * 31,
        "machine_gpus": gpus,
        "gpu_name": name,
        "gpu_ram": ram,
        "compute_cap": capability,
        "cuda_max_good": cuda,
        "driver_version": driver,
        "total_flops": flops,
        "dlperf": round(dlperf * chance.uniform(0.9, 1.05), 2),
        "cpu_name": cpu,
        "cpu_cores": None if number == 14 else cores,  # seen live: null
        "cpu_ram": chance.choice((64_000, 128_754, 257_600, 515_700)),
        "disk_space": round(chance.uniform(90, 1800), 1),
        "disk_bw": round(chance.uniform(600, 6200), 1),
        "storage_cost": chance.choice((0.1, 0.15, 0.2)),
        "inet_up": round(chance.uniform(80, 2200), 1),
        "inet_down": round(chance.uniform(150, 4200), 1),
        "inet_up_cost": chance.choice((0.0, 0.002, 0.01)),
        "inet_down_cost": chance.choice((0.0, 0.002, 0.01)),
        "reliability": round(1 - chance.choice((1, 3, 5, 9, 15, 45)) * chance.uniform(0.0004, 0.001), 6),
        "verification": ("unverified" if number % 9 == 5 else "deverified" if number == 17 else "verified"),
        "hosting_type": 1 if number % 4 == 0 else 0,
        "direct_port_count": 0 if number % 11 == 7 else chance.choice((4, 16, 100, 249)),
        "static_ip": number % 3 != 0,
        "public_ipaddr": f"198.51.100.{number + 10}",
        "geolocation": None if number == 20 else place,
        "geocode": None if number == 20 else code,
        "duration": float(chance.randint(3, 90) * 86_400),
        "external": None if number == 8 else False,
    }
    chunks = [(0,), (1,), (0, 1)] if gpus == 2 else [(0,)]
    return [
        Offer.model_validate(
            machine
            | {
                "id": 31_000_000 + number * 7_919 + chunk * 13,
                "slots": slots,
                "dph_base": round(price * len(slots), 4),
                "min_bid": round(bid * len(slots), 4),
            }
        )
        for chunk, slots in enumerate(chunks)
    ]


def is_free(offer: Offer, instances: Iterable[Instance], but: int | None = None) -> bool:
    """Whether nobody holds one of the GPUs this offer would take (`but`: an instance that is not counted)."""
    return not any(
        other.holds_gpu
        and other.id != but
        and other.offer.machine_id == offer.machine_id
        and set(other.offer.slots) & set(offer.slots)
        for other in instances
    )


def offer_row(offer: Offer, storage: float, bid: bool, free: bool, now: float) -> dict[str, Any]:
    """An offer as the API shows it; in a search for bids the price is the floor price."""
    gpus = len(offer.slots)
    base = offer.min_bid if bid else offer.dph_base
    disk_hour = offer.storage_cost * storage / HOURS_A_MONTH
    total = base + disk_hour
    cores = offer.cpu_cores or 0
    share = gpus / offer.machine_gpus
    view = {
        "gpuCostPerHour": base,
        "diskHour": disk_hour,
        "totalHour": total,
        "discountTotalHour": 0,
        "discountedTotalPerHour": total,
    }
    return {
        "id": offer.id,
        "ask_contract_id": offer.id,
        "bundle_id": offer.id - 500_000,
        "machine_id": offer.machine_id,
        "host_id": offer.host_id,
        "hosting_type": offer.hosting_type,
        "gpu_name": offer.gpu_name,
        "num_gpus": gpus,
        "gpu_frac": share,
        "gpu_ram": offer.gpu_ram,
        "gpu_total_ram": offer.gpu_ram * gpus,
        "gpu_arch": "nvidia",
        "gpu_mem_bw": 900.0,
        "gpu_lanes": 16,
        "gpu_max_power": 450.0,
        "gpu_max_temp": 90.0,
        "gpu_display_active": False,
        "gpu_ids": [offer.machine_id * 10 + slot for slot in offer.slots],
        "compute_cap": offer.compute_cap,
        "cuda_max_good": offer.cuda_max_good,
        "driver_version": offer.driver_version,
        "driver_vers": driver_number(offer.driver_version),
        "cpu_arch": "amd64",
        "cpu_name": offer.cpu_name,
        "cpu_cores": offer.cpu_cores,
        "cpu_cores_effective": cores * share,
        "cpu_ghz": 3.4,
        "cpu_ram": offer.cpu_ram,
        "has_avx": 1,
        "disk_space": offer.disk_space,
        "disk_bw": offer.disk_bw,
        "disk_name": "SAMSUNG MZQL21T9HCJR",
        "dph_base": base,
        "dph_total": total,
        "dph_total_adj": total,
        "discounted_dph_total": total,
        "discounted_hourly": 0,
        "discount_rate": 0,
        "min_bid": offer.min_bid,
        "is_bid": bid,
        "storage_cost": offer.storage_cost,
        "storage_total_cost": disk_hour,
        "inet_up": offer.inet_up,
        "inet_down": offer.inet_down,
        "inet_up_cost": offer.inet_up_cost,
        "inet_down_cost": offer.inet_down_cost,
        "internet_up_cost_per_tb": offer.inet_up_cost * 1000,
        "internet_down_cost_per_tb": offer.inet_down_cost * 1000,
        # Some rows have only one of the two names.
        **({} if offer.machine_id % 5 == 4 else {"reliability": offer.reliability}),
        **({} if offer.machine_id % 7 == 3 else {"reliability2": offer.reliability}),
        "expected_reliability": 0,
        "verification": offer.verification,
        "vericode": 1 if offer.verification == "verified" else 0,
        "rentable": offer.listed and free,
        "rented": not free,
        "external": offer.external,
        "direct_port_count": offer.direct_port_count,
        "static_ip": offer.static_ip,
        "public_ipaddr": offer.public_ipaddr,
        "geolocation": offer.geolocation,
        "geolocode": None if offer.geocode is None else int.from_bytes(offer.geocode.encode(), "big"),
        "duration": offer.duration,
        "start_date": now - 86_400.0,
        "end_date": now + offer.duration,
        "score": round(offer.dlperf * gpus * offer.reliability / total / 10, 4),
        "dlperf": offer.dlperf * gpus,
        "dlperf_per_dphtotal": offer.dlperf * gpus / total,
        "flops_per_dphtotal": offer.total_flops * gpus / total,
        "total_flops": offer.total_flops * gpus,
        "pcie_bw": 23.6,
        "pci_gen": 4.0,
        "bw_nvlink": 0.0,
        "mobo_name": "ROME2D32GM-2T",
        "os_version": "22.04",
        "vms_enabled": False,
        "resource_type": "gpu",
        "cluster_id": None,
        "avail_vol_ask_id": None,
        "avail_vol_dph": None,
        "avail_vol_size": None,
        "time_remaining": "",
        "time_remaining_isbid": "",
        "logo": "/static/logos/vastai_small2.png",
        "webpage": None,
        "search": view,
        "instance": view,
    }


def driver_number(version: str) -> int:
    """570.86.15 → 570086015, the XXXYYYZZZ that can be compared."""
    parts = ([*version.split("."), "0", "0"])[:3]
    return int("".join(part.zfill(3) for part in parts))


class UnknownKey(ValueError):
    """A filter on something that can't be searched for."""


_VIRTUAL = {"verified", "geolocation", "datacenter", "driver_version", "ubuntu_version", "reliability", "reliability2"}
_NOT_FILTERS = {"order", "type", "limit", "allocated_storage", "select_cols", "disable_bundling", "api_key", "q"}


def matches(row: Mapping[str, Any], offer: Offer, filters: Mapping[str, Any]) -> bool:
    """Whether an offer passes all filters, with the server's virtual columns."""
    for key, conditions in filters.items():
        if key in _NOT_FILTERS:
            continue
        if key not in row and key not in _VIRTUAL:
            raise UnknownKey(key)
        if not isinstance(conditions, Mapping):
            raise UnknownKey(key)
        # Seen live: a filter on `id` finds nothing; `ask_contract_id` does.
        value = None if key == "id" else _value(row, offer, key)
        for operation, wanted in conditions.items():
            if key == "driver_version" and not isinstance(wanted, int | float):
                wanted = driver_number(str(wanted)) if "." in str(wanted) else wanted
            if not holds(value, operation, wanted):
                return False
    return True


def _value(row: Mapping[str, Any], offer: Offer, key: str) -> Any:
    match key:
        case "verified":
            return offer.verification == "verified"
        case "geolocation":
            return offer.geocode
        case "datacenter":
            return offer.hosting_type == 1
        case "driver_version":
            return row["driver_vers"]
        case "ubuntu_version":
            return row["os_version"]
        case "reliability" | "reliability2":
            return offer.reliability
        case "external":
            return bool(offer.external)
        case _:
            return row[key]


def holds(value: Any, operation: str, wanted: Any) -> bool:
    """One comparison; numbers come as strings as often as not."""
    match operation:
        case "eq":
            return _same(value, wanted)
        case "neq":
            return not _same(value, wanted)
        case "in":
            return isinstance(wanted, list) and any(_same(value, one) for one in wanted)
        case "notin" | "nin":
            return isinstance(wanted, list) and not any(_same(value, one) for one in wanted)
        case "gt" | "gte" | "lt" | "lte":
            left, right = _number(value), _number(wanted)
            if left is None or right is None:
                return False
            return {"gt": left > right, "gte": left >= right, "lt": left < right, "lte": left <= right}[operation]
        case _:
            raise UnknownKey(operation)


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool):
        return wanted is value or str(wanted).lower() == str(value).lower()
    if isinstance(value, int | float):
        number = _number(wanted)
        return number is not None and float(value) == number
    return bool(value == wanted)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def in_order(rows: list[dict[str, Any]], order: Iterable[Any]) -> list[dict[str, Any]]:
    """Sort by several columns; rows that lack a value come last."""
    for column, direction in reversed([(str(one[0]), str(one[1])) for one in order]):
        known = [row for row in rows if row.get(column) is not None]
        unknown = [row for row in rows if row.get(column) is None]
        rows = sorted(known, key=lambda row: row[column], reverse=direction == "desc") + unknown
    return rows


def search(
    offers: Iterable[Offer], instances: Iterable[Instance], query: Mapping[str, Any], now: float, absence: float = 0.0
) -> list[dict[str, Any]]:
    """The rows of a search, filtered, priced, ordered and cut."""
    bid = query.get("type") in ("bid", "interruptible")
    storage = _number(query.get("allocated_storage")) or 8.0
    known = list(instances)
    rows = []
    for offer in offers:
        row = offer_row(offer, storage, bid, is_free(offer, known), now)
        # A rotating sample: what was there a moment ago may be missing now.
        if absence and random.random() < absence:
            continue
        if offer.listed and offer.disk_space >= storage and matches(row, offer, query):
            rows.append(row)
    limit = int(_number(query.get("limit")) or ROW_CAP)
    return in_order(rows, query.get("order") or [["score", "desc"]])[: min(limit, ROW_CAP)]
