"""Making the standby the active side, and back: the two idempotent commands, and the workload's gate."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_standby.agent import commit, transfers
from gpu_standby.agent.state import GPU, STANDBY, Disk, Failure, Refusal, State, read_json, write_json, write_whole

GATE_PERIOD_SECONDS = 0.05
GATE_SLACK_SECONDS = 10.0
"""Beyond the workload's own stopSeconds: the gate looks every 0.2 s, and its container may just be starting."""


def promote(disk: Disk, pair_uid: str, epoch: int, drop_movers: Callable[[], None]) -> dict[str, Any]:
    state = disk.require(pair_uid)
    if epoch < state.epoch or (epoch == state.epoch and state.active != STANDBY):
        raise Refusal("LowerEpoch", f"the standby is at epoch {state.epoch}, active: {state.active}")
    if disk.sync() is None and state.active != STANDBY:
        raise Refusal("NeverSynced", "no sync has ever completed here")
    if state.active != STANDBY:
        # A promotion that is cut after its record is asked again, and must know that the tree is not whole yet.
        write_whole(disk.promoting, f"{epoch}\n".encode())
    # First the record: from here on the door refuses every sync, whatever happens to us (I2).
    disk.write_state(State(pair_uid, epoch, STANDBY))
    drop_movers()
    ended = transfers.end_below(disk, epoch)
    if disk.promoting.exists():
        with transfers.exclusive(disk, wait_seconds=5.0):
            commit.settle(disk)
            if disk.manifest.exists():
                write_whole(disk.promoted, disk.manifest.read_bytes())
        disk.promoting.unlink(missing_ok=True)
    open_gate(disk, epoch)
    return {"epoch": epoch, "active": STANDBY, "sync": disk.sync(), "gate": gate_state(disk), "ended": ended}


def demote(
    disk: Disk, pair_uid: str, epoch: int, stop_seconds: float, drop_movers: Callable[[], None]
) -> dict[str, Any]:
    state = disk.require(pair_uid)
    if epoch < state.epoch or (epoch == state.epoch and state.active != GPU):
        raise Refusal("LowerEpoch", f"the standby is at epoch {state.epoch}, active: {state.active}")
    close_gate(disk, stop_seconds)
    disk.write_state(State(pair_uid, epoch, GPU))
    drop_movers()
    ended = transfers.end_below(disk, epoch)
    return {"epoch": epoch, "active": GPU, "gate": gate_state(disk), "ended": ended}


def stop(disk: Disk, pair_uid: str, epoch: int, stop_seconds: float) -> dict[str, Any]:
    """Only the workload; the record stays. `promote` of the same epoch starts it again."""
    state = disk.require(pair_uid)
    if epoch < state.epoch:
        raise Refusal("LowerEpoch", f"the standby is at epoch {state.epoch}")
    close_gate(disk, stop_seconds)
    return {"gate": gate_state(disk)}


# --- the gate ---------------------------------------------------------------------------------------------------


def configure(disk: Disk, configuration: dict[str, Any]) -> None:
    write_json(disk.gate / "config.json", configuration)


def gate_state(disk: Disk) -> str | None:
    try:
        return (disk.gate / "state").read_text().strip() or None
    except FileNotFoundError:
        return None


def open_gate(disk: Disk, epoch: int) -> None:
    disk.gate.mkdir(exist_ok=True)
    write_whole(disk.gate / "run", f"{epoch}\n".encode())
    _keep_gate_running(disk)


def close_gate(disk: Disk, stop_seconds: float) -> None:
    (disk.gate / "run").unlink(missing_ok=True)
    if gate_state(disk) is None:
        return
    deadline = time.monotonic() + stop_seconds + GATE_SLACK_SECONDS
    while not (gate_state(disk) or "stopped").startswith("stopped"):
        if time.monotonic() > deadline:
            raise Failure("the workload is still running", **{"class": "WorkloadStillRunning"})
        time.sleep(GATE_PERIOD_SECONDS)


def quiesce(disk: Disk, command: str, seconds: float) -> None:
    """The gate runs it, beside the workload."""
    done, end = disk.gate / "quiesced", disk.gate / "quiesce.end"
    done.unlink(missing_ok=True)
    write_whole(disk.gate / "quiesce", command.encode())
    deadline = time.monotonic() + seconds
    while not done.exists():
        if time.monotonic() > deadline:
            (disk.gate / "quiesce").unlink(missing_ok=True)
            end.touch()
            raise Failure("the quiesce command did not end in time")
        time.sleep(GATE_PERIOD_SECONDS)
    code = done.read_text().strip()
    if code != "0":
        raise Failure(f"the quiesce command ended with {code}")


def _keep_gate_running(disk: Disk) -> None:
    """On a host of the user's own the gate is our child's child; in a pod it is the workload container's command."""
    configuration = read_json(disk.gate / "config.json")
    if configuration is None or not configuration.get("startCommand"):
        return
    pid_file = disk.gate / "gate.pid"
    if _is_our_gate(pid_file, disk):
        return
    script = disk.gate / "gate.sh"
    write_whole(script, gate_script().encode())
    environment = {
        **os.environ,
        "GATE_DIR": str(disk.gate),
        "STOP_SECONDS": str(configuration.get("stopSeconds", 10)),
    }
    with open(disk.gate / "log", "ab") as log:
        child = subprocess.Popen(
            ["/bin/sh", str(script), "/bin/sh", "-c", str(configuration["startCommand"])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=disk.tree,
            env=environment,
            start_new_session=True,
        )
    write_whole(pid_file, f"{child.pid}\n".encode())


def _is_our_gate(pid_file: Path, disk: Disk) -> bool:
    try:
        pid = int(pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return False
    return os.fsencode(disk.gate / "gate.sh") in command


def gate_script() -> str:
    from importlib.resources import files

    return (files("gpu_standby.agent") / "gate.sh").read_text()
