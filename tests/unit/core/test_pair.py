"""The pair's plan: what is written and done, in which order."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gpu_standby.api.names import (
    ANNOTATION_ACCEPT_SHRINK,
    ANNOTATION_FAILBACK,
    ANNOTATION_FAILOVER,
    ANNOTATION_PAUSE,
)
from gpu_standby.api.pair import GpuStandbyPair, GpuStatus, MoveReason, MoveStep, PairStatus, Phase, SetAside
from gpu_standby.api.replacement import GpuReplacement, ReplacementPhase, ReplacementStatus, Why
from gpu_standby.api.spec import Side
from gpu_standby.core import acts, moves
from gpu_standby.core.evidence import MachineAddress, Outcome, ProberState, StandbySample
from gpu_standby.core.failover import FailoverReason, failover_possible
from gpu_standby.core.market import InstanceState
from gpu_standby.core.moving import Plan, request_id
from gpu_standby.core.observation import PairObservation, ServiceView, SliceView, SyncReport
from gpu_standby.core.pair import after, collection_name, plan
from gpu_standby.core.reporting import describe, materially_differs
from gpu_standby.core.verdict import Verdict, VerdictKind, VerdictReason

NOW = 10_000.0
ALIVE = Verdict(VerdictKind.ALIVE, VerdictReason.ANSWERS)
DEAD = Verdict(VerdictKind.DEAD, VerdictReason.LOST_BY_ALL, since=NOW - 3, misses=3, evidence=("lost",))
SPEC: dict[str, Any] = {
    "gpu": {
        "vast": {
            "apiKeySecretRef": {"name": "vast", "key": "api-key"},
            "image": "img",
            "offer": {"gpuName": "RTX 4090", "maxPricePerHour": "0.60"},
        },
        "startCommand": "/workspace/serve.sh",
    },
    "standby": {"pod": {"command": ["/workspace/serve-cpu.sh"]}},
    "service": {"name": "trainer", "ports": [{"port": 80, "gpuPort": 8080, "standbyPort": 8080}]},
}
GPU = GpuStatus(
    provider_id="vast://1", address="10.0.0.1", ssh_port=40022, host_key="ssh-ed25519 AAAA", replacement="p-old"
)
MACHINE = MachineAddress("vast://1", "10.0.0.1", 40022, "root", "ssh-ed25519 AAAA", ((22, 40022), (8080, 48080)))


def pair(status: PairStatus, annotations: dict[str, str] | None = None, **spec: Any) -> GpuStandbyPair:
    return GpuStandbyPair.model_validate(
        {
            "metadata": {"name": "p", "namespace": "n", "uid": "uid", "annotations": annotations or {}},
            "spec": {**SPEC, **spec},
            "status": status.document(),
        }
    )


def standby(epoch: int = 4, active: Side = Side.GPU, **more: Any) -> StandbySample:
    base: dict[str, Any] = {
        "pair_uid": "uid",
        "has_state": True,
        "covered_time": NOW - 12,
        "completed_time": NOW - 11,
        "transfer_key": "ssh-ed25519 BBBB",
        "gate": "running 4 7" if active is Side.STANDBY else "stopped",
    }
    return StandbySample(NOW - 1, NOW - 0.9, Outcome.ANSWERED, epoch=epoch, active=active, **{**base, **more})


def seen(status: PairStatus, **more: Any) -> PairObservation:
    base: dict[str, Any] = {
        "pair": pair(status),
        "verdict": ALIVE,
        "prober": ProberState(last_canary_time=NOW),
        "standby": standby(status.epoch, status.active or Side.GPU),
        "standby_answers": True,
        "standby_address": "10.0.0.9",
        "standby_running": True,
        "service": ServiceView.OURS,
        "gpu_machine": MACHINE,
        "target_running": True,
        "endpoint": SliceView(status.epoch, Side.GPU, "10.0.0.1", (("http", 48080),), True)
        if status.active is Side.GPU
        else SliceView(status.epoch, Side.STANDBY, "10.0.0.9", (("http", 8080),), True),
    }
    return PairObservation(**{**base, **more})


ON_GPU = PairStatus(active=Side.GPU, epoch=4, gpu=GPU)
ON_STANDBY = moves.finish(moves.begin(ON_GPU, Side.STANDBY, MoveReason.GPU_LOST, NOW - 100), NOW - 99)


def kinds(planned: Plan) -> list[type]:
    return [type(act) for act in planned.acts if not isinstance(act, acts.Announce | acts.Consume)]


def replacement(
    name: str = "p-new", phase: ReplacementPhase = ReplacementPhase.READY, epoch: int = 5
) -> GpuReplacement:
    return GpuReplacement.model_validate(
        {
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"pair": "p", "why": Why.GPU_LOST, "epoch": epoch},
            "status": ReplacementStatus(
                phase=phase, provider_id="vast://2", address="10.0.0.2", ssh_port=40023, host_key="ssh-ed25519 CCCC"
            ).document(),
        }
    )


def play(start: PairStatus, observe: Callable[[PairStatus], PairObservation], rounds: int = 40) -> list[str]:
    """Let every act succeed until nothing changes; the story as a list of steps and acts."""
    story: list[str] = []
    status = start
    for _ in range(rounds):
        observation = observe(status)
        planned = plan(observation, NOW)
        before, status = status, planned.status
        if status.move is not None and (before.move is None or before.move.step != status.move.step):
            story.append(f"{status.move.step}@{status.epoch}")
        for act in planned.acts:
            changed = after(status, act, NOW, {"files": 0, "bytes": 0})
            if not isinstance(act, acts.Announce | acts.Consume):
                story.append(type(act).__name__)
            if changed != status:
                status = changed
                if status.move is not None:
                    story.append(f"{status.move.step}@{status.epoch}")
                break
        if status == before and not planned.acts:
            break
        if before.move is not None and status.move is None:
            story.append(f"active={status.active}@{status.epoch}")
            break
    return story


def test_a_healthy_pair_is_left_alone() -> None:
    planned = plan(seen(ON_GPU), NOW)
    assert planned == Plan(ON_GPU)


def test_a_new_pair_begins_with_its_gpu_active_at_epoch_one() -> None:
    planned = plan(seen(PairStatus(), standby=None, gpu_machine=None), NOW)
    assert (planned.status.active, planned.status.epoch) == (Side.GPU, 1)


def test_the_first_gpu_is_rented_and_a_fresh_standby_gets_its_record() -> None:
    status = PairStatus(active=Side.GPU, epoch=1)
    empty = StandbySample(NOW, NOW, Outcome.ANSWERED)
    planned = plan(seen(status, standby=empty, gpu_machine=None, endpoint=None), NOW)
    assert kinds(planned) == [acts.InitStandby, acts.Replace]
    assert next(a for a in planned.acts if isinstance(a, acts.Replace)).why is Why.INITIAL


def test_a_failover_writes_the_epoch_first_then_promotes_then_flips() -> None:
    story = play(ON_GPU, lambda status: seen(status, verdict=DEAD))
    assert story == ["Promote@5", "Promote", "Flip@5", "Flip", "active=Standby@5"]


def test_the_flip_is_the_only_thing_that_changes_the_active_side() -> None:
    begun = plan(seen(ON_GPU, verdict=DEAD), NOW).status
    assert begun.active is Side.GPU
    assert begun.epoch == 5
    assert begun.last_failover is not None
    assert begun.last_failover.standby_age_seconds == 12
    assert begun.last_failover.evidence == ["lost"]


@pytest.mark.parametrize("kind", [k for k in VerdictKind if k is not VerdictKind.DEAD])
def test_nothing_less_than_dead_moves_anything(kind: VerdictKind) -> None:
    verdict = Verdict(kind, VerdictReason.PROBE_MISSED, since=NOW - 3, misses=9)
    assert plan(seen(ON_GPU, verdict=verdict), NOW).status.move is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"standby": None, "standby_answers": False}, FailoverReason.STANDBY_UNREACHABLE),
        ({"standby_answers": False}, FailoverReason.STANDBY_UNREACHABLE),
        ({"standby": standby(has_state=False, pair_uid="")}, FailoverReason.STANDBY_EMPTY),
        ({"standby": standby(pair_uid="other")}, FailoverReason.STANDBY_OF_ANOTHER_PAIR),
        ({"standby": standby(epoch=9)}, FailoverReason.STATUS_OLDER_THAN_STANDBY),
        ({"standby": standby(epoch=3)}, FailoverReason.STANDBY_BEHIND),
        ({"standby": standby(covered_time=0.0)}, FailoverReason.NEVER_SYNCED),
        ({"standby": standby(covered_time=NOW - 5000)}, FailoverReason.TOO_OLD),
        ({"pair": pair(ON_GPU, {ANNOTATION_PAUSE: "work"})}, FailoverReason.PAUSED),
    ],
)
def test_a_dead_gpu_is_not_left_for_a_standby_that_would_not_do(
    changes: dict[str, Any], reason: FailoverReason
) -> None:
    observation = seen(ON_GPU, **{"verdict": DEAD, **changes})
    assert failover_possible(observation, NOW).reason == reason
    assert plan(observation, NOW).status.move is None


def test_too_old_a_copy_is_used_only_when_the_loss_was_accepted() -> None:
    old = standby(covered_time=NOW - 5000)
    for accepted, moves_on in (("accept-loss=4000", False), ("accept-loss=6000", True), ("", False)):
        observation = seen(ON_GPU, verdict=DEAD, standby=old, pair=pair(ON_GPU, {ANNOTATION_FAILOVER: accepted}))
        assert (plan(observation, NOW).status.move is not None) is moves_on


def test_manual_mode_waits_for_the_annotation() -> None:
    manual = {"failover": {"mode": "Manual"}}
    assert plan(seen(ON_GPU, verdict=DEAD, pair=pair(ON_GPU, **manual)), NOW).status.move is None
    asked = pair(ON_GPU, {ANNOTATION_FAILOVER: ""}, **manual)
    assert plan(seen(ON_GPU, verdict=DEAD, pair=asked), NOW).status.move is not None


def test_a_failover_asked_for_on_a_healthy_gpu_is_a_drain_without_loss() -> None:
    def observe(status: PairStatus) -> PairObservation:
        request = request_id(status.move) if status.move else ""
        report = SyncReport(epoch=4, cycle_answered=request, cycle_completed=True)
        annotations = {ANNOTATION_FAILOVER: ""} if status.move is None else {}
        return seen(status, report=report, pair=pair(status, annotations))

    story = play(ON_GPU, observe)
    assert [word for word in story if "@" in word] == [
        "Quiesce@4",
        "Stop@4",
        "Delta@4",
        "Promote@5",
        "Flip@5",
        "active=Standby@5",
    ]


def test_a_promotion_that_is_not_confirmed_is_undone_under_a_further_epoch() -> None:
    begun = moves.begin(ON_GPU, Side.STANDBY, MoveReason.GPU_LOST, NOW - 11)
    planned = plan(seen(begun, verdict=DEAD, standby=standby(4)), NOW)
    move = planned.status.move
    assert move is not None
    assert (move.step, move.reason, planned.status.epoch) == (MoveStep.DEMOTE, MoveReason.PROMOTE_UNCONFIRMED, 6)
    assert planned.status.active is Side.GPU
    undone = after(planned.status, acts.Demote(6), NOW, {})
    assert (undone.move, undone.active, undone.epoch) == (None, Side.GPU, 6)


def test_within_the_grace_nothing_is_rented_and_nothing_stopped() -> None:
    fresh = moves.finish(moves.begin(ON_GPU, Side.STANDBY, MoveReason.GPU_LOST, NOW - 3), NOW - 2)
    assert plan(seen(fresh, verdict=DEAD), NOW).acts == ()


def test_after_the_grace_the_old_machine_is_stopped_and_another_rented_once() -> None:
    first = plan(seen(ON_STANDBY, verdict=DEAD), NOW)
    assert kinds(first) == [acts.StopMachine, acts.Replace]
    under_way = replacement(phase=ReplacementPhase.BOOTING)
    again = plan(seen(ON_STANDBY, verdict=DEAD, replacements=(under_way,), fence_state=InstanceState.STOPPED), NOW)
    assert again.acts == ()


def test_a_failed_replacement_is_tried_again_later_under_another_name() -> None:
    failed = replacement(phase=ReplacementPhase.FAILED)
    ended = failed.model_copy(
        update={
            "status": failed.status.model_copy(
                update={"conditions": describe(seen(ON_GPU), ON_GPU, NOW - 90).conditions[:1]}
            )
        }
    )
    later = plan(seen(ON_STANDBY, verdict=DEAD, replacements=(ended,)), NOW)
    assert [a.serial for a in later.acts if isinstance(a, acts.Replace)] == [1]
    sooner = plan(seen(ON_STANDBY, verdict=DEAD, replacements=(ended,)), NOW - 60)
    assert acts.Replace not in kinds(sooner)


def test_a_gpu_that_returns_is_collected_before_anything_else_and_then_taken_back() -> None:
    returned = plan(seen(ON_STANDBY), NOW)
    assert kinds(returned) == [acts.StopWorkload, acts.Collect]
    collected = after(ON_STANDBY, acts.Collect(collection_name(ON_STANDBY)), NOW, {"files": 2, "bytes": 9})
    assert collected.set_aside[-1].files == 2
    begun = plan(seen(collected), NOW).status.move
    assert begun is not None
    assert begun.reason is MoveReason.GPU_RETURNED


def failback(status: PairStatus) -> PairObservation:
    move = status.move
    report = SyncReport(
        epoch=status.epoch,
        restore_id=f"move-{move.epoch}-delta" if move else "",
        restore_state="Done",
        restore_manifest="sha256:1",
    )
    return seen(status, verdict=DEAD, replacements=(replacement(),), report=report, target_answers=True)


def test_a_failback_stops_the_standby_before_the_delta_and_demotes_before_the_start() -> None:
    story = play(ON_STANDBY, failback)
    assert [word for word in story if "@" in word] == [
        "Quiesce@5",
        "Stop@5",
        "Delta@5",
        "Verify@5",
        "Demote@6",
        "Start@6",
        "Flip@6",
        "active=GPU@6",
    ]


def test_the_new_machine_becomes_the_pairs_in_the_write_that_raises_the_epoch() -> None:
    status = moves.begin(ON_STANDBY, Side.GPU, MoveReason.REPLACEMENT_READY, NOW, replacement="p-new")
    while status.move is not None and status.move.step is not MoveStep.VERIFY:
        assert status.gpu == GPU
        status = moves.advance(status, NOW)
    planned = plan(failback(status), NOW)
    assert planned.status.epoch == 6
    assert planned.status.gpu is not None
    assert planned.status.gpu.provider_id == "vast://2"


def test_an_unverified_delta_never_gets_the_traffic() -> None:
    status = moves.begin(ON_STANDBY, Side.GPU, MoveReason.REPLACEMENT_READY, NOW, replacement="p-new")
    status = moves.advance(moves.advance(status, NOW), NOW)
    failed = SyncReport(epoch=5, restore_id="move-6-delta", restore_state="Failed", restore_error="3 files differ")
    planned = plan(replace(failback(status), report=failed), NOW)
    assert planned.status.move is None
    assert planned.status.active is Side.STANDBY
    assert planned.status.given_up is not None
    assert "differ" in planned.status.given_up.reason
    waiting = plan(replace(failback(planned.status), standby=standby(5, Side.STANDBY, gate="stopped")), NOW + 1)
    assert waiting.status.move is None
    assert acts.ResumeStandby in kinds(waiting)


def test_a_delta_that_nobody_takes_up_does_not_keep_the_standby_stopped() -> None:
    status = moves.begin(ON_STANDBY, Side.GPU, MoveReason.REPLACEMENT_READY, NOW, replacement="p-new")
    status = moves.advance(moves.advance(status, NOW), NOW)
    silent = replace(failback(status), report=SyncReport(epoch=5))
    assert plan(silent, NOW + 59).status.move is not None
    given_up = plan(silent, NOW + 61).status
    assert given_up.move is None
    assert given_up.given_up is not None


def test_a_start_command_that_fails_is_said_where_a_person_looks() -> None:
    failing = seen(ON_GPU, acts_failed={"StartWorkload": "exit 127: not found"})
    told = next(c for c in describe(failing, ON_GPU, NOW).conditions if c.type == "ServiceHealthy")
    assert (told.status, told.reason) == ("False", "StartFailed")
    assert "exit 127" in told.message


def test_a_gpu_that_does_not_answer_after_the_start_gives_way_under_a_further_epoch() -> None:
    status = moves.begin(ON_STANDBY, Side.GPU, MoveReason.REPLACEMENT_READY, NOW, replacement="p-new")
    while status.move is not None and status.move.step is not MoveStep.START:
        status = moves.advance(status, NOW)
    late = NOW + moves.STEP_LIMITS_SECONDS[MoveStep.START] + 1
    silent = replace(failback(status), target_answers=False, target_running=False)
    turned = plan(silent, late).status
    assert turned.move is not None
    assert (turned.move.reason, turned.move.to) == (MoveReason.START_FAILED, Side.STANDBY)
    story = play(turned, lambda s: replace(failback(s), target_running=False))
    assert story[-1] == "active=Standby@7"


def test_after_a_failed_start_only_a_human_sends_it_back() -> None:
    begun = moves.begin(ON_GPU, Side.STANDBY, MoveReason.START_FAILED, NOW - 50)
    status = moves.finish(begun, NOW - 49)
    status = status.model_copy(
        update={"set_aside": [SetAside(name=collection_name(status), time=NOW, files=0, bytes=0)]}
    )
    assert plan(seen(status), NOW).status.move is None
    asked = seen(status, pair=pair(status, {ANNOTATION_FAILBACK: ""}))
    assert plan(asked, NOW).status.move is not None


def test_the_standbys_pod_that_restarts_is_not_ready_and_then_ready_at_the_same_epoch() -> None:
    down = plan(seen(ON_STANDBY, verdict=DEAD, standby_running=False, standby_answers=False), NOW)
    flip = next(a for a in down.acts if isinstance(a, acts.Flip))
    assert (flip.ready, flip.epoch) == (False, 5)
    gone = SliceView(5, Side.STANDBY, "10.0.0.9", (("http", 8080),), False)
    up = plan(seen(ON_STANDBY, verdict=DEAD, endpoint=gone, standby_address="10.0.0.10"), NOW)
    assert [(a.ready, a.epoch) for a in up.acts if isinstance(a, acts.Flip)] == [(True, 5)]


def test_a_slice_of_a_higher_epoch_is_never_touched() -> None:
    ahead = SliceView(9, Side.STANDBY, "10.0.0.9", (("http", 8080),), True)
    assert acts.Flip not in kinds(plan(seen(ON_GPU, endpoint=ahead), NOW))


def test_somebody_elses_service_stops_everything() -> None:
    observation = seen(ON_GPU, verdict=DEAD, service=ServiceView.FOREIGN)
    assert plan(observation, NOW) == Plan(ON_GPU)
    told = describe(observation, ON_GPU, NOW)
    assert told.phase is Phase.BLOCKED


def test_a_status_older_than_the_disk_blocks_the_pair() -> None:
    observation = seen(PairStatus(active=Side.GPU, epoch=1), standby=standby(7), verdict=DEAD)
    assert plan(observation, NOW).acts == ()
    assert describe(observation, observation.pair.status, NOW).phase is Phase.BLOCKED


def test_a_superseded_replacement_is_dropped_only_once_the_gpu_is_active_again() -> None:
    old = replacement("p-old")
    status = ON_GPU.model_copy(update={"gpu": GPU.model_copy(update={"replacement": "p-new"})})
    planned = plan(seen(status, replacements=(old, replacement())), NOW)
    assert [a.name for a in planned.acts if isinstance(a, acts.DropReplacement)] == ["p-old"]
    assert acts.DropReplacement not in kinds(plan(seen(ON_STANDBY, verdict=DEAD, replacements=(old,)), NOW))


def test_accept_shrink_is_consumed_and_remembered_until_a_cycle_is_no_longer_held() -> None:
    asked = pair(ON_GPU, {ANNOTATION_ACCEPT_SHRINK: "12"})
    planned = plan(seen(ON_GPU, pair=asked), NOW)
    assert planned.status.accepted_shrink == 12
    assert any(isinstance(act, acts.Consume) for act in planned.acts)
    assert plan(seen(planned.status), NOW).status.accepted_shrink is None


def test_a_machine_that_came_back_on_other_ports_is_followed() -> None:
    moved = GPU.model_copy(update={"ssh_port": 41000})
    assert plan(seen(ON_STANDBY, verdict=DEAD, relocated=moved), NOW).status.gpu == moved


def test_a_machine_at_its_old_place_is_no_reason_to_hold_a_move_up() -> None:
    """An older look at the provider's list knows nothing of when the machine was last seen."""
    begun = moves.begin(ON_GPU, Side.STANDBY, MoveReason.GPU_LOST, NOW)
    told = begun.model_copy(update={"gpu": GPU.model_copy(update={"last_seen_time": NOW - 5})})
    planned = plan(seen(told, verdict=DEAD, relocated=GPU), NOW)
    assert kinds(planned) == [acts.Promote]


def test_ready_needs_a_fresh_copy_and_says_why_not() -> None:
    told = describe(seen(ON_GPU), ON_GPU, NOW)
    assert told.phase is Phase.PROTECTED
    ready = next(c for c in told.conditions if c.type == "Ready")
    assert ready.status == "True"
    stale = describe(seen(ON_GPU, standby=standby(covered_time=NOW - 500)), ON_GPU, NOW)
    assert next(c for c in stale.conditions if c.type == "Ready").reason == "Stale"


def test_a_status_that_says_the_same_in_other_words_does_not_differ() -> None:
    one = describe(seen(ON_GPU), ON_GPU, NOW)
    assert not materially_differs(one, describe(seen(ON_GPU), one, NOW + 1))
