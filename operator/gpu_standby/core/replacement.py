"""The plan of one GpuReplacement: observation in, status and intents out. Pure; the phases have a module each.

Searching → (AwaitingApproval) → Renting → Booting → Restoring → Verifying → Ready; any failure of a machine leads
back to Searching, with the machine destroyed with proof before another is rented (I6).
"""

from typing import assert_never

from gpu_standby.api.conditions import ReplacementCondition
from gpu_standby.api.replacement import OutcomeOfAttempt, ReplacementPhase, Why
from gpu_standby.core.booting import boot
from gpu_standby.core.draft import LONG_SECONDS, Draft
from gpu_standby.core.ending import destroy_strays, end
from gpu_standby.core.rental import Observation, Plan, TroubleKind
from gpu_standby.core.renting import NEVER_APPEARED, rent
from gpu_standby.core.restoring import ready, restore
from gpu_standby.core.retirement import release
from gpu_standby.core.searching import await_approval, search

NO_PAIR_SECONDS = 5.0


def plan(observation: Observation, now: float) -> Plan:
    draft = Draft(observation, now)
    draft.update(observed_generation=observation.replacement.metadata.generation)
    if observation.replacement.metadata.deletion_timestamp is not None:
        return release(draft)
    if observation.pair is None or observation.pair.metadata.deletion_timestamp is not None:
        # Owned by the pair: its deletion comes here too. Until then nothing is rented, and nothing is decided.
        draft.update(message=f"the pair {observation.replacement.spec.pair} is not there (any more)")
        draft.again(NO_PAIR_SECONDS)
        return draft.plan()
    destroy_strays(draft)
    failed = [a for a in draft.status.attempts if a.outcome is OutcomeOfAttempt.FAILED]
    if [attempt for attempt in failed if not end(draft, attempt)]:
        # Never two live machines by accident: the next is rented when this one is proven gone.
        pass
    else:
        _step(draft)
    _say_trouble(draft)
    return draft.plan()


PLANNED_REFUSAL = (
    "a planned move from one GPU to another does not work yet, so nothing is rented; delete this object. To leave a "
    "GPU on purpose: gpustandby.dev/failover= on the pair"
)


def _step(draft: Draft) -> None:
    match draft.status.phase:
        case ReplacementPhase.SEARCHING if draft.observation.replacement.spec.why is Why.PLANNED:
            # Refused before it costs anything: the pair would not move to what was rented.
            draft.phase(ReplacementPhase.FAILED, PLANNED_REFUSAL)
        case ReplacementPhase.SEARCHING:
            search(draft)
        case ReplacementPhase.AWAITING_APPROVAL:
            await_approval(draft)
        case ReplacementPhase.RENTING:
            rent(draft)
        case ReplacementPhase.BOOTING:
            boot(draft)
        case ReplacementPhase.RESTORING | ReplacementPhase.VERIFYING:
            restore(draft)
        case ReplacementPhase.READY:
            ready(draft)
        case ReplacementPhase.FAILED | ReplacementPhase.CALLED_OFF:
            if any(a.reason == NEVER_APPEARED for a in draft.status.attempts):
                # A machine of a lost create that appears after all is found by its label, and destroyed.
                draft.look_within(LONG_SECONDS)
        case _:
            assert_never(draft.status.phase)


def _say_trouble(draft: Draft) -> None:
    """Why it does not go on, where people look for it; the Ready condition always says where it stands."""
    status, trouble = draft.status, draft.memory.trouble
    if status.phase is ReplacementPhase.READY:
        return
    if trouble is None:
        draft.condition(ReplacementCondition.READY, False, status.phase.value, status.message)
        return
    if trouble.kind is not TroubleKind.UNREACHABLE or trouble.count > 1:
        text = f"{trouble.text}. {_REMEDY[trouble.kind]}"
        draft.update(message=text)
        draft.condition(ReplacementCondition.READY, False, trouble.kind.value, text)


_REMEDY = {
    TroubleKind.UNREACHABLE: "Asked again by itself.",
    TroubleKind.KEY_REJECTED: "Put a valid API key into the Secret named by gpu.vast.apiKeySecretRef.",
    TroubleKind.SECRET_MISSING: "Make the Secret; it is looked for every few seconds.",
    TroubleKind.NO_CREDIT: "Pay in at Vast.ai; it is asked again by itself.",
}
