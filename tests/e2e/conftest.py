"""Each worker has a world of its own: a stand-in Vast.ai, an operator, a namespace. Needs `make cluster image`."""

import os
import re
from collections.abc import Iterator

import pytest
from hack.bench.world import World


@pytest.fixture(scope="session")
def world() -> World:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return World(f"e2e-{worker}")


@pytest.fixture
def name(world: World, request: pytest.FixtureRequest) -> Iterator[str]:
    """A pair's name of this test's own; what the test left is removed, and nothing may stay rented."""
    words = re.sub("[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))
    name = words[:38].strip("-")
    yield name
    world.vast.no_faults()
    world.remove(name)
    world.wait("nothing is rented", lambda: not world.contracts(), 60)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.e2e)
        item.add_marker(pytest.mark.timeout(300))
