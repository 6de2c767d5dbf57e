"""A real sshd, on loopback or in a network namespace of its own, whose machine has a home and commands of the test."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncssh
import pytest

from gpu_standby.adapters.ssh import SshMachine, generate_key, scripts
from gpu_standby.core.evidence import MachineAddress
from gpu_standby.ports import KeyPair

SSHD = "/usr/sbin/sshd"


def eventually(condition: Callable[[], object], what: str, seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not in {seconds} s: {what}")
        time.sleep(0.02)


def processes(pattern: str, also_in: Path | None = None) -> list[int]:
    """The living whose command line matches, or who work in that folder."""
    found, wanted = [], re.compile(pattern)
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            inside = also_in is not None and Path(os.readlink(f"/proc/{name}/cwd")).is_relative_to(also_in)
        except OSError:
            continue
        if command and (inside or wanted.search(command)):  # a zombie has no command line any more
            found.append(int(name))
    return found


class Host:
    """A machine as far as SSH can tell."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", port: int = 0, namespace: str = "") -> None:
        if not Path(SSHD).exists():
            pytest.fail("sshd is not installed: hack/cluster/prerequisites installs it")
        self.folder, self.address, self.namespace = folder, address, namespace
        self.home, self.commands, self.workspace = folder / "home", folder / "bin", folder / "workspace"
        for made in (self.home, self.commands, self.workspace):
            made.mkdir(parents=True)
        self.key = generate_key("test")
        self.host_key = self._make_host_key()
        self.port = port or free_port()
        self.extra = ""
        self._process: subprocess.Popen[bytes] | None = None

    def _make_host_key(self) -> str:
        made = generate_key("host")
        path = self.folder / "host"
        path.touch(mode=0o600)
        path.write_text(made.private)
        return made.public

    def start(self) -> "Host":
        Path("/run/sshd").mkdir(exist_ok=True)
        (self.folder / "authorized").write_text(self.key.public + "\n")
        path = f"{self.commands}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        (self.folder / "sshd_config").write_text(
            f"ListenAddress {self.address}:{self.port}\nHostKey {self.folder}/host\nPidFile none\nUsePAM no\n"
            f"StrictModes no\nAuthorizedKeysFile {self.folder}/authorized\nPermitRootLogin yes\nMaxStartups 200\n"
            f"SetEnv HOME={self.home} PATH={path}\nPasswordAuthentication no\nLogLevel ERROR\n{self.extra}"
        )
        inside = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        command = [*inside, SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        eventually(self._listens, "sshd listens")
        return self

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex((self.address, self.port)) == 0

    def tree(self) -> list[int]:
        """sshd and everything below it."""
        assert self._process is not None
        parents = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
        found = [self._process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def signal(self, number: int) -> None:
        for pid in self.tree():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def stop(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def clean(self) -> None:
        """A test that failed may have left its workload."""
        self.stop()
        inside = re.escape(str(self.folder.parent))
        for pid in processes(inside, also_in=self.folder.parent):
            os.kill(pid, signal.SIGKILL)

    def command(self, name: str, script: str) -> None:
        path = self.commands / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def machine_address(self, host_key: str = "") -> MachineAddress:
        return MachineAddress("ssh://test", self.address, self.port, "root", host_key or self.host_key)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts' fixed places, moved into the test's folder."""
    for name in ("PROBE", "RUNNING", "START", "STOP", "QUIESCE"):
        script: str = getattr(scripts, name)
        moved = script.replace("/var/tmp/gpu-standby", f"{tmp_path}/state").replace(
            "/etc/environment", f"{tmp_path}/env"
        )
        monkeypatch.setattr(scripts, name, moved)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path / "host")
    try:
        yield made.start()
    finally:
        made.clean()


@pytest.fixture
async def machine(host: Host) -> AsyncIterator[SshMachine]:
    made = SshMachine(host.machine_address(), host.key.private)
    try:
        yield made
    finally:
        await made.close()


class Network:
    """A namespace at the other end of a cable that can be cut without a word."""

    def __init__(self) -> None:
        self.name = f"gsp-test-{os.getpid()}"
        self.outside = f"gspt{os.getpid() % 100000}"
        number = os.getpid() % 16000
        block = f"198.18.{number // 64}.{number % 64 * 4}".rsplit(".", 1)
        self.ours, self.theirs = f"{block[0]}.{int(block[1]) + 1}", f"{block[0]}.{int(block[1]) + 2}"

    def up(self) -> None:
        self._ip("netns", "add", self.name)
        self._ip("link", "add", self.outside, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        self._ip("addr", "add", f"{self.ours}/30", "dev", self.outside)
        self._ip("link", "set", self.outside, "up")
        for words in (("addr", "add", f"{self.theirs}/30", "dev", "eth0"), ("link", "set", "eth0", "up")):
            self._ip("-n", self.name, *words)

    def cut(self) -> None:
        self._filter("-I")

    def mend(self) -> None:
        self._filter("-D")

    def _filter(self, change: str) -> None:
        command = ["ip", "netns", "exec", self.name, "iptables", "-w", change, "INPUT", "-j", "DROP"]
        subprocess.run(command, check=True)

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    def down(self) -> None:
        subprocess.run(["ip", "link", "del", self.outside], check=False)
        subprocess.run(["ip", "netns", "del", self.name], check=False)


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() != 0:
        pytest.fail("network namespaces need root")
    made = Network()
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture
def far_host(tmp_path: Path, network: Network) -> Iterator[Host]:
    made = Host(tmp_path / "host", network.theirs, 22, network.name)
    try:
        yield made.start()
    finally:
        made.clean()


@pytest.fixture(scope="session")
def other_key() -> KeyPair:
    key = asyncssh.generate_private_key("ssh-ed25519", comment="other")
    return KeyPair(key.export_private_key("openssh").decode(), key.export_public_key("openssh").decode().strip())
