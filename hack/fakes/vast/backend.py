"""What a rented machine is made of: the Protocol, and a backend without machines for tests of the wire alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from .instances import Machine, MachineState
from .model import GpuMode, Instance


class Death(StrEnum):
    POWER = "power"
    """The machine and its address are gone."""
    SILENT = "silent"
    """Not a packet any more, and nobody says that there is no such host."""
    CONTAINER = "container"
    """The container died, its host lives: connections end, new ones are refused."""


@dataclass(frozen=True)
class Seen:
    """One look at the outside: the machines that are there, and the disks."""

    machines: Mapping[int, Machine]
    disks: frozenset[int]


class Backend(Protocol):
    """Everything here may be called again with the same arguments, and then changes nothing more."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def look(self) -> Seen: ...

    async def boot(self, instance: Instance) -> None: ...

    async def power_off(self, instance: int) -> None:
        """At once; its peers hear it."""

    async def darken(self, instance: int) -> None:
        """Dead without a word: no FIN, no RST, no "no such host", until it is powered off and booted again."""

    async def collapse(self, instance: int) -> None:
        """Everything in it is killed; its address refuses at once, until it is powered off and booted again."""

    async def erase(self, instance: int) -> None:
        """Power off and remove the disk."""

    async def write_keys(self, instance: Instance, removed: Sequence[str] = (), alone: bool = False) -> None:
        """Bring the attached keys into authorized_keys; `alone`: wipe what others wrote there."""

    async def set_gpu(self, instance: Instance, mode: GpuMode) -> None: ...

    async def load(self) -> str | None:
        """The world as it was saved last."""

    async def save(self, world: str) -> None: ...


class NoMachines:
    """Instances go through their states and there is no machine: addresses and ports are made up.

    Good for contract tests of the API; nothing can be reached over SSH.
    """

    def __init__(self) -> None:
        self._machines: dict[int, Machine] = {}
        self._disks: set[int] = set()
        self._saved: str | None = None
        self.written_keys: dict[int, list[str]] = {}

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def look(self) -> Seen:
        return Seen(dict(self._machines), frozenset(self._disks))

    async def boot(self, instance: Instance) -> None:
        self._disks.add(instance.id)
        address = f"203.0.113.{instance.id % 250 + 1}"
        self._machines[instance.id] = Machine(instance.boot, MachineState.RUNNING, address)

    async def power_off(self, instance: int) -> None:
        self._machines.pop(instance, None)

    async def darken(self, instance: int) -> None:
        return None

    async def collapse(self, instance: int) -> None:
        return None

    async def erase(self, instance: int) -> None:
        self._machines.pop(instance, None)
        self._disks.discard(instance)

    async def write_keys(self, instance: Instance, removed: Sequence[str] = (), alone: bool = False) -> None:
        self.written_keys[instance.id] = [key.public_key for key in instance.keys]

    async def set_gpu(self, instance: Instance, mode: GpuMode) -> None:
        return None

    async def load(self) -> str | None:
        return self._saved

    async def save(self, world: str) -> None:
        self._saved = world
