"""kill -9 between any two calls of a port, before or after the call took effect, also when answers are lost: in the
end exactly the intended machine is left, every other of ours is gone, and nothing foreign was touched (I5, I6)."""

import pytest
from tests.unit.controllers.rental_world import NAME, PAIR, Fuse, World, good_mover

from gpu_standby.core.market import InstanceState
from gpu_standby.ports import Kind

CALLS = 114
"""More than a whole rental needs: 98, and 112 when the list lags by 8 s."""
RELEASE_CALLS = 26


def untouched(world: World) -> bool:
    foreign = (9998, 9999)
    return all(world.machines[c].instance.state is InstanceState.RUNNING for c in foreign) and not set(foreign) & set(
        world.destroyed
    )


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("lag", [0.0, 8.0], ids=["listed-at-once", "listed-late"])
@pytest.mark.parametrize("call", range(1, CALLS))
async def test_a_kill_at_any_call_leaves_exactly_one_machine(call: int, lag: float, after: bool) -> None:
    world = World(fuse=Fuse(at=call, after=after), mover=good_mover, list_lag=lag)
    await world.run(lambda: world.status.get("phase") == "Ready" and len(world.ours()) == 1)
    (machine,) = world.ours()
    assert world.status["providerID"] == f"vast://{machine.contract}"
    assert len(world.creates) == 1
    assert world.most_alive == 1
    assert untouched(world)


@pytest.mark.parametrize("trouble", ["lost-done", "lost-not", "double", "behind", "bid", "gone"])
@pytest.mark.parametrize("call", range(8, 60, 4))
async def test_a_kill_and_a_bad_answer_leave_exactly_one_machine(call: int, trouble: str) -> None:
    world = World(fuse=Fuse(at=call, after=True), mover=good_mover, on_create=[trouble], list_lag=8.0)
    await world.run(
        lambda: (
            world.status.get("phase") == "Ready" and len(world.ours()) == 1 and world.clock.time > 1_800_000_000 + 200
        )
    )
    assert world.status["providerID"] == f"vast://{world.ours()[0].contract}"
    assert untouched(world)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("phase", ["Searching", "Renting", "Booting", "Restoring", "Ready"])
@pytest.mark.parametrize("call", range(1, RELEASE_CALLS, 2))
async def test_a_kill_while_it_is_deleted_leaves_no_machine(call: int, phase: str, after: bool) -> None:
    world = World(list_lag=8.0)
    if phase == "Ready":
        world.mover = good_mover
    await world.run(world.phase(phase))
    world.fuse = Fuse(at=call, after=after)
    assert await world.release() is None
    world.clock.time += 120
    assert world.ours() == []
    assert untouched(world)


async def test_a_create_that_was_under_way_when_it_was_deleted_leaves_no_machine() -> None:
    world = World(on_create=["lost-done"], list_lag=50.0)
    await world.run(lambda: bool(world.creates))
    assert await world.release() is None
    assert world.ours() == []
    assert world.destroyed == [5001]


async def test_a_status_write_that_met_a_newer_object_creates_nothing() -> None:
    world = World(mover=good_mover)
    controller = world.controller()
    await controller.step()
    await controller.step()
    renamed = world.get(Kind.REPLACEMENT, NAME)
    world.put(renamed)
    await world.run(world.phase("Ready"), controller)
    assert len(world.creates) == 1
    assert world.get(Kind.PAIR, PAIR) is not None
