"""No more machines in an hour than the installation's limit."""

from hypothesis import given
from hypothesis import strategies as st

from gpu_standby.api.replacement import Attempt, GpuReplacement, OutcomeOfAttempt
from gpu_standby.core.budget import WINDOW_SECONDS, Budget, budget

NOW = 1_800_000_000.0


def replacement(*attempts: tuple[float, OutcomeOfAttempt]) -> GpuReplacement:
    return GpuReplacement.model_validate(
        {
            "metadata": {"name": "r", "namespace": "n", "uid": "u"},
            "spec": {"pair": "p"},
            "status": {
                "attempts": [
                    Attempt(number=n, offer_id=n, label="l", started_time=time, outcome=outcome).document()
                    for n, (time, outcome) in enumerate(attempts, 1)
                ]
            },
        }
    )


def test_what_was_certainly_refused_or_is_an_hour_old_does_not_count() -> None:
    found = budget(
        [
            replacement((NOW - 10, OutcomeOfAttempt.REFUSED), (NOW - 10, OutcomeOfAttempt.UNKNOWN)),
            replacement((NOW - 3601, OutcomeOfAttempt.RENTED), (NOW - 5, OutcomeOfAttempt.DESTROYED)),
        ],
        10,
        NOW,
    )
    assert len(found.times) == 2


def test_at_the_limit_the_oldest_has_to_leave_the_window_first() -> None:
    full = Budget(3, (NOW - 3000, NOW - 2000, NOW - 1000, NOW))
    assert full.free_at(NOW) == NOW - 3000 + WINDOW_SECONDS
    assert full.free_at(NOW + 601) == NOW + 601


@given(st.lists(st.floats(0, 20_000), min_size=1, max_size=40), st.integers(1, 12))
def test_no_hour_ever_sees_more_than_the_limit(wishes: list[float], limit: int) -> None:
    sent: list[float] = []
    for wish in sorted(wishes):
        now = max([wish, *sent])
        for _ in range(50):
            free = Budget(limit, tuple(sorted([*sent, now]))).free_at(now)
            if free <= now:
                break
            now = free
        sent.append(now)
    for start in sent:
        assert sum(1 for time in sent if start <= time < start + WINDOW_SECONDS) <= limit
