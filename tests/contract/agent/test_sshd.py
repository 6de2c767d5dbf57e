"""The agent as it stands in a pod: its own sshd, an ordinary user, keys that open nothing but the door."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.agent.conftest import UID, Gpu, contents, keygen

from gpu_standby.agent import bundle

USER = 10001
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable


class Pod:
    """`unshare` for a /etc/passwd that knows the user, as the pod's init container makes one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o755)
        (folder / "agent.pyz").write_bytes(bundle.archive())
        (folder / "passwd").write_text(
            f"root:x:0:0::/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
            f"gpu-standby:x:{USER}:{USER}::/tmp:/bin/sh\n"
        )
        for name in ("host", "operator", "mover"):
            keygen(folder / name)
        (folder / "own").mkdir()
        for path in (folder / "own", folder / "host"):
            os.chown(path, USER, USER)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.root = folder / "own" / "root"
        served = ["--port", str(self.port), "--host-key", f"{folder}/host", "--operator-key", f"{folder}/operator.pub"]
        agent = [PYTHON, f"{folder}/agent.pyz", "--root", str(self.root), "sshd", *served, "--run-dir"]
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *agent, f"{folder}/own/run"]
        inside = f'mount --bind {folder}/passwd /etc/passwd && exec "$@"'
        self.process = subprocess.Popen(["unshare", "-m", "sh", "-c", inside, "sh", *user], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        pytest.fail("the agent's sshd does not listen")

    def ask(self, key: str, words: str) -> tuple[int, dict[str, Any]]:
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes", "LogLevel=ERROR"]
        command = ["ssh", "-F", "none", "-T", "-p", str(self.port), "-i", str(self.folder / key)]
        for option in options:
            command += ["-o", option]
        command += ["gpu-standby@127.0.0.1", words]
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False)
        return done.returncode, json.loads(done.stdout or b"{}")

    def operator(self, op: str, **arguments: Any) -> dict[str, Any]:
        return self.ask("operator", f"{op} {json.dumps({'pair': UID, **arguments})}")[1]

    def mover(self, op: str, **arguments: Any) -> dict[str, Any]:
        return self.ask("mover", f"{op} {json.dumps({'pair': UID, **arguments})}")[1]

    def admit(self, epoch: int) -> None:
        key = (self.folder / "mover.pub").read_text().strip()
        assert self.operator("admit", epoch=epoch, key=key) == {"ok": True}


@pytest.fixture
def pod() -> Iterator[Pod]:
    if os.getuid() != 0:
        pytest.fail("this test plays several users: it needs root")
    with tempfile.TemporaryDirectory(prefix="gpu-standby-pod-") as folder:
        made = Pod(Path(folder))
        yield made
        made.process.terminate()
        made.process.wait(5)


def test_root_owned_setuid_files_and_odd_names_survive_an_ordinary_user_over_ssh(pod: Pod, gpu: Gpu) -> None:
    gpu.write(a="1", folder__b="2")
    tool = gpu.workspace / "tool"
    tool.write_text("t")
    os.chown(tool, 0, 1234)
    tool.chmod(0o6755)
    os.chown(gpu.workspace / "folder", 77, 88)
    (gpu.workspace / "folder").chmod(0o1550)
    odd = gpu.workspace / 'it\'s "odd"\nand $(more)'
    odd.write_text("o")
    odd.chmod(0o000)
    before = {name: (gpu.workspace / name).stat() for name in ("tool", "folder", "folder/b", odd.name)}

    assert pod.operator("init", epoch=1) == {"ok": True}
    key = pod.operator("probe")["transferKey"]
    gpu.authorized.write_text(f"{key}\n")
    assert pod.ask("mover", "pull {}")[0] == 255, "not admitted yet"
    pod.admit(1)
    pulled = pod.mover("pull", gpu=gpu.document())
    assert pulled["ok"], pulled
    assert pod.mover("pull", gpu=gpu.document())["transferredFiles"] == 0
    assert (pod.root / "tree" / "tool").stat().st_uid == USER
    assert pod.mover("promote", epoch=2)["refused"] == "NotAllowed"
    assert pod.ask("operator", "promote 2")[0] == 0
    assert pod.ask("mover", "pull {}")[0] == 255, "a mover of a lower epoch is not let in any more"

    shutil.rmtree(gpu.workspace)
    pod.admit(2)
    restored = pod.mover("restore", gpu=gpu.document(), final=True)
    assert restored["ok"], restored
    for name, was in before.items():
        found = (gpu.workspace / name).stat()
        assert (found.st_mode, found.st_uid, found.st_gid) == (was.st_mode, was.st_uid, was.st_gid), name
    assert contents(gpu.workspace) == {"a": "1", "folder/b": "2", "tool": "t", odd.name: "o"}


def test_a_key_of_the_door_opens_no_shell_and_no_tunnel(pod: Pod) -> None:
    assert pod.ask("operator", "sh -c id")[1]["refused"] == "BadRequest"
    assert pod.ask("operator", "")[1]["refused"] == "NotAllowed"
    code, answer = pod.ask("operator", "promote 2")
    assert (code, answer["refused"]) == (3, "BadRequest"), "no state, so no pair that a bare epoch could mean"
