"""A plan in the making: the status as it will be written, and what is intended once it is."""

from typing import Any

from gpu_standby.api import conditions
from gpu_standby.api.conditions import ReplacementCondition
from gpu_standby.api.pair import GpuStandbyPair
from gpu_standby.api.replacement import Attempt, OutcomeOfAttempt, ReplacementPhase, ReplacementStatus
from gpu_standby.core.market import Instance, InstanceList
from gpu_standby.core.rental import Announce, Destroy, Intent, Look, Memory, Observation, Plan

LONG_SECONDS = 60.0
REPEAT_SECONDS = 5.0
"""Between two tries of one command at the provider."""


class Draft:
    """Mutable, and never leaves core: `plan()` makes one and returns what has become of it."""

    def __init__(self, observation: Observation, now: float) -> None:
        self.observation = observation
        self.now = now
        self.status: ReplacementStatus = observation.replacement.status
        self.intents: list[Intent] = []
        self.requeue = LONG_SECONDS

    @property
    def memory(self) -> Memory:
        return self.observation.memory

    @property
    def instances(self) -> InstanceList | None:
        return self.memory.instances

    @property
    def pair(self) -> GpuStandbyPair:
        """Only where the plan has made sure that there is one."""
        assert self.observation.pair is not None  # noqa: S101
        return self.observation.pair

    @property
    def attempt(self) -> Attempt | None:
        """The newest."""
        return self.status.attempts[-1] if self.status.attempts else None

    def update(self, **fields: Any) -> None:
        for key, limit in (("message", 1024), ("progress", 64), ("offer_name", 128), ("gpu_name", 64)):
            if key in fields:
                fields[key] = fields[key][:limit]
        self.status = self.status.model_copy(update=fields)

    def phase(self, phase: ReplacementPhase, message: str) -> None:
        self.update(phase=phase, message=message)

    def change(self, attempt: Attempt, **fields: Any) -> Attempt:
        if "message" in fields:
            fields["message"] = fields["message"][:256]
        changed = attempt.model_copy(update=fields)
        attempts = [changed if a.number == attempt.number else a for a in self.status.attempts]
        self.update(attempts=attempts)
        return changed

    def condition(self, kind: ReplacementCondition, done: bool, reason: str, message: str) -> None:
        self.update(
            conditions=list(
                conditions.put(
                    self.status.conditions,
                    kind,
                    "True" if done else "False",
                    reason,
                    message,
                    now=self.now,
                    generation=self.observation.replacement.metadata.generation,
                )
            )
        )

    def is_true(self, kind: ReplacementCondition) -> bool:
        return conditions.is_true(self.status.conditions, kind)

    def since(self, kind: ReplacementCondition) -> float:
        """When a condition last changed; now, when it has never been set."""
        found = conditions.find(self.status.conditions, kind)
        return found.last_transition_time if found is not None else self.now

    def intend(self, intent: Intent) -> None:
        self.intents.append(intent)

    def announce(self, reason: str, message: str, *, warning: bool = False) -> None:
        self.intents.append(Announce(reason, message[:1000], warning))

    def again(self, seconds: float) -> None:
        self.requeue = min(self.requeue, max(seconds, 0.0))

    # --- the provider ---------------------------------------------------------------------------------

    @property
    def provider_ready(self) -> bool:
        """False while a trouble says to wait; then the plan asks nothing of the provider."""
        trouble = self.memory.trouble
        if trouble is None or self.now >= trouble.until:
            return True
        self.again(trouble.until - self.now)
        return False

    def look(self, oldest: float) -> InstanceList | None:
        """A complete list that began at or after `oldest`; None: there is none yet, and one is asked for."""
        seen = self.instances
        if seen is not None and seen.time >= oldest:
            return seen
        if self.provider_ready and Look() not in self.intents:
            self.intents.append(Look())
        return None

    def look_within(self, seconds: float) -> InstanceList | None:
        """The newest list, refreshed every `seconds`."""
        seen = self.instances
        if seen is None or self.now >= seen.time + seconds:
            self.look(self.now - seconds)
        else:
            self.again(seen.time + seconds - self.now)
        return seen

    def destroy(self, contract: int) -> None:
        sent = self.memory.destroys_sent.get(contract)
        if sent is not None and self.now < sent + REPEAT_SECONDS:
            self.again(sent + REPEAT_SECONDS - self.now)
        elif self.provider_ready and Destroy(contract) not in self.intents:
            self.intents.append(Destroy(contract))

    def fail(self, attempt: Attempt, reason: str, message: str, contract: int = 0) -> Attempt:
        """The machine of this attempt (if there is one) is unfit: it is to be destroyed, then the next offer."""
        what = f"attempt {attempt.number} ({attempt.offer_id} on machine {attempt.machine_id}): {message}"
        self.announce("AttemptFailed", what, warning=True)
        changed = self.change(
            attempt,
            outcome=OutcomeOfAttempt.FAILED,
            reason=reason,
            message=message,
            contract=contract or attempt.contract,
            absent_lists=0,
            last_list_time=None,
            destroy_time=None,
        )
        self.forget_machine()
        self.phase(ReplacementPhase.SEARCHING, what)
        for kind in ReplacementCondition:
            if self.is_true(kind):
                self.condition(kind, False, reason, message)
        self.again(0.0)
        return changed

    def forget_machine(self) -> None:
        self.update(
            provider_id="",
            address="",
            ssh_port=0,
            ports={},
            host_key="",
            gpu_name="",
            offer_name="",
            price_per_hour="",
            restore=None,
            progress="",
        )

    def machine(self, contract: int) -> Instance | None:
        return self.instances.by_contract(contract) if self.instances is not None else None

    def relocate(self, machine: Instance) -> None:
        """Address and ports change when a machine restarts. The host key does not: it proves that it is the same."""
        if machine.address and machine.ssh_port is not None:
            self.update(
                address=machine.address,
                ssh_port=machine.ssh_port,
                ports={str(inside): outside for inside, outside in machine.ports},
            )

    def plan(self, *, released: bool = False, waiting: str = "") -> Plan:
        return Plan(self.status, tuple(self.intents), self.requeue, released, waiting)
