"""Standby → GPU, verified on the GPU; and what a returning GPU has beyond the last sync is kept (I3, I8)."""

import os
import subprocess
from pathlib import Path

from tests.contract.agent.conftest import Gpu, Standby, admit, contents


def _promoted(gpu: Gpu, standby: Standby) -> None:
    assert standby.mover(1, "pull", gpu=gpu.document())["ok"]
    assert standby.operator("promote", epoch=2)["ok"]


def test_a_restore_makes_the_new_machine_equal_and_proves_it(gpu: Gpu, standby: Standby, tmp_path: Path) -> None:
    gpu.write(a="1", sub__b="2")
    (gpu.workspace / "link").symlink_to("a")
    os.chown(gpu.workspace / "a", 1234, 4321)
    (gpu.workspace / "a").chmod(0o4755)
    _promoted(gpu, standby)
    (standby.disk.tree / "written-on-standby").write_text("s")
    fresh = Gpu(tmp_path / "fresh")
    try:
        admit(standby, fresh)
        fresh.write(left__over="of another tenant")
        done = standby.mover(2, "restore", gpu=fresh.document(), final=True)
        assert done["ok"], done
        assert (done["mismatches"], done["verifiedFiles"]) == (0, 4)
        assert contents(fresh.workspace) == standby.tree()
        found = (fresh.workspace / "a").stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1234, 4321, 0o4755)
        # The restored machine is a known root: syncing goes on from it.
        assert standby.operator("demote", epoch=3, stopSeconds=1)["ok"]
        assert standby.mover(3, "pull", gpu=fresh.document())["ok"]
    finally:
        fresh.stop()


def test_a_byte_that_changed_on_the_gpu_is_found_and_healed(gpu: Gpu, standby: Standby) -> None:
    gpu.write(a="right", b="2")
    _promoted(gpu, standby)
    damaged = gpu.workspace / "a"
    times = damaged.stat()
    damaged.write_text("wrong")
    os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = standby.mover(2, "restore", gpu=gpu.document(), final=True)
    assert done["ok"], done
    assert damaged.read_text() == "right"


def test_a_file_that_never_comes_right_is_a_mismatch(gpu: Gpu, standby: Standby) -> None:
    """Something on the machine keeps writing over it."""
    gpu.write(a="right")
    _promoted(gpu, standby)
    script = f"while :; do printf wrong > {gpu.workspace}/a; done"
    writer = subprocess.Popen(["sh", "-c", script])
    try:
        answer = standby.mover(2, "restore", gpu=gpu.document(), final=True)
    finally:
        writer.kill()
        writer.wait()
    assert answer["class"] == "Mismatch", answer
    assert "'a'" in str(answer["error"])


def test_what_a_returning_gpu_has_beyond_the_last_sync_is_set_aside_once(gpu: Gpu, standby: Standby) -> None:
    gpu.write(same="same", changed="before", gone="g")
    _promoted(gpu, standby)
    (standby.disk.tree / "same").write_text("the standby went on")
    times = (gpu.workspace / "changed").stat()
    gpu.write(changed="after!", new__file="n")
    os.utime(gpu.workspace / "changed", ns=(times.st_atime_ns, times.st_mtime_ns))
    (gpu.workspace / "gone").unlink()
    done = standby.operator("collect", epoch=2, gpu=gpu.document(), exclude=[], name="epoch-2")
    assert done["ok"], done
    assert (done["files"], done["bytes"], done["deleted"]) == (2, 7, 1)
    assert contents(standby.disk.aside / "epoch-2") == {"changed": "after!", "new/file": "n"}
    again = standby.operator("collect", epoch=2, gpu=gpu.document(), exclude=[], name="epoch-2")
    assert (again["files"], again["bytes"]) == (2, 7)
    assert standby.tree()["same"] == "the standby went on"


def test_a_superseded_machine_is_collected_after_the_failback_too(gpu: Gpu, standby: Standby) -> None:
    gpu.write(a="1")
    _promoted(gpu, standby)
    gpu.write(late="beyond")
    assert standby.operator("demote", epoch=3, stopSeconds=1)["ok"]
    done = standby.operator("collect", epoch=3, gpu=gpu.document(), exclude=[], name="old-machine")
    assert (done["ok"], done["files"]) == (True, 1)


def test_names_that_try_to_escape_are_refused(gpu: Gpu, standby: Standby) -> None:
    gpu.write(a="1")
    _promoted(gpu, standby)
    for name in ("../x", "a/b", ".hidden"):
        answer = standby.operator("collect", epoch=2, gpu=gpu.document(), exclude=[], name=name)
        assert answer["refused"] == "BadRequest"
