"""Everything the pair's plan looks at, gathered in one moment."""

from dataclasses import dataclass, field
from enum import StrEnum

from gpu_standby.api.pair import GpuStandbyPair, GpuStatus
from gpu_standby.api.replacement import GpuReplacement, ReplacementPhase
from gpu_standby.api.spec import Side
from gpu_standby.core.evidence import MachineAddress, ProberState, StandbySample
from gpu_standby.core.market import InstanceState
from gpu_standby.core.verdict import Verdict, VerdictKind


class ServiceView(StrEnum):
    OURS = "Ours"
    FOREIGN = "Foreign"
    MISSING = "Missing"


@dataclass(frozen=True)
class SliceView:
    epoch: int
    side: Side | None
    address: str
    ports: tuple[tuple[str, int], ...]
    ready: bool


@dataclass(frozen=True)
class Held:
    """Why a sync cycle is held until a human says otherwise."""

    reason: str
    before: int
    after: int
    missing: int


@dataclass(frozen=True)
class SyncReport:
    """The mover's word."""

    epoch: int = 0
    covered_time: float = 0.0
    completed_time: float = 0.0
    duration_seconds: float = 0.0
    files: int = 0
    bytes: int = 0
    manifest: str = ""
    consecutive_failures: int = 0
    error: str = ""
    held: Held | None = None
    cycle_answered: str = ""
    cycle_completed: bool = False
    restore_id: str = ""
    restore_state: str = ""
    restore_manifest: str = ""
    restore_error: str = ""


@dataclass(frozen=True)
class Problem:
    """Something the user has to mend: which condition says it, and how."""

    reason: str
    message: str


@dataclass(frozen=True)
class PairObservation:
    pair: GpuStandbyPair
    verdict: Verdict
    """About the machine in status.gpu."""
    prober: ProberState
    standby: StandbySample | None = None
    """The newest *answer* of the agent, however old."""
    standby_answers: bool = False
    """The newest question was answered."""
    standby_address: str = ""
    standby_running: bool = False
    """The pod is ready (or the existing host answers)."""
    service: ServiceView = ServiceView.MISSING
    endpoint: SliceView | None = None
    report: SyncReport = field(default_factory=SyncReport)
    replacements: tuple[GpuReplacement, ...] = ()
    gpu_machine: MachineAddress | None = None
    """The machine in status.gpu, as it is reached."""
    target_running: bool | None = None
    """Is the workload's process running on the GPU that is being moved to? None: not asked."""
    target_answers: bool | None = None
    """Does the workload's port answer there?"""
    service_answers: bool | None = None
    """Does the active GPU's port answer? None: not asked or no probe configured."""
    service_has_answered: bool = False
    """It has answered once since the machine was last seen to start."""
    fence_state: InstanceState | None = None
    """What the provider's newest complete list says of the former active machine."""
    fence_absent: bool = False
    """Two complete lists did not show it."""
    acts_failed: dict[str, str] = field(default_factory=dict)
    """Class name of an act → its last error, since its step began."""
    problems: tuple[Problem, ...] = ()
    dead_target: bool = False
    """The machine that is being moved to has been judged dead."""
    last_sign_of_life: float = 0.0
    relocated: GpuStatus | None = None
    """The same machine at another address or with other ports: Vast.ai maps anew at every start."""
    presented_key: str = ""
    """The host key that another machine presents at the GPU's address."""
    adopted: GpuStatus | None = None
    """The machine named by gpu.vast.instanceId, once it was found running and let us in."""

    @property
    def standby_sample_is_ours(self) -> bool:
        sample = self.standby
        return sample is not None and sample.has_state and sample.pair_uid == self.pair.metadata.uid

    @property
    def gpu_alive(self) -> bool:
        return self.verdict.kind in (VerdictKind.ALIVE, VerdictKind.GRAY)

    def replacement(self, name: str | None) -> GpuReplacement | None:
        return next((r for r in self.replacements if r.metadata.name == name), None)

    def ready_replacement(self) -> GpuReplacement | None:
        """One that is Ready and not yet the pair's machine."""
        current = self.pair.status.gpu.replacement if self.pair.status.gpu else ""
        return next(
            (
                r
                for r in self.replacements
                if r.status.phase is ReplacementPhase.READY
                and r.metadata.name != current
                and r.metadata.deletion_timestamp is None
            ),
            None,
        )
