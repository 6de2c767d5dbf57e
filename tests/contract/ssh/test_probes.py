"""What a probe says of a machine that lives, dies, freezes, is cut off, or is another one."""

import asyncio
import logging
import os
import signal
import struct
import time
from collections.abc import Callable

import asyncssh
import pytest

from gpu_standby.adapters.ssh import SshMachine, generate_key, host_key
from gpu_standby.core.evidence import GpuHealth, MachineAddress, Outcome
from gpu_standby.errors import CannotTell, TargetDown, WrongHostKey
from gpu_standby.ports import KeyPair

from .conftest import Host, Network, eventually, free_port, processes


async def until(condition: Callable[[], object], what: str, seconds: float = 8.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what happens elsewhere sets no event of ours
            await asyncio.sleep(0.02)


async def test_a_machine_that_lives_answers_on_the_held_session_and_on_a_fresh_connection(machine: SshMachine) -> None:
    first, second, fresh = await machine.probe(5), await machine.probe(5), await machine.confirm(5)
    assert [first.outcome, second.outcome, fresh.outcome] == [Outcome.ANSWERED] * 3
    assert (first.held, fresh.held) == (True, False)
    assert first.health is GpuHealth.MISSING
    assert machine.late_answer() is not None
    assert second.finished - second.started < 0.5


async def test_the_end_of_a_killed_sshd_is_pushed_within_a_tenth_of_a_second(host: Host, machine: SshMachine) -> None:
    delays = []
    for _ in range(3):
        assert (await machine.probe(5)).outcome is Outcome.ANSWERED
        everybody = [asyncio.create_task(machine.lost()) for _ in range(2)]
        await asyncio.sleep(0)
        host.stop()
        killed = time.monotonic()
        reasons = await asyncio.wait_for(asyncio.gather(*everybody), 5)
        delays.append(time.monotonic() - killed)
        assert all(reasons)
        host.start()
    assert min(delays) < 0.1


async def test_a_probe_under_way_when_the_session_ends_is_closed_and_the_next_is_refused(
    host: Host, machine: SshMachine
) -> None:
    await machine.probe(5)
    host.signal(signal.SIGSTOP)
    waiting = asyncio.create_task(machine.probe(5))
    await asyncio.sleep(0)
    host.stop()
    assert (await waiting).outcome is Outcome.CLOSED
    assert (await machine.probe(5)).outcome is Outcome.REFUSED
    assert (await machine.confirm(5)).outcome is Outcome.REFUSED


async def test_a_frozen_sshd_whose_port_still_accepts_is_no_answer(host: Host, machine: SshMachine) -> None:
    assert (await machine.probe(5)).outcome is Outcome.ANSWERED
    host.signal(signal.SIGSTOP)
    try:
        fresh, held = await asyncio.gather(machine.confirm(0.5), machine.probe(0.5))
        assert (fresh.outcome, held.outcome) == (Outcome.TIMED_OUT, Outcome.TIMED_OUT)
        assert fresh.finished - fresh.started < 1.5
        assert "connected" in fresh.detail
    finally:
        host.signal(signal.SIGCONT)
    assert (await machine.probe(5)).outcome is Outcome.ANSWERED


async def test_dropped_packets_time_out_at_the_limit_and_the_late_answer_is_a_sign_of_life(
    far_host: Host, network: Network
) -> None:
    machine = SshMachine(far_host.machine_address(), far_host.key.private)
    try:
        assert (await machine.probe(5)).outcome is Outcome.ANSWERED
        network.cut()
        held, fresh = await asyncio.gather(machine.probe(1), machine.confirm(1))
        assert (held.outcome, fresh.outcome) == (Outcome.TIMED_OUT, Outcome.TIMED_OUT)
        assert 0.95 < held.finished - held.started < 1.6
        before = machine.late_answer()
        mended = time.time()
        network.mend()
        await until(lambda: machine.late_answer() != before, "a late answer")
        assert (machine.late_answer() or 0) >= mended
        assert (await machine.probe(5)).outcome is Outcome.ANSWERED
    finally:
        await machine.close()


async def test_a_session_that_opens_after_its_probe_gave_up_is_a_late_answer_too(
    far_host: Host, network: Network
) -> None:
    machine = SshMachine(far_host.machine_address(), far_host.key.private)
    try:
        network.cut()
        assert (await machine.probe(0.5)).outcome is Outcome.TIMED_OUT
        assert machine.late_answer() is None
        network.mend()
        await until(lambda: machine.late_answer() is not None, "a late answer")
    finally:
        await machine.close()


async def test_a_session_silent_for_too_long_is_opened_anew(
    host: Host, machine: SshMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_standby.adapters.ssh.machine.SILENT_SECONDS", 0.3)
    assert (await machine.probe(5)).outcome is Outcome.ANSWERED
    sessions = [pid for pid in host.tree()[1:] if pid in processes("sshd|sh -c")]
    for pid in sessions:
        os.kill(pid, signal.SIGSTOP)
    assert (await machine.probe(0.5)).outcome is Outcome.TIMED_OUT
    lost = asyncio.create_task(machine.lost())
    assert (await machine.probe(5)).outcome is Outcome.ANSWERED
    assert not lost.done(), "we ended it ourselves: nothing was pushed"
    for pid in sessions:
        os.kill(pid, signal.SIGCONT)
    lost.cancel()


async def test_a_key_that_is_not_accepted_is_said_to_be_so(host: Host, other_key: KeyPair) -> None:
    machine = SshMachine(host.machine_address(), other_key.private)
    assert (await machine.probe(5)).outcome is Outcome.AUTH_FAILED
    assert (await machine.confirm(5)).outcome is Outcome.AUTH_FAILED
    with pytest.raises(TargetDown):
        await machine.run("true", timeout=5)
    await machine.close()


class Recorder:
    """Between us and a host: everything we send, as it went over the wire."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.sent: list[bytearray] = []
        self.port = 0

    async def __aenter__(self) -> "Recorder":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = bytearray()
        self.sent.append(sent)
        there, here = await asyncio.open_connection(self._host.address, self._host.port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, record: bytearray | None) -> None:
            try:
                while data := await source.read(65536):
                    if record is not None:
                        record += data
                    target.write(data)
            except OSError:
                pass
            target.close()

        await asyncio.gather(copy(reader, here, sent), copy(there, writer, None))


def message_kinds(sent: bytes) -> list[int]:
    """The SSH messages of what was sent before encryption."""
    version, _, rest = sent.partition(b"\r\n")
    assert version == b"SSH-2.0-gpu-standby"
    kinds = []
    while rest:
        (length,) = struct.unpack(">I", rest[:4])
        assert length < 35000, "something encrypted was sent"
        kinds.append(rest[5])
        rest = rest[4 + length :]
    return kinds


DISCONNECT, KEXINIT, NEWKEYS, ECDH_INIT = 1, 20, 21, 30


async def test_another_host_key_is_evidence_and_nothing_is_sent_to_it(host: Host, other_key: KeyPair) -> None:
    async with Recorder(host) as recorder:
        address = MachineAddress("ssh://test", "127.0.0.1", recorder.port, "root", other_key.public)
        machine = SshMachine(address, host.key.private)
        held, fresh = await machine.probe(5), await machine.confirm(5)
        with pytest.raises(WrongHostKey):
            await machine.run("true", timeout=5)
        await machine.close()
    assert (held.outcome, fresh.outcome) == (Outcome.WRONG_HOST_KEY, Outcome.WRONG_HOST_KEY)
    assert held.presented_key.split()[:2] == host.host_key.split()[:2]
    assert len(recorder.sent) == 3
    for sent in recorder.sent:
        assert set(message_kinds(bytes(sent))) <= {KEXINIT, ECDH_INIT, DISCONNECT}


async def test_a_host_without_a_key_of_the_pinned_kind_is_another_host(host: Host) -> None:
    pinned = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key("openssh").decode().strip()
    machine = SshMachine(host.machine_address(pinned), host.key.private)
    sample = await machine.confirm(5)
    assert sample.outcome is Outcome.WRONG_HOST_KEY
    assert sample.presented_key.split()[:2] == host.host_key.split()[:2]


async def test_the_key_of_first_contact_is_told_without_a_word_about_us(host: Host) -> None:
    async with Recorder(host) as recorder:
        assert await host_key("127.0.0.1", recorder.port, 5) == " ".join(host.host_key.split()[:2])
        await until(lambda: recorder.sent, "a connection")
    assert set(message_kinds(bytes(recorder.sent[0]))) <= {KEXINIT, ECDH_INIT, NEWKEYS, DISCONNECT}
    with pytest.raises(TargetDown):
        await host_key("127.0.0.1", free_port(), 5)


async def test_a_fault_of_ours_is_no_evidence(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SshMachine(host.machine_address(), host.key.private)

    def no_more_files(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("gpu_standby.adapters.ssh.link.socket.socket", no_more_files)
        assert (await machine.probe(5)).outcome is Outcome.CANNOT_TELL
        assert (await machine.confirm(5)).outcome is Outcome.CANNOT_TELL
        with pytest.raises(CannotTell):
            await machine.run("true", timeout=5)
    unreadable = SshMachine(host.machine_address(), "not a key")
    assert (await unreadable.probe(5)).outcome is Outcome.CANNOT_TELL
    assert (await machine.probe(5)).outcome is Outcome.ANSWERED
    await machine.close()


async def test_a_name_with_several_addresses_that_all_refuse_is_refused(host: Host) -> None:
    address = MachineAddress("ssh://test", "localhost", free_port(), "root", host.host_key)
    assert (await SshMachine(address, host.key.private).confirm(5)).outcome is Outcome.REFUSED


async def test_confirmations_leave_neither_tasks_nor_sockets_and_do_not_block_the_loop(machine: SshMachine) -> None:
    await machine.confirm(5)
    tasks, files = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    worst, beating = 0.0, True

    async def beat() -> None:
        nonlocal worst
        while beating:
            asked = time.monotonic()
            await asyncio.sleep(0.01)
            worst = max(worst, time.monotonic() - asked - 0.01)

    beats = asyncio.create_task(beat())
    started, work = time.monotonic(), time.process_time()
    samples = await asyncio.gather(*(machine.confirm(10) for _ in range(50)))
    took, work = time.monotonic() - started, time.process_time() - work
    beating = False
    await beats
    print(f"50 confirmations in {took:.2f} s, {work:.2f} s of CPU, the loop was late by at most {worst * 1000:.0f} ms")  # noqa: T201
    assert {sample.outcome for sample in samples} == {Outcome.ANSWERED}
    assert worst < 0.5
    await until(lambda: len(asyncio.all_tasks()) <= tasks, "no task is left")
    await until(lambda: len(os.listdir("/proc/self/fd")) <= files, "no socket is left")


async def test_what_nvidia_smi_says_becomes_the_health(host: Host) -> None:
    async def health(script: str) -> GpuHealth:
        host.command("nvidia-smi", script)
        machine = SshMachine(host.machine_address(), host.key.private)
        try:
            for _ in range(100):
                found = (await machine.probe(5)).health
                if found is not GpuHealth.UNKNOWN:
                    return found
                await asyncio.sleep(0.02)
        finally:
            await machine.close()
        return GpuHealth.UNKNOWN

    table = "echo '| 0 RTX 4090 On |'; echo '| Processes: |'; echo '| 0 /usr/bin/xid ERR! |'"
    assert await health(table) is GpuHealth.OK
    assert await health("echo 'GPU is lost'; exit 15") is GpuHealth.FAILED
    assert await health("echo '| ERR!   P8   ERR! |'") is GpuHealth.FAILED
    assert await health("echo 'NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.'") is GpuHealth.FAILED


async def test_a_hanging_nvidia_smi_is_hung_and_stays_one_process_over_sessions(host: Host) -> None:
    host.command("nvidia-smi", "exec sleep 987654")
    # Its clock: a minute passes at each look.
    host.command("date", f"echo x >>{host.folder}/ticks; echo $(($(wc -l <{host.folder}/ticks) * 6))")
    for _ in range(2):
        machine = SshMachine(host.machine_address(), host.key.private)
        outcomes = [(await machine.probe(5)).health for _ in range(4)]
        assert outcomes[-1] is GpuHealth.HUNG
        assert len(processes("sleep 987654")) == 1
        await machine.close()
        eventually(lambda: not processes(f"folder={host.folder.parent}/state"), "the loop ends with its session")
        eventually(lambda: not processes("sleep 987654"), "what it started ends with it")


async def test_secrets_are_in_no_log_line(
    host: Host, machine: SshMachine, caplog: pytest.LogCaptureFixture, other_key: KeyPair
) -> None:
    caplog.set_level(logging.DEBUG)
    asyncssh.set_log_level("DEBUG")
    asyncssh.set_debug_level(2)
    try:
        await machine.probe(5)
        await machine.confirm(5)
        await machine.run("cat", timeout=5, stdin="a-secret-on-stdin")
        refused = SshMachine(host.machine_address(), other_key.private)
        await refused.confirm(5)
        broken = SshMachine(host.machine_address(), host.key.private[:-60])
        sample = await broken.confirm(5)
    finally:
        asyncssh.set_log_level("WARNING")
    told = caplog.text + sample.detail
    assert caplog.records
    assert "a-secret-on-stdin" not in told
    for key in (host.key, other_key):
        for line in key.private.splitlines()[1:-1]:
            assert line not in told


def test_a_generated_key_is_an_openssh_ed25519_pair() -> None:
    from gpu_standby.adapters.ssh import public_half
    from gpu_standby.errors import Refused

    pair = generate_key("gpu-standby trainer")
    assert pair.private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert pair.public.startswith("ssh-ed25519 ")
    assert pair.public.endswith(" gpu-standby trainer")
    assert public_half(pair.private).split()[:2] == pair.public.split()[:2]
    with pytest.raises(Refused):
        public_half("nonsense")
