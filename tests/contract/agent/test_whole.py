"""What must hold when things are cut, excluded, changed behind the copy's back, or owned by somebody else."""

import os
import threading
import time

import pytest
from tests.contract.agent.conftest import Gpu, Standby, contents

from gpu_standby.agent import commit, manifest
from gpu_standby.agent.state import Disk


class Cut(BaseException):
    """Stands for kill -9: nothing after it runs."""


def _steps(monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    """Die at the nth change of the tree or the record."""
    left = [allowed]

    def counted(real):  # type: ignore[no-untyped-def]
        def step(*arguments, **named):  # type: ignore[no-untyped-def]
            if left[0] == 0:
                raise Cut
            left[0] -= 1
            return real(*arguments, **named)

        return step

    class OwnOs:
        replace = staticmethod(counted(os.replace))

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

    monkeypatch.setattr(commit, "os", OwnOs())
    monkeypatch.setattr(commit, "_remove", counted(commit._remove))
    monkeypatch.setattr(commit, "_copy_folder_attributes", counted(commit._copy_folder_attributes))
    monkeypatch.setattr(manifest, "write", counted(manifest.write))
    monkeypatch.setattr(Disk, "write_sync", counted(Disk.write_sync))


def test_cut_at_every_step_of_landing_the_promotion_finishes_it(
    gpu: Gpu, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the promotion that finishes it is cut at the same step, and asked again."""
    gpu.write(same="s", changed="old", gone="g", sub__gone="g", folder__inside="f")
    assert standby.mover(1, "pull", gpu=gpu.document())["ok"]
    step, epoch = 0, 1
    while True:
        gpu.write(changed=f"new {step}", **{f"fresh{step}": "n"})
        (gpu.workspace / f"fresh{step - 1}").unlink(missing_ok=True)
        new = contents(gpu.workspace)
        with monkeypatch.context() as patch:
            _steps(patch, step)
            try:
                assert standby.mover(epoch, "pull", gpu=gpu.document())["ok"]
                break
            except Cut:
                assert standby.disk.commit.exists(), "the journal comes before any change"
        with monkeypatch.context() as patch:
            _steps(patch, step // 2)
            try:
                standby.operator("promote", epoch=epoch + 1)
            except Cut:
                assert not (standby.disk.gate / "run").exists(), "nothing starts on a tree that is not whole"
        assert standby.operator("promote", epoch=epoch + 1)["ok"]
        assert standby.tree() == new, f"cut at step {step}"
        assert {entry.path for entry in manifest.files(manifest.read(standby.disk.promoted).values())} == set(new)
        assert standby.operator("demote", epoch=epoch + 2, stopSeconds=1)["ok"]
        step, epoch = step + 1, epoch + 2
    assert step >= 6


def test_a_gpu_that_dies_in_mid_transfer_leaves_the_copy_as_it_was(gpu: Gpu, standby: Standby) -> None:
    gpu.write(a="1")
    assert standby.mover(1, "pull", gpu=gpu.document())["ok"]
    gpu.write(a="2")
    with (gpu.workspace / "big").open("wb") as file:
        file.truncate(2_000_000_000)
    answers: list[dict[str, object]] = []
    cycle = threading.Thread(target=lambda: answers.append(standby.mover(1, "pull", gpu=gpu.document())))
    cycle.start()
    deadline = time.monotonic() + 20
    while not any(standby.disk.incoming.glob(".big*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    gpu.stop()
    cycle.join(20)
    assert (answers[0]["ok"], answers[0]["class"]) == (False, "Target"), answers
    assert standby.tree() == {"a": "1"}
    gpu.start()
    (gpu.workspace / "big").unlink()
    assert standby.mover(1, "pull", gpu=gpu.document())["ok"]
    assert standby.tree() == {"a": "2"}


def test_what_a_called_off_promotion_left_in_the_copy_goes_with_the_next_cycle(gpu: Gpu, standby: Standby) -> None:
    gpu.write(a="1", b="2")
    assert standby.mover(1, "pull", gpu=gpu.document())["ok"]
    assert standby.operator("promote", epoch=2)["ok"]
    (standby.disk.tree / "own" / "deep").mkdir(parents=True)
    (standby.disk.tree / "own" / "deep" / "file").write_text("x")
    (standby.disk.tree / "a").write_text("changed here")
    (standby.disk.tree / "b").unlink()
    assert standby.operator("demote", epoch=3, stopSeconds=1)["ok"]
    assert standby.mover(3, "pull", gpu=gpu.document())["ok"]
    assert standby.tree() == contents(gpu.workspace)
    assert not (standby.disk.tree / "own").exists()


def test_what_is_excluded_is_no_mismatch_of_a_restore(gpu: Gpu, standby: Standby) -> None:
    gpu.write(a="1")
    exclude = ["*.tmp", "/cache/"]
    assert standby.mover(1, "pull", gpu=gpu.document(), exclude=exclude)["ok"]
    assert standby.operator("promote", epoch=2)["ok"]
    (standby.disk.tree / "scratch.tmp").write_text("of the standby")
    (standby.disk.tree / "cache").mkdir()
    (standby.disk.tree / "cache" / "x").write_text("of the standby")
    (standby.disk.tree / "new\nline").write_text("n")
    gpu.write(own__tmp="kept", cache__y="kept")
    (gpu.workspace / "own.tmp").write_text("kept")
    done = standby.mover(2, "restore", gpu=gpu.document(), exclude=exclude, final=True)
    assert done["ok"], done
    assert (done["verifiedFiles"], done["mismatches"]) == (2, 0)
    found = contents(gpu.workspace)
    assert "scratch.tmp" not in found
    assert found["own.tmp"] == found["cache/y"] == "kept"
    assert found["new\nline"] == "n"


def test_what_changes_here_during_a_first_restore_is_no_mismatch_but_in_the_final_one_it_is_sent(
    gpu: Gpu, standby: Standby
) -> None:
    gpu.write(log="start", a="1")
    assert standby.mover(1, "pull", gpu=gpu.document())["ok"]
    assert standby.operator("promote", epoch=2)["ok"]
    ended = threading.Event()

    def workload() -> None:
        while not ended.wait(0.005):
            with (standby.disk.tree / "log").open("a") as log:
                log.write("more\n")

    writer = threading.Thread(target=workload)
    writer.start()
    try:
        warm = standby.mover(2, "restore", gpu=gpu.document(), final=False)
    finally:
        ended.set()
        writer.join()
    assert warm["ok"], warm
    assert standby.mover(2, "restore", gpu=gpu.document(), final=True)["ok"]
    assert contents(gpu.workspace) == standby.tree()


def test_a_folders_mode_alone_is_a_change(gpu: Gpu, standby: Standby) -> None:
    (gpu.workspace / "folder").mkdir(mode=0o750)
    gpu.write(a="1")
    assert standby.mover(1, "pull", gpu=gpu.document())["ok"]
    assert standby.mover(1, "pull", gpu=gpu.document())["transferredFiles"] == 0
    (gpu.workspace / "folder").chmod(0o711)
    assert standby.mover(1, "pull", gpu=gpu.document())["transferredFiles"] == 1
    assert (standby.disk.tree / "folder").stat().st_mode & 0o777 == 0o711
    assert standby.mover(1, "pull", gpu=gpu.document())["transferredFiles"] == 0


def test_links_of_a_returning_gpu_are_set_aside_too(gpu: Gpu, standby: Standby) -> None:
    gpu.write(a="1")
    (gpu.workspace / "same").symlink_to("a")
    assert standby.mover(1, "pull", gpu=gpu.document())["ok"]
    assert standby.operator("promote", epoch=2)["ok"]
    (gpu.workspace / "newer").symlink_to("elsewhere")
    done = standby.operator("collect", epoch=2, gpu=gpu.document(), exclude=[], name="x")
    assert (done["ok"], done["files"], done["deleted"]) == (True, 1, 0), done
    assert contents(standby.disk.aside / "x")["newer"] in ("elsewhere", "-> elsewhere")
