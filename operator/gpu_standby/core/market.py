"""The market's words as values: offers, instances, what is asked for.

Units: dollars per hour, GB, Mbps, epoch seconds.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum


class Pricing(StrEnum):
    ON_DEMAND = "OnDemand"
    INTERRUPTIBLE = "Interruptible"


@dataclass(frozen=True)
class OfferQuery:
    gpu_name: str
    gpu_count: int
    disk_gb: int
    max_price: Decimal
    min_reliability: Decimal
    min_download_mbps: int
    regions: tuple[str, ...]
    pricing: Pricing
    min_direct_ports: int
    excluded_machines: tuple[int, ...] = ()
    min_duration_seconds: int = 86_400
    """The host's listing must last at least that long: a rental ends with it."""


@dataclass(frozen=True)
class Offer:
    offer_id: int
    machine_id: int
    host_id: int
    gpu_name: str
    gpu_count: int
    price: Decimal
    """All-in $/h for the asked disk."""
    min_bid: Decimal
    reliability: float
    download_mbps: float
    direct_ports: int
    disk_gb: float
    region: str
    """Two-letter code, empty if the provider does not say."""
    verified: bool
    end_time: float
    """0: unknown."""


@dataclass(frozen=True)
class RentRequest:
    offer_id: int
    label: str
    image: str
    disk_gb: int
    onstart: str
    ports: tuple[int, ...]
    """Inside ports to be mapped, beside 22."""
    bid: Decimal | None = None


class InstanceState(StrEnum):
    """Our reading of the provider's many words; UNKNOWN is no opinion."""

    BOOTING = "Booting"
    RUNNING = "Running"
    STOPPED = "Stopped"
    OFFLINE = "Offline"
    BROKEN = "Broken"
    """Died at boot: will never run."""
    ENDING = "Ending"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Instance:
    contract: int
    label: str
    state: InstanceState
    intended_running: bool
    status_text: str
    machine_id: int
    host_id: int
    gpu_name: str
    gpu_count: int
    price: Decimal
    is_bid: bool
    address: str
    """Public address, empty until known."""
    ports: tuple[tuple[int, int], ...]
    """(inside, outside); only while running."""
    start_time: float
    end_time: float

    @property
    def ssh_port(self) -> int | None:
        return dict(self.ports).get(22)


@dataclass(frozen=True)
class InstanceList:
    """A complete list: every page was read with a key that works. Absence here is evidence (I7)."""

    time: float
    instances: tuple[Instance, ...] = field(default_factory=tuple)

    def by_label(self, label: str) -> tuple[Instance, ...]:
        """Lowest id first; `label` with or without `/ready`."""
        return tuple(
            sorted((i for i in self.instances if i.label in (label, f"{label}/ready")), key=lambda i: i.contract)
        )

    def by_contract(self, contract: int) -> Instance | None:
        return next((i for i in self.instances if i.contract == contract), None)
