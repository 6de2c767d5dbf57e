"""What the conductor does next, and when it speaks."""

import json
from dataclasses import replace
from typing import Any

import pytest

from gpu_standby.mover.wanted import (
    HELD_SECONDS,
    REPORT_SECONDS,
    RETRY_SECONDS,
    Cycle,
    Done,
    Restore,
    Wait,
    Wanted,
    after_cycle,
    is_news,
    next_task,
    report,
)

NOW = 1_000.0
SYNC: dict[str, Any] = {"epoch": 4, "enabled": True, "gpu": {"host": "h"}, "periodSeconds": 30}
DONE = {"ok": True, "startedTime": 1.0, "completedTime": 2.0, "durationSeconds": 1.0, "files": 3, "bytes": 4}
LOST = {"ok": False, "class": "Target", "error": "gone"}
HELD = {"ok": False, "held": {"reason": "SourceShrunk", "missing": 6}, "error": "half"}


def wanted(restore: dict[str, Any] | None = None, **sync: Any) -> Wanted:
    return Wanted(sync={**SYNC, **sync}, restore=restore or {})


# --- the ConfigMap ------------------------------------------------------------------------------------------------


def test_only_what_is_meant_for_this_epoch_is_wanted() -> None:
    data = {"sync": json.dumps(SYNC), "restore": json.dumps({"epoch": 3, "id": "old"})}
    assert Wanted.parse(data, 4) == Wanted(sync=SYNC)
    assert Wanted.parse(data, 5) == Wanted()


@pytest.mark.parametrize("data", [None, {}, {"sync": "", "restore": ""}, {"report": "{}"}])
def test_nothing_written_means_nothing_wanted(data: dict[str, str] | None) -> None:
    assert Wanted.parse(data, 1) == Wanted()


@pytest.mark.parametrize("text", ["{", "[]", "4", "null", '"x"'])
def test_what_is_not_an_object_is_not_wanted(text: str) -> None:
    assert Wanted.parse({"sync": text, "restore": json.dumps({"epoch": 1, "id": "a"})}, 1).sync == {}


# --- what is next -------------------------------------------------------------------------------------------------


def test_a_cycle_is_due_a_period_after_the_last_one_began() -> None:
    assert next_task(wanted(), Done(), NOW) == Cycle("")
    assert next_task(wanted(), Done(cycle_started=NOW - 10), NOW) == Wait(20.0)
    assert next_task(wanted(), Done(cycle_started=NOW - 30), NOW) == Cycle("")


@pytest.mark.parametrize("sync", [{"enabled": False}, {"gpu": None}, {"gpu": {}}])
def test_nothing_is_pulled_when_syncing_is_off_or_there_is_no_gpu(sync: dict[str, Any]) -> None:
    assert next_task(wanted(**sync), Done(), NOW) == Wait(REPORT_SECONDS)
    assert next_task(wanted(**sync, cycleRequest="r"), Done(), NOW) == Wait(REPORT_SECONDS)


def test_a_requested_cycle_starts_at_once_and_is_answered_once() -> None:
    idle = Done(cycle_started=NOW - 1)
    assert next_task(wanted(cycleRequest="r"), idle, NOW) == Cycle("r")
    for answer, completed in ((DONE, True), (LOST, False), (HELD, False)):
        after = after_cycle(idle, Cycle("r"), NOW, answer, NOW + 1)
        assert (after.cycle_answered, after.cycle_completed) == ("r", completed)
        assert next_task(wanted(cycleRequest="r"), after, NOW + 0.5) != Cycle("r")
        assert next_task(wanted(cycleRequest="next"), after, NOW + 0.5) == Cycle("next")


def test_a_cycle_that_was_not_requested_answers_no_request() -> None:
    assert after_cycle(Done(), Cycle(""), NOW, DONE, NOW).cycle_answered == ""


def test_a_restore_goes_before_everything_until_it_has_ended() -> None:
    ask = wanted({"epoch": 4, "id": "a"}, cycleRequest="r")
    assert next_task(ask, Done(), NOW) == Restore("a")
    assert next_task(ask, Done(restore={"id": "a", "state": "Running"}), NOW) == Restore("a")
    assert next_task(ask, Done(restore={"id": "b", "state": "Done"}), NOW) == Restore("a")
    for state in ("Done", "Failed"):
        assert next_task(ask, Done(restore={"id": "a", "state": state}), NOW) == Cycle("r")


def test_failures_are_tried_again_sooner_with_a_back_off_but_never_later_than_the_period() -> None:
    done, waits = Done(), []
    for _ in range(7):
        done = after_cycle(done, Cycle(""), NOW, LOST, NOW)
        task = next_task(wanted(), done, NOW)
        assert isinstance(task, Wait)
        waits.append(task.seconds)
    assert waits == [*RETRY_SECONDS, RETRY_SECONDS[-1], RETRY_SECONDS[-1]]
    assert next_task(wanted(periodSeconds=5), done, NOW) == Wait(5.0)
    healed = after_cycle(done, Cycle(""), NOW, DONE, NOW)
    assert (healed.failures, healed.error, next_task(wanted(), healed, NOW)) == (0, None, Wait(30.0))


def test_a_held_source_is_looked_at_again_but_not_hammered() -> None:
    held = after_cycle(Done(), Cycle(""), NOW, HELD, NOW)
    assert held.held == HELD["held"]
    assert next_task(wanted(periodSeconds=5), held, NOW) == Wait(5.0)
    long = after_cycle(replace(held, cycle_started=NOW), Cycle(""), NOW + 40, HELD, NOW + 40)
    assert long.held_time == NOW, "held since the first time"
    assert next_task(wanted(periodSeconds=5), long, NOW + 40) == Wait(HELD_SECONDS)


def test_a_word_that_accepts_is_acted_on_at_once_and_one_that_is_too_small_only_once() -> None:
    held = after_cycle(Done(), Cycle(""), NOW, HELD, NOW)
    small = wanted(acceptShrink=2)
    assert next_task(small, held, NOW + 1) == Cycle("", accept_shrink=2)
    again = after_cycle(held, Cycle("", accept_shrink=2), NOW + 1, HELD, NOW + 1)
    assert next_task(small, again, NOW + 1) == Wait(30.0)
    assert next_task(wanted(acceptShrink=6), again, NOW + 2) == Cycle("", accept_shrink=6)


def test_a_failed_look_keeps_what_was_held() -> None:
    held = after_cycle(Done(), Cycle(""), NOW, HELD, NOW)
    assert after_cycle(held, Cycle(""), NOW, LOST, NOW).held == HELD["held"]
    assert after_cycle(held, Cycle(""), NOW, DONE, NOW).held is None


def test_an_error_has_the_doors_word_or_a_class_and_a_bounded_text() -> None:
    refused = after_cycle(Done(), Cycle(""), NOW, {"ok": False, "refused": "LowerEpoch", "error": "x" * 999}, NOW)
    assert refused.error is not None
    assert (refused.error["class"], len(refused.error["message"])) == ("LowerEpoch", 300)
    assert after_cycle(Done(), Cycle(""), NOW, {"ok": False}, NOW).error["class"] == "Ours"  # type: ignore[index]


# --- when to speak ------------------------------------------------------------------------------------------------


def told(done: Done, phase: str = "Idle", now: float = NOW) -> dict[str, Any]:
    return report(done, 4, phase, now)


def test_the_first_word_is_news() -> None:
    assert is_news(None, told(Done()), NOW)


def test_what_only_moves_on_is_told_once_a_minute() -> None:
    first = after_cycle(Done(), Cycle(""), NOW, DONE, NOW)
    later = after_cycle(first, Cycle(""), NOW + 30, {**DONE, "startedTime": 30.0, "files": 99}, NOW + 30)
    assert not is_news(told(first), told(later), NOW + 30)
    assert is_news(told(first), told(later), NOW + REPORT_SECONDS)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Done(), after_cycle(Done(), Cycle(""), NOW, DONE, NOW)),
        (Done(), after_cycle(Done(), Cycle(""), NOW, LOST, NOW)),
        (Done(), after_cycle(Done(), Cycle(""), NOW, HELD, NOW)),
        (after_cycle(Done(), Cycle(""), NOW, LOST, NOW), after_cycle(Done(), Cycle(""), NOW, {"ok": False}, NOW)),
        (after_cycle(Done(), Cycle(""), NOW, LOST, NOW), after_cycle(Done(), Cycle(""), NOW, DONE, NOW)),
        (Done(), Done(cycle_answered="r")),
        (Done(restore={"id": "a", "state": "Running"}), Done(restore={"id": "a", "state": "Done"})),
        (Done(restore={"id": "a", "state": "Done"}), Done(restore={"id": "b", "state": "Running"})),
    ],
)
def test_what_somebody_waits_for_is_told_at_once(before: Done, after: Done) -> None:
    assert is_news(told(before), told(after), NOW)


def test_a_restores_progress_is_told_once_a_second() -> None:
    begun = Done(restore={"id": "a", "state": "Running", "bytes": 0})
    moved = Done(restore={"id": "a", "state": "Running", "bytes": 9})
    assert not is_news(told(begun, "Restoring"), told(moved, "Restoring"), NOW + 0.5)
    assert is_news(told(begun, "Restoring"), told(moved, "Restoring"), NOW + 1.0)


def test_a_request_that_failed_says_so() -> None:
    done = after_cycle(Done(), Cycle("r"), NOW, LOST, NOW)
    assert (told(done)["cycleAnswered"], told(done)["cycleOutcome"]) == ("r", "Failed")
    assert told(Done())["cycleOutcome"] is None
