"""Starting, stopping and quiescing the workload of a machine: what is idempotent, and what is certainly gone."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_standby.adapters.ssh import SshMachine
from gpu_standby.errors import CommandFailed, MayHaveHappened, TargetDown

from .conftest import Host, eventually, processes


def pid_file(host: Host) -> Path:
    return host.folder.parent / "state" / "workload.pid"


def log_of(host: Host) -> str:
    return (host.folder.parent / "state" / "workload.log").read_text()


def ignores(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = int(next(line for line in lines if line.startswith("SigIgn")).split()[1], 16)
    return bool(mask & (1 << (number - 1)))


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours."""
    made = subprocess.Popen(["sleep", "300"], start_new_session=True)
    yield made
    made.kill()
    made.wait()


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


async def test_a_workload_runs_in_a_session_of_its_own_in_its_workspace_with_the_containers_environment(
    host: Host, machine: SshMachine
) -> None:
    (host.folder.parent / "env").write_text(
        'MODEL="big one"\nexport TOKEN=a=b\nnot a variable=1\n1BAD=2\nPPID=7\nEMPTY=\nLAST=yes'
    )
    assert not await machine.workload_running()
    say = 'echo "$MODEL/$TOKEN/$EMPTY/$LAST $(pwd) it\'s \\"quoted\\""; exec sleep 300'
    await machine.start_workload(say, str(host.workspace))
    assert await machine.workload_running()
    pid = int(pid_file(host).read_text().split()[0])
    assert os.getsid(pid) == pid
    assert log_of(host) == f'big one/a=b//yes {host.workspace} it\'s "quoted"\n'
    assert not ignores(pid, signal.SIGINT), "a program that is interrupted must hear it"
    await machine.stop_workload(5)
    assert not await machine.workload_running()


async def test_starting_what_runs_changes_nothing_also_when_asked_twice_at_once(
    host: Host, machine: SshMachine
) -> None:
    start = "echo started; exec sleep 300"
    await machine.probe(5)
    await asyncio.gather(*(machine.start_workload(start, str(host.workspace)) for _ in range(3)))
    before = pid_file(host).read_text()
    await machine.start_workload(start, str(host.workspace))
    assert pid_file(host).read_text() == before
    assert log_of(host).count("started") == 1
    await machine.stop_workload(5)


async def test_a_recycled_process_number_is_not_our_workload_and_is_not_stopped(
    host: Host, machine: SshMachine, stranger: subprocess.Popen[bytes]
) -> None:
    pid_file(host).parent.mkdir(mode=0o700)
    pid_file(host).write_text(f"{stranger.pid} 12345 0123456789abcdef\n")
    assert not await machine.workload_running()
    await machine.stop_workload(1)
    assert stranger.poll() is None
    pid_file(host).write_text(f"{stranger.pid} 12345 0123456789abcdef\n")
    await machine.start_workload("exec sleep 300", str(host.workspace))
    assert await machine.workload_running()
    assert stranger.poll() is None
    await machine.stop_workload(1)


async def test_a_start_command_that_ends_at_once_is_told_with_its_last_words(host: Host, machine: SshMachine) -> None:
    (host.folder.parent / "state").mkdir(mode=0o700)
    (host.folder.parent / "state" / "workload.log").write_text("of an earlier run\n")
    with pytest.raises(CommandFailed, match=r"ended at once, with 7:\s+no model here") as failed:
        await machine.start_workload("echo no model here; exit 7", str(host.workspace))
    assert "earlier" not in str(failed.value)
    with pytest.raises(CommandFailed):
        await machine.start_workload("exec sleep 300", "/nowhere")
    assert not await machine.workload_running()


async def test_a_workload_that_ignores_term_is_killed_with_all_it_started(host: Host, machine: SshMachine) -> None:
    command = (
        "trap '' TERM; sleep 876501 & (setsid sh -c 'trap \"\" TERM; sleep 876502; :' &); "
        "while :; do sleep 876503; done"
    )
    await machine.start_workload(command, str(host.workspace))
    eventually(lambda: len(processes("sleep 87650[123]$|sleep 87650[123] $")) >= 3, "all of it runs")
    started = time.monotonic()
    await machine.stop_workload(1)
    assert time.monotonic() - started < 6
    assert not processes("sleep 87650")
    assert not pid_file(host).exists()
    await machine.stop_workload(1)


async def test_a_workload_is_given_its_time_to_save_and_hears_term_once(host: Host, machine: SshMachine) -> None:
    command = "trap 'echo heard; sleep 0.5; echo saved; exit 0' TERM; while :; do sleep 0.05; done"
    await machine.start_workload(command, str(host.workspace))
    await machine.stop_workload(5)
    # The shell tells of the one `sleep` that got the TERM with it, and of none that it began afterwards.
    assert log_of(host).splitlines() == ["Terminated", "heard", "saved"]


async def test_what_a_dead_leader_left_behind_is_ended_before_a_new_start(host: Host, machine: SshMachine) -> None:
    await machine.start_workload("sleep 876504 & sleep 0.6; exit 1", str(host.workspace))
    left = processes("^sleep 876504")
    async with asyncio.timeout(8):
        while await machine.workload_running():  # noqa: ASYNC110 - a process elsewhere sets no event of ours
            await asyncio.sleep(0.05)
    assert left
    assert processes("^sleep 876504") == left
    await machine.start_workload("exec sleep 300", str(host.workspace))
    assert not processes("^sleep 876504")
    await machine.stop_workload(1)


async def test_a_crashed_script_does_not_lock_the_next_one_out(host: Host, machine: SshMachine, gone: int) -> None:
    state = host.folder.parent / "state"
    state.mkdir(mode=0o700)
    for left in (f"{gone} 12345\n", ""):
        (state / "lock").write_text(left)
        await machine.stop_workload(1)
        assert not (state / "lock").exists()


async def test_the_log_of_a_talkative_workload_is_bounded(host: Host, machine: SshMachine) -> None:
    await machine.start_workload("head -c 12000000 /dev/zero; echo the end; exec sleep 300", str(host.workspace))
    log = host.folder.parent / "state" / "workload.log"
    eventually(lambda: log.stat().st_size > 12000000, "it has talked")
    assert await machine.workload_running()
    assert log.stat().st_size == 0
    assert log.with_suffix(".log.1").stat().st_size == 1000000
    await machine.stop_workload(1)


async def test_a_quiesce_command_has_its_limit_and_its_failure_is_told(host: Host, machine: SshMachine) -> None:
    await machine.quiesce(f"touch {host.workspace}/saved", 5)
    assert (host.workspace / "saved").exists()
    with pytest.raises(CommandFailed, match="cannot save") as failed:
        await machine.quiesce("echo cannot save >&2; exit 4", 5)
    assert failed.value.exit_status == 4
    with pytest.raises(CommandFailed, match="did not end in 1 s"):
        await machine.quiesce("sleep 876505", 1)
    assert not processes("sleep 876505")


async def test_a_command_that_was_sent_and_not_answered_may_have_happened(host: Host, machine: SshMachine) -> None:
    with pytest.raises(MayHaveHappened):
        await machine.run("sleep 5", timeout=0.5)
    await machine.probe(5)
    running = asyncio.create_task(machine.run(f"touch {host.workspace}/ran; sleep 30", timeout=20))
    async with asyncio.timeout(8):
        while not (host.workspace / "ran").exists():  # noqa: ASYNC110 - a process elsewhere sets no event of ours
            await asyncio.sleep(0.02)
    host.stop()
    with pytest.raises(MayHaveHappened):
        await running
    with pytest.raises(TargetDown):
        await machine.run("true", timeout=2)


async def test_output_is_bounded_and_need_not_be_text(machine: SshMachine) -> None:
    told = await machine.run(r"printf '\377\376 odd'; head -c 3000000 /dev/zero", timeout=10)
    assert "odd" in told
    assert len(told) == 1 << 20
    with pytest.raises(CommandFailed, match="exit -1"):
        await machine.run("kill -9 $$", timeout=5)


async def test_more_commands_than_one_connection_takes_find_another(host: Host) -> None:
    host.stop()
    host.extra = "MaxSessions 1\n"
    host.start()
    machine = SshMachine(host.machine_address(), host.key.private)
    await machine.probe(5)
    assert await machine.run("echo here", timeout=5) == "here\n"
    await machine.close()


async def test_a_key_is_authorized_once(host: Host, machine: SshMachine) -> None:
    await machine.authorize(["ssh-ed25519 AAAAfirst one"])
    keys = host.home / ".ssh" / "authorized_keys"
    keys.write_text(keys.read_text() + "# ssh-ed25519 AAAAsecond was here\nssh-rsa AAAAold no newline")
    await machine.authorize(["ssh-ed25519 AAAAfirst one", "ssh-ed25519 AAAAsecond two"])
    assert keys.read_text().splitlines() == [
        "ssh-ed25519 AAAAfirst one",
        "# ssh-ed25519 AAAAsecond was here",
        "ssh-rsa AAAAold no newline",
        "ssh-ed25519 AAAAsecond two",
    ]
    assert keys.stat().st_mode & 0o777 == 0o600
