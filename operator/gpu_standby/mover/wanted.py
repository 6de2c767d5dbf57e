"""What the operator wants (the ConfigMap), what to do next, and when to say what came of it. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

REPORT_SECONDS = 60.0
PROGRESS_SECONDS = 1.0
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
HELD_SECONDS = 30.0

Json = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    sync: Json = field(default_factory=dict)
    restore: Json = field(default_factory=dict)

    @classmethod
    def parse(cls, data: Mapping[str, str] | None, epoch: int) -> "Wanted":
        """Only what is meant for this epoch's conductor."""
        read = {key: _object((data or {}).get(key)) for key in ("sync", "restore")}
        return cls(**{key: value if value.get("epoch") == epoch else {} for key, value in read.items()})


def _object(text: str | None) -> Json:
    """What is no JSON object is not wanted: a hand that slipped must not end the conductor."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Done:
    """What has been done so far, and how it ended."""

    cycle_started: float = 0.0
    failures: int = 0
    error: Json | None = None
    held: Json | None = None
    held_time: float = 0.0
    tried_shrink: int | None = None
    """A word that was too small to release the hold is tried once, not all the time."""
    last: Json | None = None
    """The last completed cycle."""
    cycle_answered: str = ""
    cycle_completed: bool = False
    restore: Json | None = None
    restore_failures: int = 0


@dataclass(frozen=True)
class Cycle:
    request: str
    accept_shrink: int | None = None


@dataclass(frozen=True)
class Restore:
    id: str


@dataclass(frozen=True)
class Wait:
    seconds: float


Next = Cycle | Restore | Wait


def next_task(wanted: Wanted, done: Done, now: float) -> Next:
    restore = wanted.restore
    ended = done.restore is not None and done.restore["id"] == restore.get("id") and done.restore["state"] != "Running"
    if restore and not ended:
        return Restore(str(restore["id"]))
    sync = wanted.sync
    if not sync.get("enabled") or not sync.get("gpu"):
        return Wait(REPORT_SECONDS)
    request = str(sync.get("cycleRequest") or "")
    shrink: int | None = sync.get("acceptShrink")
    if request and request != done.cycle_answered:
        return Cycle(request, shrink)
    period = float(sync["periodSeconds"])
    if done.held is not None:
        if shrink is not None and shrink != done.tried_shrink:
            return Cycle("", shrink)
        period = max(period, HELD_SECONDS) if now - done.held_time > HELD_SECONDS else period
    elif done.failures:
        period = min(period, RETRY_SECONDS[min(done.failures, len(RETRY_SECONDS)) - 1])
    due = done.cycle_started + period
    return Wait(due - now) if due > now else Cycle("", shrink)


def after_cycle(done: Done, cycle: Cycle, started: float, answer: Json, now: float) -> Done:
    """A cycle that started after its request was seen answers it, whatever came of it."""
    done = replace(done, cycle_started=started)
    if cycle.request:
        done = replace(done, cycle_answered=cycle.request, cycle_completed=bool(answer.get("ok")))
    if answer.get("ok"):
        last = {key: answer.get(key) for key in _LAST}
        return replace(done, failures=0, error=None, held=None, tried_shrink=None, last=last)
    held = answer.get("held")
    if held is not None:
        held_time = done.held_time if done.held is not None else now
        tried = cycle.accept_shrink
        return replace(done, failures=0, error=None, held=held, held_time=held_time, tried_shrink=tried)
    error = {
        "class": answer.get("refused") or answer.get("class") or "Ours",
        "message": str(answer.get("error", ""))[:300],
        "time": now,
    }
    return replace(done, failures=done.failures + 1, error=error)


_LAST = ("startedTime", "completedTime", "durationSeconds", "files", "bytes", "manifest")


def report(done: Done, epoch: int, phase: str, now: float) -> Json:
    return {
        "epoch": epoch,
        "time": now,
        "phase": phase,
        "sync": done.last,
        "consecutiveFailures": done.failures,
        "lastError": done.error,
        "held": done.held,
        "cycleAnswered": done.cycle_answered or None,
        "cycleOutcome": ("Completed" if done.cycle_completed else "Failed") if done.cycle_answered else None,
        "restore": done.restore,
    }


def is_news(old: Json | None, new: Json, now: float) -> bool:
    """Worth a write now? Progress once a second, all else that only moves on once a minute."""
    if old is None:
        return True

    def gist(told: Json) -> tuple[Any, ...]:
        restore = told["restore"] or {}
        error = told["lastError"] or {}
        return (
            told["phase"] in ("Restoring",),
            told["sync"] is None,
            bool(told["consecutiveFailures"]),
            error.get("class"),
            told["held"],
            told["cycleAnswered"],
            restore.get("id"),
            restore.get("state"),
        )

    if gist(old) != gist(new):
        return True
    age: float = now - old["time"]
    if old["restore"] != new["restore"]:
        return age >= PROGRESS_SECONDS
    return age >= REPORT_SECONDS
