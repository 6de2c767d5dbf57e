"""I4: no false death."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_standby.api.spec import ProbeSpec
from gpu_standby.core.evidence import (
    GpuHealth,
    Outcome,
    ProberState,
    ProviderStatement,
    ProviderWord,
    Sample,
    Witness,
)
from gpu_standby.core.verdict import (
    Evidence,
    VerdictKind,
    VerdictReason,
    judge,
    prober_healthy,
    shortest_deciding_silence,
)

PROBE = ProbeSpec()
T = 1000.0
ALIVE = Sample(T, T + 0.1, Outcome.ANSWERED)


def miss(at: float, outcome: Outcome = Outcome.TIMED_OUT, took: float = 2.0) -> Sample:
    return Sample(at, at + took, outcome, held=False)


SILENT = (ALIVE, miss(T + 5), miss(T + 7), miss(T + 8))
CANARY = ProberState(last_canary_time=T + 7.5, canaries=("canary:443",))
LOST = (Witness(T + 7, T + 9, Outcome.TIMED_OUT),)
NOW = T + 10
DEAD = Evidence(samples=SILENT, witnesses=LOST, standby_answered=T + 9.5, prober=CANARY)


def test_a_silent_gpu_is_dead_once_the_standby_has_lost_it_too_and_a_canary_answers() -> None:
    verdict = judge(DEAD, PROBE, NOW)
    assert (verdict.kind, verdict.reason) == (VerdictKind.DEAD, VerdictReason.LOST_BY_ALL)
    assert verdict.since == T + 7
    assert any("standby: TimedOut" in line for line in verdict.evidence)


def test_a_machine_that_answers_is_alive() -> None:
    assert judge(Evidence(samples=(ALIVE,)), PROBE, NOW).kind is VerdictKind.ALIVE


def test_before_the_first_probe_nothing_is_known() -> None:
    assert judge(Evidence(), PROBE, NOW).kind is VerdictKind.UNKNOWN


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_lost_probes_are_a_suspicion(count: int) -> None:
    verdict = judge(replace(DEAD, samples=SILENT[: count + 1]), PROBE, NOW)
    assert verdict.kind is VerdictKind.SUSPECT


def test_without_a_canary_since_the_silence_began_nothing_is_known() -> None:
    verdict = judge(replace(DEAD, prober=replace(CANARY, last_canary_time=T + 4.9)), PROBE, NOW)
    assert (verdict.kind, verdict.reason) == (VerdictKind.UNKNOWN, VerdictReason.NO_CANARY_ANSWERS)


def test_a_standby_that_reaches_the_gpu_keeps_it_a_suspicion() -> None:
    words = (*LOST, Witness(T + 8, T + 8.2, Outcome.ANSWERED))
    verdict = judge(replace(DEAD, witnesses=words), PROBE, NOW)
    assert (verdict.kind, verdict.reason) == (VerdictKind.SUSPECT, VerdictReason.STANDBY_REACHES_IT)


def test_without_the_standbys_word_it_stays_a_suspicion() -> None:
    verdict = judge(replace(DEAD, witnesses=()), PROBE, NOW)
    assert verdict.reason is VerdictReason.WAITING_FOR_WITNESS


def test_an_old_word_of_the_standby_does_not_count() -> None:
    verdict = judge(replace(DEAD, witnesses=(Witness(T + 1, T + 3, Outcome.TIMED_OUT),)), PROBE, NOW)
    assert verdict.kind is VerdictKind.SUSPECT


def test_the_providers_word_is_a_second_witness_and_its_silence_is_no_opinion() -> None:
    ended = ProviderStatement(T + 8, ProviderWord.ENDED, "offline")
    nothing = ProviderStatement(T + 8, ProviderWord.NO_OPINION)
    assert judge(replace(DEAD, witnesses=(), provider=ended), PROBE, NOW).kind is VerdictKind.DEAD
    assert judge(replace(DEAD, witnesses=(), provider=nothing), PROBE, NOW).kind is VerdictKind.SUSPECT


def test_with_the_standby_unreachable_too_there_is_nowhere_to_go() -> None:
    verdict = judge(replace(DEAD, standby_answered=T - 20), PROBE, NOW)
    assert (verdict.kind, verdict.reason) == (VerdictKind.UNKNOWN, VerdictReason.STANDBY_UNREACHABLE)


def test_a_prober_that_stood_still_testifies_to_nothing() -> None:
    prober = replace(CANARY, distrusted_until=NOW + 1)
    assert judge(replace(DEAD, prober=prober), PROBE, NOW).reason is VerdictReason.PROBER_DISTRUSTED
    assert not prober_healthy(prober, NOW)


def test_a_late_answer_on_the_held_session_is_a_sign_of_life() -> None:
    assert judge(replace(DEAD, late_answer=T + 8.5), PROBE, NOW).kind is VerdictKind.ALIVE


def test_a_confirmation_sent_before_a_later_answer_says_nothing() -> None:
    answered = Sample(T + 8.5, T + 8.6, Outcome.ANSWERED, held=False)
    samples = (ALIVE, miss(T + 5), miss(T + 7), answered, miss(T + 8))
    assert judge(replace(DEAD, samples=samples), PROBE, NOW).kind is VerdictKind.ALIVE


def test_a_refused_key_means_that_the_machine_is_there() -> None:
    rejected = Sample(T + 9, T + 9.1, Outcome.AUTH_FAILED)
    assert judge(replace(DEAD, samples=(*SILENT, rejected)), PROBE, NOW).kind is VerdictKind.ALIVE


def test_another_host_key_is_named_as_the_reason() -> None:
    strange = Sample(T + 8, T + 8.1, Outcome.WRONG_HOST_KEY, presented_key="ssh-ed25519 AAAA")
    assert judge(replace(DEAD, samples=(*SILENT, strange)), PROBE, NOW).reason is VerdictReason.ANOTHER_HOST_KEY


@pytest.mark.parametrize("health", [GpuHealth.FAILED, GpuHealth.HUNG])
def test_a_sick_gpu_on_a_machine_that_answers_is_gray(health: GpuHealth) -> None:
    sample = Sample(T, T + 0.1, Outcome.ANSWERED, health=health)
    assert judge(Evidence(samples=(sample,)), PROBE, NOW).kind is VerdictKind.GRAY


def test_the_shortest_silence_that_can_decide_follows_from_the_settings() -> None:
    assert shortest_deciding_silence(PROBE) == 5
    assert shortest_deciding_silence(ProbeSpec(failure_threshold=5, confirm_period_seconds=2, timeout_seconds=3)) == 12


def test_canaries_that_fail_for_long_put_the_prober_in_doubt() -> None:
    failing = ProberState(last_canary_time=T, last_canary_failure=T + 16, canaries=("c:1",))
    assert not prober_healthy(failing, T + 16)
    assert prober_healthy(ProberState(), T)


samples = st.builds(
    Sample,
    started=st.floats(T, T + 20),
    finished=st.floats(T, T + 20),
    outcome=st.sampled_from(Outcome),
    held=st.booleans(),
)
witnesses = st.builds(
    Witness, started=st.floats(T, T + 20), finished=st.floats(T, T + 20), outcome=st.sampled_from(Outcome)
)


@given(
    st.lists(samples, max_size=8),
    st.lists(witnesses, max_size=4),
    st.floats(T - 50, T + 20),
    st.floats(T - 50, T + 20),
)
def test_dead_is_never_said_on_less_than_two_unlike_witnesses_and_a_canary(
    ours: list[Sample], theirs: list[Witness], canary: float, standby: float
) -> None:
    evidence = Evidence(
        samples=tuple(ours),
        witnesses=tuple(theirs),
        standby_answered=standby,
        prober=ProberState(last_canary_time=canary, canaries=("c:1",)),
    )
    if judge(evidence, PROBE, T + 21).kind is VerdictKind.DEAD:
        misses = [sample for sample in ours if sample.outcome.is_miss]
        first = min(sample.started for sample in misses)
        assert len(misses) >= PROBE.failure_threshold
        assert any(word.outcome.is_miss for word in theirs)
        assert canary >= first
        assert standby > T
        last_life = max((s.finished for s in ours if s.outcome.is_sign_of_life), default=0)
        assert all(miss.started >= last_life for miss in sorted(misses, key=lambda m: m.started)[-3:])
