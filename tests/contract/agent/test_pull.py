"""GPU → copy: whole or not at all, and never over a human's head."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.contract.agent.conftest import UID, Gpu, Standby, contents

from gpu_standby.agent import manifest


def test_a_cycle_brings_what_is_new_and_takes_away_what_is_gone(gpu: Gpu, standby: Standby) -> None:
    gpu.write(a="1", sub__b="2", sub__deep__c="3")
    (gpu.workspace / "empty").mkdir()
    (gpu.workspace / "link").symlink_to("sub/b")
    first = standby.mover(1, "pull", gpu=gpu.document())
    assert first["ok"], first
    assert standby.tree() == contents(gpu.workspace)
    assert (standby.disk.tree / "empty").is_dir()
    assert first["files"] == 4

    gpu.write(a="changed", new="4")
    (gpu.workspace / "sub" / "b").unlink()
    second = standby.mover(1, "pull", gpu=gpu.document())
    assert second["ok"], second
    assert standby.tree() == contents(gpu.workspace)
    assert second["manifest"] != first["manifest"]
    idle = standby.mover(1, "pull", gpu=gpu.document())
    assert (idle["transferredFiles"], idle["manifest"]) == (0, second["manifest"])
    assert idle["startedTime"] > second["startedTime"]


def test_a_file_that_becomes_a_folder_and_back(gpu: Gpu, standby: Standby) -> None:
    gpu.write(x="file", keep="k", keep2="k", keep3="k")
    assert (last := standby.mover(1, "pull", gpu=gpu.document()))["ok"], last
    (gpu.workspace / "x").unlink()
    gpu.write(x__inside="folder")
    assert (last := standby.mover(1, "pull", gpu=gpu.document()))["ok"], last
    assert standby.tree() == contents(gpu.workspace)
    (gpu.workspace / "x" / "inside").unlink()
    (gpu.workspace / "x").rmdir()
    gpu.write(x="file again")
    assert (last := standby.mover(1, "pull", gpu=gpu.document()))["ok"], last
    assert standby.tree() == contents(gpu.workspace)


def test_odd_names_survive(gpu: Gpu, standby: Standby) -> None:
    names = [b"new\nline", b"\xff\xfe", b"back\\#123slash", b" lead", b"-rf", b"a -> b", "ümlaut".encode()]
    for name in names:
        Path(os.fsdecode(os.fsencode(gpu.workspace) + b"/" + name)).write_bytes(name)
    assert (last := standby.mover(1, "pull", gpu=gpu.document()))["ok"], last
    assert standby.tree() == contents(gpu.workspace)
    entries = manifest.read(standby.disk.manifest)
    assert {os.fsencode(path) for path in entries} >= set(names)
    again = standby.mover(1, "pull", gpu=gpu.document())
    assert again["transferredFiles"] == 0


def test_what_is_excluded_stays_where_it_is(gpu: Gpu, standby: Standby) -> None:
    gpu.write(a="1", scratch__tmp="big", b__tmp="x")
    assert standby.mover(1, "pull", gpu=gpu.document(), exclude=["tmp"])["ok"]
    assert set(standby.tree()) == {"a"}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("rm -rf {}/*", "SourceEmpty"),
        ("find {} -mindepth 1 -delete", "SourceEmpty"),
        ("cd {} && rm 0 1 2 3 4", "SourceShrunk"),
        ("cd {} && rm .gpu-standby-root", "SourceUnmarked"),
    ],
)
def test_a_source_that_lost_too_much_holds_the_cycle(gpu: Gpu, standby: Standby, script: str, reason: str) -> None:
    gpu.write(**{str(n): "x" for n in range(10)})
    assert (last := standby.mover(1, "pull", gpu=gpu.document()))["ok"], last
    before = standby.tree()
    subprocess.run(["sh", "-c", script.format(gpu.workspace)], check=True)
    held = standby.mover(1, "pull", gpu=gpu.document())
    assert held["held"]["reason"] == reason
    assert standby.tree() == before
    accepted = standby.mover(1, "pull", gpu=gpu.document(), acceptShrink=held["held"]["missing"])
    assert accepted["ok"], accepted
    assert standby.tree() == contents(gpu.workspace)
    assert standby.mover(1, "pull", gpu=gpu.document())["ok"], "the root is marked again"


def test_one_less_than_half_goes_without_a_question(gpu: Gpu, standby: Standby) -> None:
    gpu.write(**{str(n): "x" for n in range(10)})
    assert (last := standby.mover(1, "pull", gpu=gpu.document()))["ok"], last
    for n in range(4):
        (gpu.workspace / str(n)).unlink()
    assert (last := standby.mover(1, "pull", gpu=gpu.document()))["ok"], last


def test_another_host_key_gets_nothing(gpu: Gpu, standby: Standby, tmp_path: Path) -> None:
    from tests.contract.agent.conftest import keygen

    gpu.write(a="1")
    other = keygen(tmp_path / "other")
    answer = standby.mover(1, "pull", gpu=gpu.document(hostKey=other))
    assert (answer["ok"], answer["class"]) == (False, "Target")
    assert standby.tree() == {}
    assert not (gpu.workspace / ".gpu-standby-root").exists()


def test_a_gpu_that_is_gone_is_the_targets_fault(gpu: Gpu, standby: Standby) -> None:
    gpu.write(a="1")
    assert (last := standby.mover(1, "pull", gpu=gpu.document()))["ok"], last
    gpu.stop()
    answer = standby.mover(1, "pull", gpu=gpu.document(port=1))
    assert (answer["ok"], answer["class"]) == (False, "Target")
    assert standby.tree() == {"a": "1"}


@pytest.mark.parametrize("part", range(6))
def test_killed_in_mid_cycle_the_tree_is_the_old_one_or_the_new_one(gpu: Gpu, standby: Standby, part: int) -> None:
    """kill -9 of the agent and its rsync at many instants; a promotion makes the tree whole."""
    gpu.write(**{f"d{n % 7}__f{n}": "old" for n in range(300)})
    assert (last := standby.mover(1, "pull", gpu=gpu.document()))["ok"], last
    old = standby.tree()
    gpu.write(**{f"d{n % 7}__f{n}": "new" * 500 for n in range(0, 300, 2)}, extra="e")
    for n in range(1, 60, 2):
        (gpu.workspace / f"d{n % 7}" / f"f{n}").unlink()
    new = contents(gpu.workspace)

    request = f'{{"id": 1, "op": "pull", "pair": "{UID}", "gpu": {_json(gpu)}}}\n'
    session = subprocess.Popen(
        standby.command("mover", "1", "serve"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert session.stdin is not None
    session.stdin.write(request.encode())
    session.stdin.flush()
    seen = _wait_for_change(standby, part)
    session.send_signal(signal.SIGKILL)
    session.wait()

    promoted = standby.operator("promote", epoch=2)
    assert promoted["ok"], promoted
    tree = standby.tree()
    assert tree in (old, new), f"a mixed tree, killed at {seen}"
    refused = standby.mover(1, "pull", gpu=gpu.document())
    assert refused["refused"] == "LowerEpoch"


def _json(gpu: Gpu) -> str:
    import json

    return json.dumps(gpu.document())


def _wait_for_change(standby: Standby, part: int) -> str:
    """Another instant each time: while listing, while receiving, at the journal, while renaming."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if part == 0 and any(standby.disk.run.glob("pull-*.json")):
            return "start"
        if part in (1, 2) and standby.disk.incoming.exists() and any(standby.disk.incoming.rglob("f*")):
            return "receiving"
        if part == 3 and standby.disk.commit.exists():
            return "journal"
        if part in (4, 5) and (standby.disk.tree / "extra").exists():
            return "renaming"
    return "too late"


def test_two_cycles_at_once_are_refused(gpu: Gpu, standby: Standby) -> None:
    from gpu_standby.agent import transfers

    gpu.write(a="1")
    with transfers.exclusive(standby.disk):
        assert standby.mover(1, "pull", gpu=gpu.document())["refused"] == "Locked"
