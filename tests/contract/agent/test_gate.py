"""The gate, in every POSIX shell that is here: the image of a workload is the user's own."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpu_standby.agent import promote
from gpu_standby.agent.state import Disk, Failure

SHELLS = [["/bin/dash"], ["/bin/bash", "--posix"], ["busybox", "sh"]]


@pytest.fixture(params=SHELLS, ids=["dash", "bash", "busybox"])
def shell(request: pytest.FixtureRequest) -> list[str]:
    if shutil.which(request.param[0]) is None:
        pytest.skip(f"no {request.param[0]} here")
    return list(request.param)


class Gate:
    def __init__(self, folder: Path, shell: list[str], command: str, stop_seconds: int = 1) -> None:
        folder.mkdir(exist_ok=True)
        self.disk = Disk(folder)
        script = Path(promote.__file__).with_name("gate.sh")
        environment = {**os.environ, "GATE_DIR": str(self.disk.gate), "STOP_SECONDS": str(stop_seconds)}
        command_line = [*shell, str(script), "/bin/sh", "-c", command]
        self.process = subprocess.Popen(command_line, env=environment, cwd=folder)

    def wait(self, start: str, seconds: float = 10) -> str:
        deadline = time.monotonic() + seconds
        while not (state := promote.gate_state(self.disk) or "").startswith(start):
            assert time.monotonic() < deadline, f"{state!r} is not {start!r}"
            time.sleep(0.02)
        return state


def test_the_gate_ends_what_left_its_group_and_says_how_a_command_ended(tmp_path: Path, shell: list[str]) -> None:
    stray = f"{tmp_path}/stray"
    leave = f"os.setpgid(0, 0); signal.signal(15, 1); open({stray!r}, 'w').write(str(os.getpid())); time.sleep(300)"
    command = f'{sys.executable} -c "import os, signal, time; {leave}" & wait'
    gate = Gate(tmp_path / "root", shell, command)
    try:
        gate.disk.gate.mkdir()
        gate.wait("stopped")
        promote.open_gate(gate.disk, 4)
        gate.wait("running 4 ")
        deadline = time.monotonic() + 5
        while not (Path(stray).exists() and Path(stray).read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        promote.close_gate(gate.disk, 1)
        status = Path(f"/proc/{Path(stray).read_text()}/stat")
        assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
    finally:
        gate.process.terminate()
        assert gate.process.wait(5) == 0


def test_the_gate_tells_the_exit_code_waits_and_can_be_closed_meanwhile(tmp_path: Path, shell: list[str]) -> None:
    gate = Gate(tmp_path / "root", shell, "exit 7")
    try:
        gate.disk.gate.mkdir()
        gate.wait("stopped")
        promote.open_gate(gate.disk, 2)
        gate.wait("failed 2 7")
        gate.wait("running 2 ")
        promote.close_gate(gate.disk, 1)
        assert promote.gate_state(gate.disk) == "stopped"
    finally:
        gate.process.terminate()
        assert gate.process.wait(5) == 0


def test_a_quiesce_command_that_hangs_is_ended_and_holds_up_nothing(tmp_path: Path, shell: list[str]) -> None:
    gate = Gate(tmp_path / "root", shell, "sleep 300")
    try:
        gate.disk.gate.mkdir()
        promote.open_gate(gate.disk, 2)
        gate.wait("running 2 ")
        with pytest.raises(Failure, match="in time"):
            promote.quiesce(gate.disk, "sleep 300", 0.5)
        promote.quiesce(gate.disk, "touch saved", 10)
        assert (tmp_path / "root" / "saved").exists()
        with pytest.raises(Failure, match="ended with 3"):
            promote.quiesce(gate.disk, "exit 3", 10)
        promote.close_gate(gate.disk, 1)
    finally:
        gate.process.terminate()
        assert gate.process.wait(5) == 0
