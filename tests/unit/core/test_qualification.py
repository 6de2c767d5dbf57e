"""The check of a rented machine, run by a real shell against the bench's nvidia-smi; and onstart."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gpu_standby.core import qualification
from gpu_standby.core.onstart import LIMIT, onstart

RSYNC = "rsync rsync  version 3.2.7  protocol version 31\n"


def run(script: str, tmp_path: Path, **tools: str) -> str:
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "mkdir", "mktemp", "timeout", "sed", "rm", "head", "sleep", "cat"):
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    for name, body in tools.items():
        tool_path = folder / name.replace("_", "-")
        tool_path.write_text(f"#!/bin/sh\n{body}\n")
        tool_path.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        env={"PATH": str(folder), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout


def fitness(tmp_path: Path, gpus: int = 1, **tools: str) -> qualification.Fitness:
    workspace = str(tmp_path / "work space")
    found = qualification.read(run(qualification.command(workspace), tmp_path, **tools), gpus)
    assert os.path.isdir(workspace)
    return found


GOOD_RSYNC = "echo 'rsync  version 3.2.7  protocol version 31'"


def test_a_healthy_machine_is_fit(tmp_path: Path) -> None:
    found = fitness(tmp_path, nvidia_smi="echo 'NVIDIA GeForce RTX 4090, 41, 22.31 W'", rsync=GOOD_RSYNC)
    assert found == qualification.Fitness()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo 'NVIDIA-SMI has failed'; exit 9", "failed with 9"),
        ("echo 'Unable to determine the device handle: GPU is lost'; exit 15", "failed with 15"),
        ("echo 'NVIDIA GeForce RTX 4090, ERR!, ERR!'", "ERR!"),
        ("echo 'No devices were found'", "No devices"),
        ("exit 0", "shows 0 of 1"),
    ],
)
def test_a_sick_gpu_is_told_also_when_nvidia_smi_exits_well(tmp_path: Path, body: str, words: str) -> None:
    assert words in fitness(tmp_path, nvidia_smi=body, rsync=GOOD_RSYNC).gpu_problem


def test_a_machine_without_nvidia_smi_has_no_gpu_for_us(tmp_path: Path) -> None:
    assert "no nvidia-smi" in fitness(tmp_path, rsync=GOOD_RSYNC).gpu_problem


def test_an_nvidia_smi_that_hangs_is_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qualification, "GPU_CHECK_SECONDS", 1)
    hang = "trap '' TERM INT HUP; while :; do sleep 1; done"
    assert "hangs" in fitness(tmp_path, nvidia_smi=hang, rsync=GOOD_RSYNC).gpu_problem


def test_one_gpu_of_two_is_not_enough(tmp_path: Path) -> None:
    assert "shows 1 of 2" in fitness(tmp_path, 2, nvidia_smi="echo 'RTX, 41, 2 W'", rsync=GOOD_RSYNC).gpu_problem


@pytest.mark.parametrize("body", ["exit 127", "echo 'rsync  version 3.1.3  protocol version 31'"])
def test_rsync_that_is_missing_or_old_is_waited_for(tmp_path: Path, body: str) -> None:
    found = fitness(tmp_path, nvidia_smi="echo 'RTX, 41, 2 W'", rsync=body)
    assert found.gpu_problem == ""
    assert found.not_yet != ""


def test_half_an_answer_is_no_answer() -> None:
    assert qualification.read("gpu RTX, 41, 2 W\n", 1).not_yet != ""
    assert qualification.read("gpu-exit 0\n" + RSYNC, 0) == qualification.Fitness()


def test_onstart_is_short_enough_and_a_valid_script() -> None:
    script = onstart("/work space/it's")
    assert len(script) <= LIMIT
    subprocess.run(["/bin/sh", "-n"], input=script, text=True, check=True)


def test_onstart_installs_nothing_where_rsync_is_new_enough(tmp_path: Path) -> None:
    script = onstart(str(tmp_path / "w")).replace("/etc/environment", str(tmp_path / "environment"))
    script = script.replace("/var/tmp/gpu-standby", str(tmp_path / "var")).replace("/root/", f"{tmp_path}/")
    calls = tmp_path / "calls"
    log = f"echo called >> {calls}"
    grep, env = shutil.which("grep"), shutil.which("env")
    for version, called in (("3.2.7", False), ("v3.4.1", False), ("3.1.3", True)):
        calls.unlink(missing_ok=True)
        folder = tmp_path / version
        folder.mkdir()
        run(
            script,
            folder,
            rsync=f"echo 'rsync  version {version}  protocol version 31'",
            sshd="exit 0",
            apt_get=log,
            touch="exit 0",
            grep=f'exec {grep} "$@"',
            env=f'exec {env} "$@"',
        )
        assert calls.exists() is called
