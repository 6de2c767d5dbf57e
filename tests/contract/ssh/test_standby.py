"""The standby's agent over real SSH: the door of a pod, and the agent put on a host of the user's own."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gpu_standby.adapters.ssh import HostAgent, Place, SshStandby
from gpu_standby.adapters.ssh import session as sessions
from gpu_standby.agent import bundle
from gpu_standby.core.evidence import MachineAddress, Outcome
from gpu_standby.errors import AgentRefused, CommandFailed, MayHaveHappened, TargetDown, WrongHostKey
from gpu_standby.ports import KeyPair

from .conftest import Host, eventually, processes

UID = "3f0c1b1e-pair"
TOP = Path(__file__).resolve().parents[3]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Host]:
    """A pod's agent: whatever is asked, the key opens the door alone."""
    made = Host(tmp_path / "pod")
    root = tmp_path / "disk"
    root.mkdir()
    agent = f"env PYTHONPATH={TOP}/operator {sys.executable} -m gpu_standby.agent --root {root} door operator"
    made.extra = f"ForceCommand exec {agent}\n"
    try:
        yield made.start()
    finally:
        made.clean()


@pytest.fixture
async def standby(door: Host) -> AsyncIterator[SshStandby]:
    made = SshStandby(place(door), door.key.private)
    try:
        yield made
    finally:
        await made.close()


def agents(door: Host) -> list[int]:
    return processes(rf"^\S*python\S* -m gpu_standby\.agent --root {door.folder.parent}/disk door")


def place(host: Host, host_key: str = "") -> Place:
    return Place(host.address, host.port, "root", host_key or host.host_key)


async def test_the_agent_is_asked_many_things_over_one_session(door: Host, standby: SshStandby) -> None:
    first = await standby.probe(10)
    assert (first.outcome, first.has_state) == (Outcome.ANSWERED, False)
    await standby.init(UID, 1)
    samples = await asyncio.gather(*(standby.probe(10) for _ in range(10)))
    assert {(s.outcome, s.pair_uid, s.epoch, s.active) for s in samples} == {(Outcome.ANSWERED, UID, 1, "GPU")}
    assert samples[0].transfer_key.startswith("ssh-ed25519 ")
    assert samples[0].agent_version == bundle.version()
    assert len(agents(door)) == 1


async def test_a_refusal_carries_the_doors_reason(standby: SshStandby) -> None:
    with pytest.raises(AgentRefused) as refused:
        await standby.promote(UID, 2, 5)
    assert refused.value.reason == "NoState"
    await standby.init(UID, 1)
    with pytest.raises(AgentRefused) as refused:
        await standby.promote(UID, 2, 5)
    assert refused.value.reason == "NeverSynced"
    with pytest.raises(AgentRefused) as refused:
        await standby.admit("another", 1, "ssh-ed25519 AAAA mover")
    assert refused.value.reason == "OtherPair"


async def test_the_second_witness_tells_what_it_saw(standby: SshStandby, host: Host, other_key: KeyPair) -> None:
    await standby.init(UID, 1)
    transfer_key = (await standby.probe(10)).transfer_key
    gpu = host.machine_address()
    assert (await standby.reach(gpu, 5)).outcome is Outcome.AUTH_FAILED
    (host.folder / "authorized").write_text(transfer_key + "\n")
    assert (await standby.reach(gpu, 5)).outcome is Outcome.ANSWERED
    assert (await standby.reach(host.machine_address(other_key.public), 5)).outcome is Outcome.WRONG_HOST_KEY
    host.stop()
    assert (await standby.reach(gpu, 5)).outcome is Outcome.REFUSED


async def test_a_session_that_ends_after_the_request_was_sent_may_have_happened(
    door: Host, standby: SshStandby
) -> None:
    await standby.probe(10)
    (agent,) = agents(door)
    os.kill(agent, signal.SIGSTOP)
    promoting = asyncio.create_task(standby.promote(UID, 2, 10))
    await asyncio.sleep(0)
    door.stop()
    os.kill(agent, signal.SIGKILL)
    with pytest.raises(MayHaveHappened):
        await promoting
    with pytest.raises(TargetDown):
        await standby.promote(UID, 2, 5)
    assert (await standby.probe(5)).outcome is Outcome.REFUSED
    assert (await standby.reach(MachineAddress("", "127.0.0.1", 1, "root", door.host_key), 1)).outcome is (
        Outcome.CANNOT_TELL
    )
    door.start()
    assert (await standby.probe(10)).outcome is Outcome.ANSWERED


async def test_a_request_does_not_wait_behind_a_session_that_keeps_silent(door: Host, standby: SshStandby) -> None:
    await standby.probe(10)
    (frozen,) = agents(door)
    os.kill(frozen, signal.SIGSTOP)
    waiting = asyncio.create_task(standby.init(UID, 1))
    assert (await standby.probe(0.3)).outcome is Outcome.TIMED_OUT
    assert (await standby.probe(10)).outcome is Outcome.ANSWERED
    # What the silent one still owes is not thrown away.
    os.kill(frozen, signal.SIGCONT)
    await waiting
    assert (await standby.probe(10)).pair_uid == UID
    eventually(lambda: len(agents(door)) == 1, "the silent one has ended")


async def test_an_agent_that_is_silent_for_long_is_given_up_though_its_request_has_hours(
    door: Host, standby: SshStandby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PING_SECONDS", 0.2)
    monkeypatch.setattr(sessions, "DEAD_SECONDS", 0.8)
    await standby.probe(10)
    (frozen,) = agents(door)
    os.kill(frozen, signal.SIGSTOP)
    with pytest.raises(MayHaveHappened, match="silent"):
        await asyncio.wait_for(standby.collect(UID, 1, {}, [], "aside"), 10)
    os.kill(frozen, signal.SIGKILL)


async def test_another_host_at_the_standbys_address_is_told_nothing(door: Host, other_key: KeyPair) -> None:
    standby = SshStandby(place(door, other_key.public), door.key.private)
    assert (await standby.probe(5)).outcome is Outcome.WRONG_HOST_KEY
    with pytest.raises(WrongHostKey) as wrong:
        await standby.promote(UID, 2, 5)
    assert wrong.value.presented.split()[:2] == door.host_key.split()[:2]
    await standby.close()


@pytest.fixture
def agent(tmp_path: Path) -> HostAgent:
    return HostAgent(f"{tmp_path}/srv/it's here", bundle.archive(), bundle.version(), {"startCommand": "sleep 300"})


async def test_the_agent_is_put_on_a_bare_host_whole_and_only_once(
    host: Host, agent: HostAgent, tmp_path: Path
) -> None:
    (host.home / ".bashrc").write_text("echo welcome to this machine\n")
    standby = SshStandby(place(host), host.key.private, agent)
    assert (await standby.probe(10)).agent_version == bundle.version()
    await standby.init(UID, 1)
    await standby.close()
    (archive,) = (tmp_path / "srv/it's here").glob("agent-*.pyz")
    assert archive.read_bytes() == bundle.archive()
    assert archive.stat().st_mode & 0o777 == 0o700
    put = archive.stat().st_mtime_ns
    again = SshStandby(place(host), host.key.private, agent)
    assert (await again.probe(10)).pair_uid == UID
    assert archive.stat().st_mtime_ns == put
    await again.close()
    # Half of it, as a connection that broke could have left it there.
    archive.write_bytes(archive.read_bytes()[:1000])
    healed = SshStandby(place(host), host.key.private, agent)
    assert (await healed.probe(10)).pair_uid == UID
    await healed.close()
    assert (tmp_path / "srv/it's here/gate/config.json").read_text() == '{"startCommand": "sleep 300"}'


async def test_a_host_without_a_python_says_so(host: Host, agent: HostAgent) -> None:
    host.command("python3", "exit 1")
    standby = SshStandby(place(host), host.key.private, agent)
    sample = await standby.probe(10)
    assert sample.outcome is Outcome.CANNOT_TELL
    assert "python3 >= 3.11 is needed" in sample.detail
    with pytest.raises(CommandFailed, match="python3"):
        await standby.init(UID, 1)
    await standby.close()
