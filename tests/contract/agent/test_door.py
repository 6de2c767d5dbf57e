"""The door believes its own disk: epoch, pair, active side (I2)."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.contract.agent.conftest import UID, Gpu, Standby, contents

from gpu_standby.agent import bundle, promote


def test_without_a_record_everything_is_refused(tmp_path: Path) -> None:
    blank = Standby(tmp_path / "blank")
    for op, arguments in (("promote", {"epoch": 2}), ("demote", {"epoch": 2}), ("admit", {"epoch": 1, "key": "k"})):
        assert blank.operator(op, **arguments)["refused"] == "NoState"
    assert blank.mover(1, "pull", gpu={})["refused"] == "NoState"
    assert blank.operator("probe", nonce="n")["state"] is None


def test_another_pair_is_refused(gpu: Gpu, standby: Standby) -> None:
    for op in ("promote", "demote", "init"):
        assert standby.operator(op, epoch=9, pair="other")["refused"] == "OtherPair"
    assert standby.mover(1, "pull", gpu=gpu.document(), pair="other")["refused"] == "OtherPair"


@pytest.mark.parametrize(("epoch", "reason"), [(0, "LowerEpoch"), (2, "HigherEpoch")])
def test_a_mover_of_another_epoch_is_refused(gpu: Gpu, standby: Standby, epoch: int, reason: str) -> None:
    assert standby.mover(epoch, "pull", gpu=gpu.document())["refused"] == reason


def test_a_key_opens_only_its_own_operations(gpu: Gpu, standby: Standby) -> None:
    assert standby.mover(1, "promote", epoch=2)["refused"] == "NotAllowed"
    assert standby.operator("pull", gpu=gpu.document())["refused"] == "NotAllowed"
    assert standby.operator("nonsense")["refused"] == "NotAllowed"


def test_what_never_synced_is_not_promoted(standby: Standby) -> None:
    assert standby.operator("promote", epoch=2)["refused"] == "NeverSynced"


def test_promote_and_demote_are_idempotent_and_know_their_epoch(gpu: Gpu, standby: Standby) -> None:
    gpu.write(a="1")
    assert standby.mover(1, "pull", gpu=gpu.document())["ok"]
    for _ in range(2):
        assert standby.operator("promote", epoch=2)["active"] == "Standby"
    assert standby.operator("promote", epoch=1)["refused"] == "LowerEpoch"
    assert standby.operator("demote", epoch=2)["refused"] == "LowerEpoch"
    assert standby.mover(2, "pull", gpu=gpu.document())["refused"] == "StandbyActive"
    for _ in range(2):
        assert standby.operator("demote", epoch=3, stopSeconds=1)["active"] == "GPU"
    assert standby.operator("promote", epoch=3)["refused"] == "LowerEpoch"
    assert standby.mover(3, "pull", gpu=gpu.document())["ok"]
    assert standby.mover(3, "restore", gpu=gpu.document())["refused"] == "GpuActive"


def test_a_promotion_ends_a_pull_of_a_lower_epoch_and_its_session(gpu: Gpu, standby: Standby) -> None:
    gpu.write(a="1")
    assert standby.mover(1, "pull", gpu=gpu.document())["ok"]
    (gpu.workspace / "big").write_bytes(os.urandom(200_000_000))
    session = subprocess.Popen(standby.command("mover", "1", "serve"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert session.stdin is not None
    request = {"id": 1, "op": "pull", "pair": UID, "gpu": gpu.document()}
    session.stdin.write(json.dumps(request).encode() + b"\n")
    session.stdin.flush()
    deadline = time.monotonic() + 10
    while not any(standby.disk.incoming.glob(".big*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    promoted = standby.operator("promote", epoch=2)
    assert promoted["ok"], promoted
    assert promoted["ended"] >= 2
    assert session.wait(5) == -signal.SIGKILL
    assert standby.tree() == {"a": "1"}


def test_an_admitted_key_gets_a_forced_command_with_its_epoch(standby: Standby) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA5JgWmoQrp/zkGb8aGySvqkukx7JiCb5rFyzYEqh7A7 comment"
    foreign = "ssh-ed25519 BBBB somebody"
    authorized = standby.root / "authorized_keys"
    authorized.write_text(foreign + "\n")
    assert standby.operator("admit", epoch=1, key=key)["ok"]
    lines = authorized.read_text().splitlines()
    assert lines[0] == foreign
    assert 'restrict,command="agent door mover 1"' in lines[1]
    assert standby.operator("admit", epoch=2, key=key)["refused"] == "HigherEpoch"
    assert standby.operator("admit", epoch=1, key='x" evil')["refused"] == "BadRequest"


def test_one_request_as_a_command_is_answered_with_its_exit_code(gpu: Gpu, standby: Standby) -> None:
    gpu.write(a="1")
    assert standby.mover(1, "pull", gpu=gpu.document())["ok"]
    done = subprocess.run(standby.command("operator", "promote", "2"), capture_output=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["active"]) == (0, "Standby")
    done = subprocess.run(standby.command("operator", "promote", "1"), capture_output=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["refused"]) == (3, "LowerEpoch")


def test_the_agent_in_one_file_answers_on_a_bare_host(tmp_path: Path) -> None:
    file = tmp_path / "agent.pyz"
    file.write_bytes(bundle.archive())
    command = ["python3", "-I", str(file), "--root", str(tmp_path / "root"), "door", "operator", "init"]
    done = subprocess.run([*command, '{"pair": "u", "epoch": 1}'], capture_output=True, check=False)
    assert json.loads(done.stdout) == {"ok": True}, done.stderr
    command[-1] = "probe"
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert told["state"] == {"pairUID": "u", "epoch": 1, "active": "GPU"}
    assert told["agentVersion"] == bundle.version()
    assert bundle.archive() == bundle.archive()


def test_the_gate_runs_the_workload_while_promoted_and_ends_all_of_it(gpu: Gpu, standby: Standby) -> None:
    """A workload that ignores TERM, and its child, are gone after a demotion."""
    gpu.write(a="1")
    assert standby.mover(1, "pull", gpu=gpu.document())["ok"]
    mark = f"gate-{os.getpid()}"
    stubborn = f"trap '' TERM; sh -c 'trap \"\" TERM; exec sleep 300' {mark} & wait; wait"
    environment = {**os.environ, "GATE_DIR": str(standby.disk.gate), "STOP_SECONDS": "1"}
    script = Path(promote.__file__).with_name("gate.sh")
    gate = subprocess.Popen(["/bin/sh", str(script), "/bin/sh", "-c", stubborn], env=environment, cwd=standby.root)
    try:
        assert standby.operator("promote", epoch=2)["ok"]
        deadline = time.monotonic() + 5
        while not str(promote.gate_state(standby.disk)).startswith("running 2") and time.monotonic() < deadline:
            time.sleep(0.02)
        child = int(str(promote.gate_state(standby.disk)).split()[2])
        assert standby.operator("quiesce", command="touch quiesced", timeoutSeconds=5)["ok"]
        assert standby.operator("demote", epoch=3, stopSeconds=1)["ok"]
        assert (standby.root / "quiesced").exists()
        alive = ["pgrep", "--session", str(child), "--runstates", "DRST"]
        assert subprocess.run(alive, capture_output=True, check=False).stdout == b""
    finally:
        gate.terminate()
        assert gate.wait(5) == 0
    assert contents(standby.disk.tree) == {"a": "1"}
