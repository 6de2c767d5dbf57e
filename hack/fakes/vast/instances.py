"""How an instance moves: a pure function of its record, the time, and the machine that is seen.

`advance` is called again and again; it moves the record at most as far as the evidence goes and says what has to
be done to the machine. Whoever calls it saves the record before he does anything.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from .model import Instance, Phase, Settings

PORTS = range(40_000, 60_000)


class MachineState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"  # its container ended by itself
    LEAVING = "leaving"


@dataclass(frozen=True)
class Machine:
    """What the backend sees of one instance's machine; absent machines are not listed."""

    boot: int
    state: MachineState
    address: str | None = None


class Todo(StrEnum):
    BOOT = "boot"
    POWER_OFF = "power-off"
    ERASE = "erase"  # power off and remove the disk
    WRITE_KEYS = "write-keys"


def advance(
    instance: Instance, now: float, machine: Machine | None, settings: Settings, disk: bool, free: bool
) -> list[Todo]:
    """Move one instance; `disk`: its disk is still there; `free`: nobody else holds its GPU."""
    age = now - instance.since
    match instance.phase:
        case Phase.PROVISIONING:
            if age < settings.provisionSeconds:
                return _boot(instance, machine)
            if instance.boot_fault == "oci":
                instance.intended = "stopped"
                instance.enter(Phase.FAILED, now)
            else:
                instance.enter(Phase.LOADING, now)
            return []
        case Phase.LOADING:
            if instance.boot_fault == "stuck":
                return []
            up = machine is not None and machine.state is MachineState.RUNNING and machine.boot == instance.boot
            if up and machine is not None and age >= settings.bootSeconds:
                instance.address, instance.running_since = machine.address, now
                for key in instance.keys:
                    key.written = False
                instance.enter(Phase.RUNNING, now)
                return []
            return _boot(instance, machine)
        case Phase.RUNNING:
            if machine is None or machine.state is MachineState.LEAVING or machine.boot != instance.boot:
                instance.enter(Phase.OFFLINE, now)
                return []
            if machine.state is MachineState.ENDED:
                instance.enter(Phase.STOPPING, now)
                return [Todo.POWER_OFF]
            due = [key for key in instance.keys if not key.written]
            since = instance.running_since or now
            if any(now - max(since, key.attached_at) >= settings.attachLagSeconds for key in due):
                return [Todo.WRITE_KEYS]
            return []
        case Phase.STOPPING:
            if machine is None:
                instance.enter(Phase.STOPPED, now)
                return []
            return [Todo.POWER_OFF]
        case Phase.REBOOTING:
            if machine is not None:
                return [Todo.POWER_OFF]
            begin_boot(instance, now)
            return []
        case Phase.STARTING:
            if age >= settings.exitedSeconds:
                instance.enter(Phase.LOADING, now)
            return _boot(instance, machine)
        case Phase.QUEUED:
            if free and not instance.refuse_start:
                begin_boot(instance, now)
            return [] if machine is None else [Todo.POWER_OFF]
        case Phase.DESTROYING:
            if machine is None and not disk and age >= settings.destroySeconds:
                instance.destroyed_at = now
                return []
            return [Todo.ERASE]
        case Phase.OFFLINE if instance.dark:
            return []
        case Phase.STOPPED | Phase.OFFLINE | Phase.FAILED | Phase.OUTBID | Phase.OUTBID_LOADING | Phase.ENDED:
            return [] if machine is None else [Todo.POWER_OFF]
        case _:
            assert_never(instance.phase)


def _boot(instance: Instance, machine: Machine | None) -> list[Todo]:
    if instance.boot_fault != "ok":
        return []
    if machine is None:
        return [Todo.BOOT]
    if machine.boot != instance.boot or machine.state is MachineState.ENDED:
        return [Todo.POWER_OFF]
    return []


def begin_boot(instance: Instance, now: float) -> None:
    """A further boot: other port numbers, `exited` for some reads, then `loading`."""
    instance.boot += 1
    instance.dark = False
    instance.running_since = None
    instance.address = None
    instance.intended = "running"
    instance.ports = map_ports(instance, random.SystemRandom())
    instance.enter(Phase.STARTING, now)


def start(instance: Instance, now: float, free: bool) -> bool:
    """Ask for a start; False: the GPU is somebody else's, and the start is queued."""
    match instance.phase:
        case Phase.STOPPED | Phase.QUEUED | Phase.OUTBID | Phase.ENDED:
            instance.intended = "running"
            if not free or instance.refuse_start:
                instance.enter(Phase.QUEUED, now)
                return False
            begin_boot(instance, now)
        case Phase.STOPPING:
            instance.intended = "running"
            instance.enter(Phase.REBOOTING, now)
        case _:
            instance.intended = "running"
    return True


def stop(instance: Instance, now: float) -> None:
    instance.intended = "stopped"
    match instance.phase:
        case Phase.PROVISIONING | Phase.LOADING | Phase.RUNNING | Phase.STARTING | Phase.REBOOTING:
            instance.enter(Phase.STOPPING, now)
        case Phase.QUEUED:
            instance.enter(Phase.STOPPED, now)
        case _:
            pass  # an offline host hears nothing; the rest is stopped already


def internal_ports(env: Mapping[str, str], runtype: str) -> list[str]:
    """The container's ports that are to be reachable: `-p 8080:8080`, `-p 53:53/udp`; 22 for direct ssh."""
    wanted = ["22/tcp"] if "direc" in runtype and "ssh" in runtype else []
    for flag in env:
        words = flag.split()
        if len(words) == 2 and words[0] == "-p":
            inside = words[1].rsplit(":", 1)[-1]
            port, _, protocol = inside.partition("/")
            if port.isdigit():
                wanted.append(f"{port}/{protocol or 'tcp'}")
    return list(dict.fromkeys(wanted))


def map_ports(instance: Instance, chance: random.Random) -> dict[str, int]:
    """New numbers outside, as at every start; no more of them than the offer has direct ports."""
    wanted = internal_ports(instance.env, instance.runtype)[: instance.offer.direct_port_count]
    return dict(zip(wanted, chance.sample(PORTS, len(wanted)), strict=True))


def is_identity(inside: str) -> bool:
    """A port above 70000 asks for any number that is the same on both sides."""
    return int(inside.split("/")[0]) > 70_000
