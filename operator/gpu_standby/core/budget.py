"""How many machines may be created: per installation and hour (I6), and per replacement. Pure.

Counted is what may have been created: an attempt that was certainly refused cost nothing. Both numbers come from the
attempts in all GpuReplacements' status, which are written before a create is sent, so a crash cannot forget one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from gpu_standby.api.replacement import Attempt, GpuReplacement, OutcomeOfAttempt

WINDOW_SECONDS = 3600.0
DEFAULT_CREATES_PER_HOUR = 10


@dataclass(frozen=True)
class Budget:
    limit: int
    times: tuple[float, ...]
    """When each create of the last hour was planned, oldest first; the attempt at hand is among them."""

    def free_at(self, now: float) -> float:
        """From when on the attempt at hand may be sent; `now` or earlier: at once."""
        recent = [time for time in self.times if time > now - WINDOW_SECONDS]
        if self.limit <= 0:
            return now + WINDOW_SECONDS
        if len(recent) <= self.limit:
            return now
        return recent[len(recent) - self.limit - 1] + WINDOW_SECONDS


def budget(replacements: Iterable[GpuReplacement], limit: int, now: float) -> Budget:
    times = (
        attempt.started_time
        for replacement in replacements
        for attempt in replacement.status.attempts
        if attempt.outcome is not OutcomeOfAttempt.REFUSED and attempt.started_time > now - WINDOW_SECONDS
    )
    return Budget(limit, tuple(sorted(times)))


def counts(attempt: Attempt) -> bool:
    """Does it use up one of `recovery.attempts`? An offer that somebody else took says nothing about ours."""
    return attempt.reason != OFFER_GONE


OFFER_GONE = "OfferGone"
