"""A "GPU" that is an sshd on loopback with a folder, and a standby that is the agent with another. No cluster."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_standby.agent.door import Door, respond
from gpu_standby.agent.state import Disk

TOP = Path(__file__).resolve().parents[3]
UID = "pair-uid"
SSHD = "/usr/sbin/sshd"


def keygen(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text().strip()


def _descendants(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                pid = int(path.parent.name)
                found += [pid, *_descendants(pid)]
    return found


class Gpu:
    """sshd as root on a free port, with a host key and authorized keys of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace = folder / "workspace"
        self.workspace.mkdir(parents=True)
        self.host_key = keygen(folder / "host")
        self.authorized = folder / "authorized_keys"
        self.authorized.touch()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        config = self.folder / "sshd_config"
        config.write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {self.folder}/host\nPidFile none\nUsePAM no\n"
            f"StrictModes no\nAuthorizedKeysFile {self.authorized}\nPermitRootLogin yes\nMaxStartups 100\n"
            # The shells of this machine's own root may do anything at a login.
            f"SetEnv HOME={self.folder}\n"
        )
        if not Path(SSHD).exists():
            pytest.fail("sshd is not installed: hack/cluster/prerequisites installs it")
        self._process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        pytest.fail("sshd does not listen")

    def stop(self) -> None:
        """All of it, also the sessions that are open, which sshd would leave."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGSTOP)
        for pid in _descendants(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._process = None

    def write(self, **files: str) -> None:
        for name, text in files.items():
            path = self.workspace / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def document(self, **changes: Any) -> dict[str, Any]:
        base = {"host": "127.0.0.1", "port": self.port, "user": "root", "hostKey": self.host_key}
        return {**base, "path": str(self.workspace), "providerID": "ssh://gpu", **changes}


class Standby:
    """The agent's door, asked as sshd would: by the operator, or by a mover of some epoch."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.disk = Disk(root)
        self.disk.root.mkdir(parents=True)

    def door(self, mover_epoch: int | None = None) -> Door:
        return Door(self.disk, self.root / "authorized_keys", "agent", mover_epoch)

    def operator(self, op: str, **arguments: Any) -> dict[str, Any]:
        return respond(self.door(), {"op": op, "pair": UID, **arguments}, lambda _: None)

    def mover(self, key_epoch: int, op: str, **arguments: Any) -> dict[str, Any]:
        return respond(self.door(key_epoch), {"op": op, "pair": UID, **arguments}, lambda _: None)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "gpu_standby.agent", "--root", str(self.root), "door", *words]

    def tree(self) -> dict[str, str]:
        return contents(self.disk.tree)


def contents(folder: Path) -> dict[str, str]:
    found = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base) / name
            key = str(path.relative_to(folder))
            if key != ".gpu-standby-root":
                found[key] = f"-> {os.readlink(path)}" if path.is_symlink() else path.read_bytes().decode("latin1")
    return found


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[Gpu]:
    machine = Gpu(tmp_path / "gpu")
    yield machine
    machine.stop()


@pytest.fixture
def standby(tmp_path: Path, gpu: Gpu) -> Iterator[Standby]:
    """Initialised at epoch 1, and let in by the GPU."""
    made = Standby(tmp_path / "standby")
    assert made.operator("init", epoch=1)["ok"]
    admit(made, gpu)
    yield made
    (made.disk.gate / "run").unlink(missing_ok=True)
    shutil.rmtree(made.root, ignore_errors=True)


def admit(standby: Standby, gpu: Gpu) -> None:
    key = standby.operator("probe", nonce="n")["transferKey"]
    with gpu.authorized.open("a") as file:
        file.write(f"{key}\n")
