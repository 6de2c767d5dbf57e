"""The door: what is asked of the standby, by whom, and at which epoch. It believes only its own disk (I2).

A request names the pair; a mover's key carries its epoch in the forced command, and must be the disk's own.
"""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gpu_standby.agent import bundle, keys, promote, transfers
from gpu_standby.agent.collect import collect
from gpu_standby.agent.pull import pull
from gpu_standby.agent.reach import reach
from gpu_standby.agent.remote import Gpu
from gpu_standby.agent.restore import restore
from gpu_standby.agent.state import GPU, STANDBY, Disk, Failure, Refusal, State

Request = Mapping[str, Any]
Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Door:
    disk: Disk
    authorized: Path
    command: str
    """How sshd starts this agent again: the forced command of the movers' keys."""
    mover_epoch: int | None
    """None: the operator."""

    def answer(self, request: Request, tell: Tell) -> dict[str, Any]:
        operations = _MOVER if self.mover_epoch is not None else _OPERATOR
        operation = operations.get(str(request.get("op")))
        if operation is None:
            raise Refusal("NotAllowed", f"{request.get('op')!r} is not for this key")
        try:
            return operation(self, request, tell)
        except (KeyError, TypeError, ValueError) as error:
            raise Refusal("BadRequest", f"{type(error).__name__}: {error}") from None

    def drop_movers(self, pair_uid: str) -> None:
        """No mover may come in any more; the operator admits the next epoch's."""
        keys.admit(self.authorized, pair_uid, 0, None, self.command)


# --- the operator's ---------------------------------------------------------------------------------------------


def _probe(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    disk = door.disk
    state = disk.state()
    return {
        "nonce": request.get("nonce"),
        "state": {"pairUID": state.pairUID, "epoch": state.epoch, "active": state.active} if state else None,
        "sync": disk.sync(),
        "gate": promote.gate_state(disk),
        "freeBytes": shutil.disk_usage(disk.root).free,
        "transferKey": keys.transfer_public_key(disk),
        "running": [{"op": r["kind"], "epoch": r["epoch"], "startedTime": r["time"]} for r in transfers.running(disk)],
        "agentVersion": bundle.version(),
        "time": time.time(),
    }


def _init(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    disk, uid, epoch = door.disk, str(request["pair"]), int(request["epoch"])
    state = disk.state()
    if state is not None:
        disk.require(uid)
        if state != State(uid, epoch, GPU):
            raise Refusal("AlreadyInitialised", f"at epoch {state.epoch}, active: {state.active}")
    disk.prepare()
    keys.make_transfer_key(disk)
    if state is None:
        disk.write_state(State(uid, epoch, GPU))
    return {}


def _admit(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    uid, epoch = str(request["pair"]), int(request["epoch"])
    state = door.disk.require(uid)
    if epoch != state.epoch:
        raise Refusal("LowerEpoch" if epoch < state.epoch else "HigherEpoch", f"the standby is at {state.epoch}")
    keys.admit(door.authorized, uid, epoch, str(request["key"]), door.command)
    return {}


def _reach(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    return reach(door.disk, Gpu.parse(request["gpu"]), float(request["timeoutSeconds"]))


def _promote(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    uid = str(request["pair"])
    return promote.promote(door.disk, uid, int(request["epoch"]), lambda: door.drop_movers(uid))


def _demote(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    uid, epoch = str(request["pair"]), int(request["epoch"])
    seconds = float(request.get("stopSeconds", 10))
    return promote.demote(door.disk, uid, epoch, seconds, lambda: door.drop_movers(uid))


def _stop(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    return promote.stop(door.disk, str(request["pair"]), int(request["epoch"]), float(request.get("stopSeconds", 10)))


def _quiesce(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    door.disk.require(str(request["pair"]))
    promote.quiesce(door.disk, str(request["command"]), float(request["timeoutSeconds"]))
    return {}


def _configure(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    door.disk.prepare()
    promote.configure(door.disk, dict(request["configuration"]))
    return {}


def _collect(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    return collect(
        door.disk,
        str(request["pair"]),
        int(request["epoch"]),
        Gpu.parse(request["gpu"]),
        [str(p) for p in request.get("exclude", [])],
        str(request["name"]),
    )


def _forget(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    uid = str(request["pair"])
    state = door.disk.require(uid)
    if state.active == STANDBY:
        promote.close_gate(door.disk, float(request.get("stopSeconds", 10)))
    transfers.end_below(door.disk, state.epoch + 1)
    door.drop_movers(uid)
    for path in (door.disk.tree, door.disk.incoming, door.disk.aside, door.disk.gate, door.disk.keys):
        shutil.rmtree(path, ignore_errors=True)
    for path in (door.disk.manifest, door.disk.promoted, door.disk.hashes, door.disk.root / "sync.json"):
        path.unlink(missing_ok=True)
    (door.disk.root / "state.json").unlink(missing_ok=True)
    return {}


# --- the mover's ------------------------------------------------------------------------------------------------


def _mover_state(door: Door, request: Request) -> tuple[State, int]:
    state, epoch = door.disk.require(str(request["pair"])), door.mover_epoch or 0
    if epoch != state.epoch:
        raise Refusal("LowerEpoch" if epoch < state.epoch else "HigherEpoch", f"the standby is at {state.epoch}")
    return state, epoch


def _pull(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    state, epoch = _mover_state(door, request)
    if state.active != GPU:
        raise Refusal("StandbyActive", "the standby is the active side: nothing is written over it")
    shrink = request.get("acceptShrink")
    return pull(
        door.disk,
        state.pairUID,
        epoch,
        Gpu.parse(request["gpu"]),
        [str(p) for p in request.get("exclude", [])],
        int(shrink) if shrink is not None else None,
    )


def _restore(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    state, epoch = _mover_state(door, request)
    return restore(
        door.disk,
        state.pairUID,
        epoch,
        Gpu.parse(request["gpu"]),
        [str(p) for p in request.get("exclude", [])],
        bool(request.get("final", False)),
        lambda progress: tell({"progress": progress}),
    )


Operation = Callable[[Door, Request, Tell], dict[str, Any]]
_OPERATOR: dict[str, Operation] = {
    "probe": _probe,
    "init": _init,
    "admit": _admit,
    "reach": _reach,
    "promote": _promote,
    "demote": _demote,
    "stop": _stop,
    "quiesce": _quiesce,
    "configure": _configure,
    "collect": _collect,
    "forget": _forget,
}
_MOVER: dict[str, Operation] = {"pull": _pull, "restore": _restore}


# --- sessions ---------------------------------------------------------------------------------------------------


def respond(door: Door, request: Request, tell: Tell) -> dict[str, Any]:
    """One answer, always: what went wrong is said, never raised."""
    try:
        return {"ok": True, **door.answer(request, tell)}
    except Refusal as refusal:
        return {"ok": False, "refused": refusal.reason, "error": str(refusal)}
    except Failure as failure:
        return {"ok": False, "refused": None, "error": str(failure), **failure.detail}
    except Exception as error:  # noqa: BLE001 - the boundary of a session: the asker must get an answer
        return {"ok": False, "refused": None, "error": f"{type(error).__name__}: {error}", "class": "Ours"}


def serve(door: Door, lines: IO[str], out: IO[str]) -> None:
    """JSON lines in, JSON lines out, many at a time, until the input ends."""
    writing = threading.Lock()

    def write(answer: dict[str, Any]) -> None:
        with writing:
            out.write(json.dumps(answer) + "\n")
            out.flush()

    def work(request: dict[str, Any]) -> None:
        number = request.get("id")
        try:
            write({"id": number, **respond(door, request, lambda part: write({"id": number, **part}))})
        except (BrokenPipeError, ValueError):
            return

    workers: list[threading.Thread] = []
    for line in lines:
        try:
            request = json.loads(line)
        except ValueError:
            write({"id": None, "ok": False, "refused": "BadRequest", "error": "not a JSON object"})
            continue
        if not isinstance(request, dict):
            write({"id": None, "ok": False, "refused": "BadRequest", "error": "not a JSON object"})
            continue
        worker = threading.Thread(target=work, args=(request,), daemon=True)
        worker.start()
        workers = [w for w in workers if w.is_alive()] + [worker]
    if door.mover_epoch is None:
        # A promotion that was begun is carried to its end, whoever asked for it has gone.
        for worker in workers:
            worker.join(timeout=30)


def run(door: Door, words: list[str]) -> int:
    """`serve`, or one request: `op`, `op {json}`, `promote 4`."""
    if door.mover_epoch is None:
        return _run(door, words)
    with transfers.session(door.disk, door.mover_epoch):
        return _run(door, words)


def _run(door: Door, words: list[str]) -> int:
    if words == ["serve"]:
        serve(door, sys.stdin, sys.stdout)
        # What a mover's session was doing ends with it; threads that are still at work must not hold it open.
        sys.stdout.flush()
        if door.mover_epoch is not None:
            transfers.end_children()
            os._exit(0)
        return 0
    operation, argument = words[0] if words else "", " ".join(words[1:]).strip()
    try:
        given = json.loads(argument) if argument else {}
    except ValueError:
        given = None
    request = {"epoch": given} if isinstance(given, int) else given
    if not isinstance(request, dict):
        answer: dict[str, Any] = {"ok": False, "refused": "BadRequest", "error": "the argument is not a JSON object"}
    else:
        state = door.disk.state()
        default = {"pair": state.pairUID} if state is not None else {}
        # One line is the whole answer: progress is for a session.
        answer = respond(door, {**default, **request, "op": operation}, lambda _: None)
    print(json.dumps(answer))  # noqa: T201 - the answer
    return 0 if answer["ok"] else 3 if answer.get("refused") else 1
