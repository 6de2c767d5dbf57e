"""Is the GPU machine alive? A pure reading of all the evidence (I4).

Dead needs two unlike witnesses: our own probes, failed as often as asked, and the standby's word that it cannot
reach the machine either (or the provider's word that it ended), while a canary proves that our own way out works.
Anything less is Suspect or Unknown, and those change nothing outside.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from gpu_standby.api.spec import ProbeSpec
from gpu_standby.core.evidence import (
    GpuHealth,
    ProberState,
    ProviderStatement,
    ProviderWord,
    Sample,
    StandbySample,
    Witness,
)

STANDBY_SILENCE_SECONDS = 10.0
"""A standby that has not answered for so long while we ask it every second is no place to flip to."""
CANARY_SILENCE_SECONDS = 15.0
"""With no canary answering for so long our own way out is in doubt, whatever the pairs say."""


class VerdictKind(StrEnum):
    ALIVE = "Alive"
    SUSPECT = "Suspect"
    GRAY = "Gray"
    DEAD = "Dead"
    UNKNOWN = "Unknown"


class VerdictReason(StrEnum):
    ANSWERS = "Answers"
    NOT_PROBED = "NotProbed"
    PROBE_MISSED = "ProbeMissed"
    STANDBY_REACHES_IT = "StandbyReachesIt"
    WAITING_FOR_WITNESS = "WaitingForWitness"
    STANDBY_UNREACHABLE = "StandbyUnreachable"
    NO_CANARY_ANSWERS = "NoCanaryAnswers"
    PROBER_DISTRUSTED = "ProberDistrusted"
    LOST_BY_ALL = "LostByAll"
    PROVIDER_SAYS_ENDED = "ProviderSaysEnded"
    ANOTHER_HOST_KEY = "AnotherHostKey"
    GPU_FAILS = "GpuFails"
    GPU_HANGS = "GpuHangs"


@dataclass(frozen=True)
class Evidence:
    samples: tuple[Sample, ...] = ()
    """Ours, in order of their end."""
    late_answer: float = 0.0
    """When the held session last gave an answer, in time or not."""
    witnesses: tuple[Witness, ...] = ()
    provider: ProviderStatement | None = None
    standby: StandbySample | None = None
    """The newest answer (or silence) of the standby's agent."""
    standby_answered: float = 0.0
    prober: ProberState = field(default_factory=ProberState)


@dataclass(frozen=True)
class Verdict:
    kind: VerdictKind
    reason: VerdictReason
    since: float = 0.0
    """End of the first miss of the present silence; 0 while there is none."""
    misses: int = 0
    evidence: tuple[str, ...] = ()

    @property
    def is_silent(self) -> bool:
        return self.misses > 0


def prober_healthy(prober: ProberState, now: float) -> bool:
    """May our own misses be believed at all?"""
    if now < prober.distrusted_until:
        return False
    if not prober.canaries:
        return True
    failing = prober.last_canary_failure > prober.last_canary_time
    return not (failing and now - prober.last_canary_time > CANARY_SILENCE_SECONDS)


def last_sign_of_life(evidence: Evidence) -> float:
    answered = [sample.finished for sample in evidence.samples if sample.outcome.is_sign_of_life]
    return max([*answered, evidence.late_answer], default=0.0)


def misses_since_life(evidence: Evidence) -> tuple[Sample, ...]:
    """A probe that was sent before the last sign of life says nothing about what came after it."""
    life = last_sign_of_life(evidence)
    return tuple(sample for sample in evidence.samples if sample.outcome.is_miss and sample.started >= life)


def judge(evidence: Evidence, probe: ProbeSpec, now: float) -> Verdict:
    misses = misses_since_life(evidence)
    if not misses:
        return _judge_answering(evidence)
    since = min(miss.finished for miss in misses)
    silence = min(miss.started for miss in misses)
    told = _tell(evidence, misses, silence)

    def verdict(kind: VerdictKind, reason: VerdictReason) -> Verdict:
        return Verdict(kind, reason, since, len(misses), told)

    if now < evidence.prober.distrusted_until:
        return verdict(VerdictKind.UNKNOWN, VerdictReason.PROBER_DISTRUSTED)
    if len(misses) < probe.failure_threshold:
        return verdict(VerdictKind.SUSPECT, VerdictReason.PROBE_MISSED)
    if evidence.prober.last_canary_time < silence:
        return verdict(VerdictKind.UNKNOWN, VerdictReason.NO_CANARY_ANSWERS)
    if now - evidence.standby_answered > STANDBY_SILENCE_SECONDS:
        return verdict(VerdictKind.UNKNOWN, VerdictReason.STANDBY_UNREACHABLE)
    words = [word for word in evidence.witnesses if word.finished >= silence]
    if any(word.outcome.is_sign_of_life for word in words if word.started >= silence):
        return verdict(VerdictKind.SUSPECT, VerdictReason.STANDBY_REACHES_IT)
    if any(word.outcome.is_miss and word.started >= silence for word in words):
        strange = any(miss.presented_key for miss in misses)
        return verdict(VerdictKind.DEAD, VerdictReason.ANOTHER_HOST_KEY if strange else VerdictReason.LOST_BY_ALL)
    provider = evidence.provider
    if provider is not None and provider.time >= silence and provider.word is ProviderWord.ENDED:
        return verdict(VerdictKind.DEAD, VerdictReason.PROVIDER_SAYS_ENDED)
    return verdict(VerdictKind.SUSPECT, VerdictReason.WAITING_FOR_WITNESS)


def _judge_answering(evidence: Evidence) -> Verdict:
    answers = [sample for sample in evidence.samples if sample.outcome.is_sign_of_life]
    if not answers:
        return Verdict(VerdictKind.UNKNOWN, VerdictReason.NOT_PROBED)
    match answers[-1].health:
        case GpuHealth.FAILED:
            return Verdict(VerdictKind.GRAY, VerdictReason.GPU_FAILS, evidence=(answers[-1].detail,))
        case GpuHealth.HUNG:
            return Verdict(VerdictKind.GRAY, VerdictReason.GPU_HANGS, evidence=(answers[-1].detail,))
        case GpuHealth.OK | GpuHealth.MISSING | GpuHealth.UNKNOWN:
            return Verdict(VerdictKind.ALIVE, VerdictReason.ANSWERS)


def _tell(evidence: Evidence, misses: tuple[Sample, ...], silence: float) -> tuple[str, ...]:
    """The evidence as sentences for `status.lastFailover.evidence`, oldest first, times relative to the silence."""
    lines = [
        f"+{miss.finished - silence:.1f}s probe{'' if miss.held else ' (fresh connection)'}: "
        f"{miss.outcome}{' ' + miss.detail if miss.detail else ''}"
        for miss in misses[:8]
    ]
    lines += [
        f"+{word.finished - silence:.1f}s standby: {word.outcome}{' ' + word.detail if word.detail else ''}"
        for word in evidence.witnesses
        if word.finished >= silence
    ][-4:]
    if evidence.provider is not None and evidence.provider.time >= silence:
        lines.append(
            f"+{evidence.provider.time - silence:.1f}s provider: {evidence.provider.word} {evidence.provider.detail}"
        )
    if evidence.prober.last_canary_time >= silence:
        lines.append(f"+{evidence.prober.last_canary_time - silence:.1f}s canary answered")
    return tuple(line.strip()[:256] for line in lines)


def shortest_deciding_silence(probe: ProbeSpec) -> float:
    """Seconds of silence below which no decision is possible: the first probe must be given up, then the last
    confirmation, which is sent `failureThreshold - 2` confirmation periods later, as well."""
    return probe.timeout_seconds * 2 + probe.confirm_period_seconds * (probe.failure_threshold - 2)
