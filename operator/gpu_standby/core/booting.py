"""Booting: from "rented" to a machine that runs, lets us in, has a healthy GPU and can be synced.

The limit is `recovery.bootTimeoutSeconds` from the Rented condition. Until then nothing but certain death (broken at
boot, gone, a sick GPU) ends it: rented machines say `exited`, `unknown` or nothing at all on their way up.
"""

from gpu_standby.api.conditions import ReplacementCondition
from gpu_standby.api.replacement import Attempt, OutcomeOfAttempt, ReplacementPhase
from gpu_standby.core.draft import Draft
from gpu_standby.core.evidence import MachineAddress
from gpu_standby.core.market import Instance, InstanceState
from gpu_standby.core.rental import AttachKey, Greet, Inspect, Inspection, InspectionKind
from gpu_standby.core.renting import mismatch, vanished
from gpu_standby.core.searching import offer_spec

USER = "root"
"""Vast.ai's."""
POLL_SECONDS = 1.0
CONTACT_SECONDS = 0.5
"""Between two tries to be let in, which ask nothing of the provider."""
KEY_AGAIN_SECONDS = 15.0
"""An attached key needs 10-15 s to arrive; it also gets lost: so it is attached again when we are not let in."""
SICK_LOOKS = 2
STANDBY_KEY_SECONDS = 900.0
"""How long a booted, paid machine waits for the standby to have a transfer key."""


def boot(draft: Draft) -> None:
    attempt = draft.attempt
    if attempt is None or attempt.outcome is not OutcomeOfAttempt.RENTED:
        draft.phase(ReplacementPhase.RENTING, "")
        draft.again(0.0)
        return
    inspection = _inspection(draft, attempt)
    deadline = draft.since(ReplacementCondition.RENTED) + draft.pair.spec.recovery.boot_timeout_seconds
    healthy = inspection is not None and inspection.kind is InspectionKind.HEALTHY
    if draft.now >= deadline and not healthy:
        text = f"not usable within {draft.pair.spec.recovery.boot_timeout_seconds} s: {draft.status.message}"
        draft.fail(attempt, "BootTimeout", text)
        return
    draft.look_within(POLL_SECONDS)
    machine = draft.machine(attempt.contract)
    if vanished(draft, attempt):
        draft.fail(attempt, "Vanished", f"machine {attempt.contract} is not listed any more")
        return
    if machine is None:
        return
    ended = _ended(draft, machine)
    if ended:
        draft.fail(attempt, *ended)
        return
    wrong = mismatch(draft, machine)
    if wrong:
        draft.fail(attempt, "Mismatch", wrong)
        return
    attach(draft, machine.contract, again=inspection is not None and inspection.kind is InspectionKind.AUTH_FAILED)
    if machine.state is not InstanceState.RUNNING or not machine.address or machine.ssh_port is None:
        what = machine.status_text.splitlines()[-1] if machine.status_text else machine.state.value
        draft.phase(ReplacementPhase.BOOTING, f"machine {machine.contract} is booting: {what}"[:300])
        return
    draft.relocate(machine)
    _contact(draft, attempt, machine, inspection)


def address(draft: Draft) -> MachineAddress:
    status = draft.status
    return MachineAddress(
        provider_id=status.provider_id,
        host=status.address,
        port=status.ssh_port,
        user=USER,
        host_key=status.host_key,
        ports=tuple(sorted((int(inside), outside) for inside, outside in status.ports.items())),
    )


def transfer_key(draft: Draft) -> str:
    standbys = draft.pair.status.standbys
    return standbys[0].transfer_key if standbys else ""


def _inspection(draft: Draft, attempt: Attempt) -> Inspection | None:
    seen = draft.memory.inspection
    return seen if seen is not None and seen.contract == attempt.contract else None


def _ended(draft: Draft, machine: Instance) -> tuple[str, str] | None:
    """Two different lists must say it: single answers have been wrong."""
    before = draft.memory.before.by_contract(machine.contract) if draft.memory.before is not None else None
    if before is None or before.state is not machine.state:
        return None
    said = f": {machine.status_text}" if machine.status_text else ""
    match machine.state:
        case InstanceState.BROKEN:
            return "Broken", f"it died at boot{said}"
        case InstanceState.STOPPED:
            return "Stopped", f"it was stopped before it ran (outbid, or its host's listing ended){said}"
        case InstanceState.ENDING:
            return "Ending", "somebody is destroying it"
        case InstanceState.BOOTING | InstanceState.RUNNING | InstanceState.OFFLINE | InstanceState.UNKNOWN:
            return None


def attach(draft: Draft, contract: int, *, again: bool) -> None:
    """The operator's key, and the one made on the standby's disk; again when we are not let in."""
    for key in (draft.observation.public_key, transfer_key(draft)):
        if not key:
            continue
        sent = draft.memory.keys_sent.get((contract, key))
        if (sent is None or (again and draft.now >= sent + KEY_AGAIN_SECONDS)) and draft.provider_ready:
            draft.intend(AttachKey(contract, key))


def _contact(draft: Draft, attempt: Attempt, machine: Instance, inspection: Inspection | None) -> None:
    host, port = machine.address, machine.ssh_port or 0
    if not draft.status.host_key:
        greeting = draft.memory.greeting
        if greeting is not None and (greeting.contract, greeting.host, greeting.port) == (attempt.contract, host, port):
            if greeting.key:
                draft.update(host_key=greeting.key)
                draft.announce("HostKeyPinned", f"machine {machine.contract} presents {greeting.key[:200]}")
                draft.again(0.0)
                return
            draft.phase(ReplacementPhase.BOOTING, f"machine {machine.contract} runs; no SSH yet: {greeting.text}")
            if draft.now < greeting.time + CONTACT_SECONDS:
                draft.again(greeting.time + CONTACT_SECONDS - draft.now)
                return
        draft.intend(Greet(machine.contract, host, port))
        return
    if inspection is None:
        draft.phase(ReplacementPhase.BOOTING, f"machine {machine.contract} answers SSH; checking its GPU")
        _inspect(draft, machine)
        return
    match inspection.kind:
        case InspectionKind.HEALTHY:
            _booted(draft, attempt, machine)
            return
        case InspectionKind.SICK if inspection.times_sick >= SICK_LOOKS:
            draft.fail(attempt, "SickGpu", f"sick GPU: {inspection.text}")
            return
        case InspectionKind.SICK:
            text = f"its GPU looks sick, looking again: {inspection.text}"
        case InspectionKind.AUTH_FAILED:
            text = f"it does not know our key yet: {inspection.text}"
        case InspectionKind.NOT_YET:
            text = inspection.text
    draft.phase(ReplacementPhase.BOOTING, f"machine {machine.contract}: {text}")
    if draft.now < inspection.time + CONTACT_SECONDS:
        draft.again(inspection.time + CONTACT_SECONDS - draft.now)
    else:
        _inspect(draft, machine)


def _inspect(draft: Draft, machine: Instance) -> None:
    spec = offer_spec(draft)
    count = spec.gpu_count if spec is not None else 1
    draft.intend(Inspect(machine.contract, address(draft), draft.pair.spec.workspace.path, count))


def _booted(draft: Draft, attempt: Attempt, machine: Instance) -> None:
    text = f"machine {machine.contract} runs at {machine.address}:{machine.ssh_port} and its GPU answers"
    if not draft.is_true(ReplacementCondition.BOOTED):
        draft.condition(ReplacementCondition.BOOTED, True, "Booted", text)
        draft.announce("Booted", text)
    key = transfer_key(draft)
    if not key or (machine.contract, key) not in draft.memory.keys_sent:
        # Without it the standby can neither restore nor sync.
        if draft.now >= draft.since(ReplacementCondition.BOOTED) + STANDBY_KEY_SECONDS:
            draft.fail(attempt, "NoTransferKey", "the standby has no transfer key: is the standby running?")
            return
        draft.phase(ReplacementPhase.BOOTING, f"{text}; waiting for the standby's transfer key")
        draft.again(POLL_SECONDS)
        return
    draft.condition(ReplacementCondition.RESTORED, False, "Restoring", "")
    draft.phase(ReplacementPhase.RESTORING, text)
    draft.again(0.0)
