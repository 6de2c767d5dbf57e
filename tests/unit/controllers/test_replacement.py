"""One GpuReplacement from the search to the proof that its machines are gone."""

import dataclasses

import pytest
from tests.unit.controllers.rental_world import (
    NAME,
    PAIR,
    TRANSFER_KEY,
    World,
    good_mover,
    replacement,
)

from gpu_standby.core.market import InstanceState
from gpu_standby.ports import Kind


@pytest.fixture
def world() -> World:
    made = World()
    made.mover = good_mover
    return made


def conditions(world: World) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in world.status["conditions"]}


async def test_a_lost_gpu_is_replaced_restored_verified_and_ready(world: World) -> None:
    await world.run(world.phase("Ready"))
    assert {kind: status for kind, (status, _) in conditions(world).items()} == {
        "Rented": "True",
        "Booted": "True",
        "Restored": "True",
        "Verified": "True",
        "Ready": "True",
    }
    (machine,) = world.ours()
    assert world.status["providerID"] == f"vast://{machine.contract}"
    assert world.status["hostKey"] == f"ssh-ed25519 HOSTKEY-{machine.address}"
    assert world.status["ports"] == {"22": machine.ports[0][1], "8080": machine.ports[1][1]}
    assert world.status["progress"] == "100% of 1000 B"
    assert set(world.machines[machine.contract].keys) == {"ssh-ed25519 AAAAoperator", TRANSFER_KEY}
    assert len(world.creates) == 1
    reasons = [reason for reason, _ in world.events]
    assert reasons == ["Renting", "Rented", "HostKeyPinned", "Booted", "Verified", "ReplacementReady"]


async def test_a_ready_machine_says_so_in_its_label(world: World) -> None:
    await world.run(lambda: any(m.label.endswith("/1/ready") for m in world.ours()))


async def test_a_planned_move_is_refused_before_it_costs_anything(world: World) -> None:
    world.put(replacement(why="Planned"))
    await world.run(world.phase("Failed"))
    assert "nothing is rented" in world.status["message"]
    assert not world.creates


async def test_the_first_machine_restores_nothing(world: World) -> None:
    world.put(replacement(why="Initial"))
    world.mover = None
    await world.run(world.phase("Ready"))
    assert conditions(world)["Restored"] == ("True", "NothingToRestore")
    assert conditions(world)["Verified"] == ("True", "NothingToRestore")


async def test_the_cheapest_offer_that_fits_is_rented_and_called_by_its_label(world: World) -> None:
    await world.run(world.phase("Booting"))
    (request,) = world.creates
    assert request.offer_id == 700
    assert request.label == "gsp/inst/lab/pair-uid/uid-1/1"
    assert request.ports == (8080,)
    assert "PRIVATE" not in request.onstart
    assert len(request.onstart) <= 4048


async def test_an_offer_that_is_gone_costs_nothing_but_the_next_offer(world: World) -> None:
    world.on_create = ["gone", "gone"]
    await world.run(world.phase("Ready"))
    assert [a["outcome"] for a in world.status["attempts"]] == ["Refused", "Refused", "Rented"]


async def test_a_lost_answer_that_made_a_machine_is_adopted_by_its_label(world: World) -> None:
    world.on_create = ["lost-done"]
    world.list_lag = 20.0
    await world.run(world.phase("Ready"))
    assert len(world.creates) == 1
    assert len(world.ours()) == 1


async def test_after_a_lost_answer_nothing_is_created_for_a_minute(world: World) -> None:
    world.on_create = ["lost-not"]
    await world.run(lambda: bool(world.creates))
    lost = world.clock.time
    await world.run(lambda: len(world.creates) == 2)
    assert world.clock.time - lost >= 60.0
    assert world.status["attempts"][0]["reason"] == "NeverAppeared"


async def test_of_two_machines_with_one_label_the_recorded_one_is_kept(world: World) -> None:
    world.on_create = ["double"]
    await world.run(lambda: world.status.get("phase") == "Ready" and len(world.ours()) == 1)
    (kept,) = world.ours()
    assert world.status["providerID"] == f"vast://{kept.contract}"
    assert kept.contract == 5002


async def test_a_refusal_that_left_a_machine_behind_is_cleaned_up_before_the_next(world: World) -> None:
    world.on_create = ["behind"]
    await world.run(world.phase("Ready"))
    assert [m.contract for m in world.ours()] == [5002]
    assert world.status["attempts"][0]["outcome"] == "Destroyed"


@pytest.mark.parametrize("what", ["bid", "dear"])
async def test_a_machine_that_is_not_what_was_asked_for_is_destroyed(world: World, what: str) -> None:
    world.on_create = [what]
    await world.run(world.phase("Ready"))
    assert [a["reason"] for a in world.status["attempts"]] == ["Mismatch", ""]
    assert world.status["attempts"][0]["absentLists"] >= 2
    assert len(world.ours()) == 1
    assert world.most_alive == 1


async def test_a_sick_gpu_is_destroyed_with_proof_and_its_machine_not_rented_again(world: World) -> None:
    world.sick = {70}
    await world.run(world.phase("Ready"))
    assert [a["machineId"] for a in world.status["attempts"]] == [70, 71]
    assert world.status["attempts"][0]["reason"] == "SickGpu"
    assert world.most_alive == 1
    assert ("MachineDestroyed") in [reason for reason, _ in world.events]


async def test_a_machine_that_died_at_boot_is_not_waited_for(world: World) -> None:
    world.broken = {70}
    await world.run(world.phase("Ready"))
    assert world.status["attempts"][0]["reason"] == "Broken"
    assert world.clock.time - 1_800_000_000 < 60


async def test_a_machine_that_never_boots_is_given_up_after_the_boot_time_out(world: World) -> None:
    world.never_boot = {70}
    await world.run(lambda: len(world.status.get("attempts") or []) == 2)
    assert world.status["attempts"][0]["reason"] == "BootTimeout"
    assert 240 <= world.clock.time - 1_800_000_000 < 270


async def test_when_all_attempts_failed_it_says_so_and_how_to_mend_it(world: World) -> None:
    world.sick = {70, 71, 72, 73, 74, 75}
    await world.run(world.phase("Failed"))
    assert len(world.status["attempts"]) == 5
    assert "recovery.attempts" in world.status["message"]
    assert world.ours() == []


async def test_a_machine_that_comes_back_after_one_destroy_is_destroyed_again(world: World) -> None:
    world.sick = {70}
    await world.run(lambda: bool(world.ours()))
    world.machines[5001].resurrections = 2
    await world.run(world.phase("Ready"))
    assert world.destroyed.count(5001) == 3
    assert [m.contract for m in world.ours()] == [5002]


async def test_a_missing_api_key_is_said_with_its_name_and_recovers_by_itself(world: World) -> None:
    secret = world.objects.pop(("Secret", "lab", "vast"))
    await world.run(lambda: "'vast'" in world.status.get("message", ""))
    assert conditions(world)["Ready"] == ("False", "SecretMissing")
    world.put(secret)
    await world.run(world.phase("Ready"))


async def test_a_rejected_api_key_is_said_and_tried_again(world: World) -> None:
    world.bad_key = True
    await world.run(lambda: conditions(world).get("Ready") == ("False", "ApiKeyRejected") if world.status else False)
    world.bad_key = False
    await world.run(world.phase("Ready"))


async def test_a_provider_that_is_down_is_asked_ever_less_often(world: World) -> None:
    world.provider_down_until = world.clock.time + 600
    await world.run(world.phase("Ready"))
    assert world.provider_calls_while_down < 40
    assert len(world.creates) == 1


async def test_nothing_is_rented_while_the_pair_is_paused(world: World) -> None:
    pair = world.get(Kind.PAIR, PAIR)
    pair["metadata"]["annotations"] = {"gpustandby.dev/pause": "holiday"}
    await world.run(lambda: "paused" in world.status.get("message", ""))
    for _ in range(20):
        await world.controller().step()
    assert world.creates == []
    pair["metadata"]["annotations"] = {}
    await world.run(world.phase("Ready"))


async def test_no_more_than_the_installation_limit_is_created_in_an_hour(world: World) -> None:
    for number in range(10):
        other = replacement()
        other["metadata"] |= {"name": f"other-{number}", "uid": f"other-{number}"}
        attempt = {
            "number": 1,
            "offerId": 1,
            "label": "x",
            "startedTime": "2027-01-15T07:50:00Z",
            "outcome": "Destroyed",
            "machineId": 1,
        }
        other["status"] = {"phase": "Failed", "attempts": [attempt]}
        world.put(other)
    await world.run(lambda: "an hour" in world.status.get("message", ""))
    limited = world.clock.time
    assert world.creates == []
    await world.run(lambda: bool(world.creates))
    assert world.clock.time - limited > 2900


async def test_with_approval_nothing_is_rented_before_the_plan_is_approved(world: World) -> None:
    world.put(replacement(requireApproval=True))
    await world.run(world.phase("AwaitingApproval"))
    assert world.status["shortlist"][0]["pricePerHour"] == "0.3"
    pair = world.get(Kind.PAIR, PAIR)
    pair["metadata"]["annotations"] = {"gpustandby.dev/approve": "another-plan"}
    for _ in range(10):
        await world.controller().step()
    assert world.creates == []
    pair["metadata"]["annotations"] = {"gpustandby.dev/approve": world.status["plan"]}
    await world.run(world.phase("Ready"))
    assert world.get(Kind.PAIR, PAIR)["metadata"]["annotations"] == {}


async def test_a_restore_without_progress_is_given_up(world: World) -> None:
    world.mover = lambda wanted: {"id": wanted["id"], "state": "Running", "bytes": 5, "bytesTotal": 10}
    await world.run(lambda: bool(world.status.get("attempts")) and world.status["attempts"][0]["reason"] != "")
    assert world.status["attempts"][0]["reason"] == "RestoreStalled"


async def test_a_restore_that_fails_is_tried_again_on_the_same_machine_first(world: World) -> None:
    def mover(wanted: dict) -> dict:  # type: ignore[type-arg]
        if wanted["id"].endswith("-1"):
            return {"id": wanted["id"], "state": "Failed", "error": "connection reset"}
        return good_mover(wanted)

    world.mover = mover
    await world.run(world.phase("Ready"))
    assert len(world.creates) == 1
    assert world.status["restore"]["id"].endswith("-2")


async def test_progress_is_told_in_words(world: World) -> None:
    world.mover = lambda wanted: {"id": wanted["id"], "state": "Running", "bytes": 541065216, "bytesTotal": 1288490189}
    await world.run(lambda: world.status.get("progress") == "41% of 1.2 GiB")


async def test_deleting_it_destroys_its_machine_with_proof(world: World) -> None:
    await world.run(world.phase("Booting"))
    assert await world.release() is None
    assert world.ours() == []
    assert world.status["attempts"][0]["absentLists"] >= 2
    assert 9999 in world.machines
    assert 9998 in world.machines


async def test_the_machine_that_is_the_pairs_gpu_is_never_destroyed(world: World) -> None:
    await world.run(world.phase("Ready"))
    world.get(Kind.PAIR, PAIR)["status"]["gpu"] = {"replacement": NAME, "providerID": "vast://5001"}
    waiting = await world.release(seconds=60)
    assert waiting is not None
    assert "last sync or next move" in waiting
    assert world.destroyed == []


async def test_a_superseded_machine_is_collected_before_it_is_destroyed(world: World) -> None:
    await world.run(world.phase("Ready"))
    assert await world.release() is None
    assert world.collected == [f"{NAME}-5001"]
    assert world.commands == [("stop workload", 0)]
    assert world.ours() == []


async def test_a_superseded_machine_out_of_reach_is_stopped_started_once_and_collected(world: World) -> None:
    await world.run(world.phase("Ready"))
    (machine,) = world.ours()
    world.unreachable.add(machine.address)
    await world.release(until=lambda: ("start", 5001) in world.commands)
    world.unreachable.clear()
    assert await world.release() is None
    assert [c for c in world.commands if c[1]] == [("stop", 5001), ("start", 5001)]
    assert world.collected == [f"{NAME}-5001"]
    assert world.ours() == []


async def test_a_superseded_machine_that_is_never_reached_is_kept_for_the_time_the_user_set(world: World) -> None:
    world.get(Kind.PAIR, PAIR)["spec"]["recovery"] = {"keepOldSeconds": 3600}
    await world.run(world.phase("Ready"))
    world.unreachable.add(world.ours()[0].address)
    world.unreachable.update(f"203.0.113.{n}" for n in range(200))
    assert await world.release(seconds=3500) is not None
    assert world.ours()[0].state is InstanceState.STOPPED
    assert world.commands.count(("start", 5001)) == 1
    assert await world.release(seconds=300) is None
    assert world.ours() == []


async def test_when_the_pair_is_gone_its_machines_are_destroyed_at_once(world: World) -> None:
    await world.run(world.phase("Ready"))
    del world.objects[("GpuStandbyPair", "lab", PAIR)]
    assert await world.release(seconds=60) is None
    assert world.ours() == []
    assert world.collected == []


async def test_a_deletion_waits_for_a_provider_that_is_down_and_says_so(world: World) -> None:
    await world.run(world.phase("Booting"))
    world.provider_down_until = world.clock.time + 500
    waiting = await world.release(seconds=400)
    assert waiting is not None
    assert "ProviderUnreachable" in waiting
    assert await world.release() is None
    assert world.ours() == []


async def test_a_ready_machine_that_is_gone_before_anybody_moved_to_it_is_replaced(world: World) -> None:
    await world.run(world.phase("Ready"))
    del world.machines[5001]
    await world.run(lambda: len(world.creates) == 2)
    assert world.status["attempts"][0]["reason"] == "Vanished"
    await world.run(world.phase("Ready"))


async def test_a_machine_that_restarts_while_it_is_restored_is_restored_at_its_new_port(world: World) -> None:
    world.mover = lambda wanted: {"id": wanted["id"], "state": "Running", "bytes": int(world.clock.time)}
    await world.run(lambda: "bytes" in (world.status.get("restore") or {}))
    rented = world.machines[5001]
    rented.instance = dataclasses.replace(rented.instance, ports=((22, 45_000), (8080, 45_001)))
    await world.run(lambda: world.status["restore"]["id"].endswith("-2"))
    world.mover = good_mover
    await world.run(world.phase("Ready"))
    assert world.status["sshPort"] == 45_000


async def test_a_new_epoch_asks_for_the_restore_again(world: World) -> None:
    world.mover = lambda wanted: {"id": wanted["id"], "state": "Running", "bytes": int(world.clock.time)}
    await world.run(lambda: "bytes" in (world.status.get("restore") or {}))
    world.get(Kind.PAIR, PAIR)["status"]["epoch"] = 5
    await world.run(lambda: world.status["restore"]["id"].endswith("-2"))
    assert '"epoch": 5' in world.get(Kind.CONFIG_MAP, "trainer-sync")["data"]["restore"]


async def test_what_the_pair_has_collected_is_not_collected_again(world: World) -> None:
    await world.run(world.phase("Ready"))
    world.get(Kind.PAIR, PAIR)["status"] |= {
        "epoch": 7,
        "history": [{"epoch": 6, "to": "Standby", "reason": "GpuLost", "time": "2027-01-15T07:30:00Z"}],
        "setAside": [{"name": "epoch-6-vast---5001", "time": "2027-01-15T07:31:00Z", "files": 1, "bytes": 1}],
    }
    assert await world.release(seconds=60) is None
    assert world.collected == []
    assert world.ours() == []


async def test_a_late_arrival_of_a_lost_create_is_destroyed_whenever_it_appears(world: World) -> None:
    world.on_create = ["lost-done"]
    world.list_lag = 150.0
    controller = world.controller()
    await world.run(lambda: bool(world.creates), controller)
    world.list_lag = 0.0
    await world.run(lambda: world.status.get("phase") == "Ready", controller)
    assert [m.contract for m in world.ours()] == [5001, 5002]
    await world.run(lambda: 5001 not in world.machines)
    assert [m.contract for m in world.ours()] == [5002]
    assert world.status["providerID"] == "vast://5002"


async def test_a_restore_waits_for_the_standby_to_be_active_and_says_how(world: World) -> None:
    world.get(Kind.PAIR, PAIR)["status"]["active"] = "GPU"
    await world.run(lambda: "gpustandby.dev/failover" in world.status.get("message", ""))
    assert world.get(Kind.CONFIG_MAP, "trainer-sync")["data"] == {}
    world.get(Kind.PAIR, PAIR)["status"]["active"] = "Standby"
    await world.run(world.phase("Ready"))
    assert len(world.creates) == 1


async def test_a_restore_that_never_becomes_possible_is_not_paid_for_without_end(world: World) -> None:
    world.get(Kind.PAIR, PAIR)["status"]["active"] = "GPU"
    await world.run(world.phase("Failed"))
    assert world.ours() == []
    assert len(world.creates) == 1
    assert "still the active side" in world.status["message"]


async def test_a_stopped_machine_is_started_once_to_be_collected_after_the_failback_too(world: World) -> None:
    """Its copy is refused, so it stays until keepOldSeconds: stopped, started, stopped, and no more."""
    world.get(Kind.PAIR, PAIR)["spec"]["recovery"] = {"keepOldSeconds": 600}
    await world.run(world.phase("Ready"))
    world.get(Kind.PAIR, PAIR)["status"]["active"] = "GPU"
    world.collect_refused = "Locked"
    waiting = await world.release(seconds=400)
    assert waiting is not None
    assert [c[0] for c in world.commands if c[1]] == ["stop", "start", "stop"]
    assert await world.release(seconds=400) is None
    assert world.ours() == []


async def test_a_new_pair_of_the_same_name_is_not_the_one_its_machine_was_rented_for(world: World) -> None:
    await world.run(world.phase("Ready"))
    other = world.get(Kind.PAIR, PAIR)
    other["metadata"]["uid"] = "another-uid"
    other["status"]["gpu"] = {"replacement": NAME, "providerID": "vast://5001"}
    assert await world.release(seconds=60) is None
    assert world.ours() == []
    assert set(world.destroyed) == {5001}


async def test_a_namespace_that_is_deleted_with_its_secret_first_leaves_no_machine(world: World) -> None:
    controller = world.controller()
    await world.run(world.phase("Ready"), controller)
    del world.objects[("Secret", "lab", "vast")]
    del world.objects[("GpuStandbyPair", "lab", PAIR)]
    document = world.get(Kind.REPLACEMENT, NAME)
    document["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    for _ in range(20):
        if await controller.release(document) is None:
            break
        world.clock.time += 2.0
    assert world.ours() == []
