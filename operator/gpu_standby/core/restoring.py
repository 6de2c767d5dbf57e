"""Restoring and Verifying: the standby's tree on the new machine, equal hash by hash (I8). And Ready.

The bytes are moved by the standby's agent, at the word of the sync Job's mover; this plan writes the request into the
pair's ConfigMap and reads the mover's report. The limit is progress, not time: nobody knows how large a tree is.
"""

from collections.abc import Mapping
from typing import Any

from gpu_standby.api import names
from gpu_standby.api.conditions import ReplacementCondition
from gpu_standby.api.replacement import Attempt, OutcomeOfAttempt, ReplacementPhase, RestoreProgress, Why
from gpu_standby.api.spec import Side
from gpu_standby.core.booting import USER, transfer_key
from gpu_standby.core.draft import LONG_SECONDS, REPEAT_SECONDS, Draft
from gpu_standby.core.rental import AskRestore, AttachKey, RestoreReport, SetLabel
from gpu_standby.core.renting import vanished
from gpu_standby.core.searching import STILL_ON_GPU

POLL_SECONDS = 0.5
LOOK_SECONDS = 10.0
"""How often the provider is asked meanwhile: a machine that is gone need not be waited for."""
STALLED_SECONDS = 120.0
NOT_TAKEN_SECONDS = 900.0
"""Nobody has taken the request up: that is our own side's fault, but a machine is paid for meanwhile."""
STILL_ON_GPU_SECONDS = 3600.0
"""A machine that was rented for a planned move is paid for while it waits for the move."""
TRIES = 3
"""Restores of one machine before another is rented."""


def restore(draft: Draft) -> None:
    attempt = draft.attempt
    if attempt is None or attempt.outcome is not OutcomeOfAttempt.RENTED:
        draft.phase(ReplacementPhase.RENTING, "")
        draft.again(0.0)
        return
    nothing = _nothing_to_restore(draft)
    if nothing:
        for kind in (ReplacementCondition.RESTORED, ReplacementCondition.VERIFIED):
            draft.condition(kind, True, *nothing)
        _ready(draft, attempt, nothing[1])
        return
    draft.look_within(LOOK_SECONDS)
    if vanished(draft, attempt):
        draft.fail(attempt, "Vanished", f"machine {attempt.contract} is not listed any more")
        return
    machine = draft.machine(attempt.contract)
    if machine is not None:
        draft.relocate(machine)
    if draft.pair.status.epoch == 0 or not draft.observation.sync_objects:
        _wait_for_ours(draft, attempt, "the pair's sync objects are not there yet")
        return
    if draft.pair.status.active is Side.GPU:
        _wait_for_standby(draft, attempt)
        return
    wanted = _wanted(draft, attempt)
    report = draft.observation.restore
    draft.again(POLL_SECONDS)
    if dict(report.wanted) != dict(wanted):
        if draft.now >= draft.memory.restore_sent + POLL_SECONDS:
            draft.intend(AskRestore(wanted))
        _remember(draft, wanted["id"])
        return
    if report.id != wanted["id"]:
        _wait_for_ours(draft, attempt, "waiting for the sync Job to take up the restore")
        return
    match report.state:
        case "Done":
            _done(draft, attempt, report)
        case "Failed":
            _failed(draft, attempt, report)
        case _:
            _running(draft, attempt, report)


def ready(draft: Draft) -> None:
    """The pair watches the machine from now on; here only its label, its address and stray doubles are kept right."""
    attempt = draft.attempt
    if attempt is None:
        return
    draft.look_within(LONG_SECONDS)
    if not _is_the_pairs(draft) and vanished(draft, attempt):
        # Nobody has moved to it yet, and nobody can any more.
        draft.fail(attempt, "Vanished", f"machine {attempt.contract} is not listed any more")
        return
    if attempt.absent_lists:
        draft.look_within(LOOK_SECONDS)
    machine = draft.machine(attempt.contract)
    if machine is None:
        return
    label = draft.observation.label(attempt.number, ready=True)
    if machine.label != label:
        sent = draft.memory.labels_sent.get(machine.contract)
        if sent is not None and draft.now < sent + REPEAT_SECONDS:
            draft.again(sent + REPEAT_SECONDS - draft.now)
        elif draft.provider_ready:
            draft.intend(SetLabel(machine.contract, label))
    key = transfer_key(draft)
    if key and (machine.contract, key) not in draft.memory.keys_sent and draft.provider_ready:
        # A standby with a new disk has made a new one.
        draft.intend(AttachKey(machine.contract, key))
    draft.relocate(machine)


def _is_the_pairs(draft: Draft) -> bool:
    name, status = draft.observation.replacement.metadata.name, draft.pair.status
    return (status.gpu is not None and status.gpu.replacement == name) or (
        status.move is not None and status.move.replacement == name
    )


def _nothing_to_restore(draft: Draft) -> tuple[str, str] | None:
    if draft.observation.replacement.spec.why is Why.INITIAL:
        return "NothingToRestore", "the pair's first machine: nothing to restore"
    sync = draft.pair.status.sync
    if sync is None or sync.last_completed_time is None:
        return "NeverSynced", "no sync has ever completed, so there is no copy: the machine starts empty"
    return None


def _wanted(draft: Draft, attempt: Attempt) -> dict[str, Any]:
    """The request. Its id holds the machine and the try; another epoch (another mover) is another try."""
    pair, status = draft.pair, draft.status
    gpu = {
        "host": status.address,
        "port": status.ssh_port,
        "user": USER,
        "hostKey": status.host_key,
        "path": pair.spec.workspace.path,
        "providerID": status.provider_id,
    }
    stem = f"{draft.observation.replacement.metadata.uid}-{attempt.contract}-"
    current = draft.observation.restore.wanted
    number = _number(status.restore.id if status.restore is not None else "", stem) or 1
    request = {
        "id": f"{stem}{number}",
        "epoch": pair.status.epoch,
        "gpu": gpu,
        "exclude": list(pair.spec.workspace.exclude),
        "final": False,
    }
    if current.get("id") == request["id"] and dict(current) != request:
        request["id"] = f"{stem}{number + 1}"
    return request


def _number(restore_id: str, stem: str) -> int:
    tail = restore_id.removeprefix(stem)
    return int(tail) if restore_id.startswith(stem) and tail.isdecimal() else 0


def _remember(draft: Draft, restore_id: str) -> None:
    if draft.status.restore is None or draft.status.restore.id != restore_id:
        draft.update(restore=RestoreProgress(id=restore_id, started_time=draft.now), progress="asked for")
        draft.phase(ReplacementPhase.RESTORING, "asking the sync Job for a restore")


def _wait_for_ours(draft: Draft, attempt: Attempt, what: str) -> None:
    """Our own side is not ready: no fault of the machine's."""
    draft.again(POLL_SECONDS)
    since = draft.since(ReplacementCondition.BOOTED)
    if draft.status.restore is not None and draft.status.restore.started_time is not None:
        since = max(since, draft.status.restore.started_time)
    if draft.now >= since + NOT_TAKEN_SECONDS:
        job = names.sync_job(draft.pair.metadata.name, draft.pair.status.epoch)
        text = f"{what} for {NOT_TAKEN_SECONDS:.0f} s; see the Job {job}"
        draft.fail(attempt, "RestoreNotTaken", text)
        return
    draft.phase(ReplacementPhase.RESTORING, what)


def _wait_for_standby(draft: Draft, attempt: Attempt) -> None:
    """The door restores only while the standby is the active side: until then its copy is still being written. So a
    planned move to another GPU goes by way of the standby."""
    if draft.now >= draft.since(ReplacementCondition.BOOTED) + STILL_ON_GPU_SECONDS:
        text = f"the GPU was still the active side after {STILL_ON_GPU_SECONDS:.0f} s, and nothing could be restored"
        draft.fail(attempt, STILL_ON_GPU, text)
        return
    draft.phase(
        ReplacementPhase.RESTORING,
        f"machine {attempt.contract} waits: the GPU is the active side. To move to it: kubectl annotate gsp "
        f"{draft.pair.metadata.name} {names.ANNOTATION_FAILOVER}=",
    )
    draft.again(5.0)


def _running(draft: Draft, attempt: Attempt, report: RestoreReport) -> None:
    progress = draft.memory.progress
    if progress is not None and draft.now >= progress.since + STALLED_SECONDS:
        draft.fail(attempt, "RestoreStalled", f"the restore made no progress for {STALLED_SECONDS:.0f} s")
        return
    verifying = report.verified_files > 0 or report.verified_bytes > 0
    text = progress_text(report.bytes, report.bytes_total)
    if verifying:
        if not draft.is_true(ReplacementCondition.RESTORED):
            draft.condition(ReplacementCondition.RESTORED, True, "Transferred", _size(report.bytes_total))
            draft.condition(ReplacementCondition.VERIFIED, False, "Verifying", "")
        text = f"verifying {progress_text(report.verified_bytes, report.bytes_total)}"
    elif draft.status.phase is not ReplacementPhase.RESTORING or draft.status.progress == "asked for":
        draft.announce("Restoring", f"{_size(report.bytes_total)} to machine {attempt.contract}")
    _record(draft, report, text)
    draft.phase(
        ReplacementPhase.VERIFYING if verifying else ReplacementPhase.RESTORING,
        f"{'verifying' if verifying else 'restoring'} machine {attempt.contract}",
    )


def _done(draft: Draft, attempt: Attempt, report: RestoreReport) -> None:
    size = f"{report.verified_files or report.files} files, {_size(report.verified_bytes or report.bytes_total)}"
    _record(draft, report, f"100% of {_size(max(report.bytes_total, report.bytes))}")
    draft.condition(ReplacementCondition.RESTORED, True, "Restored", f"{size} restored")
    draft.condition(ReplacementCondition.VERIFIED, True, "Verified", f"{size} equal {report.manifest}, hash by hash")
    draft.announce("Verified", f"machine {attempt.contract}: {size} equal the standby's manifest {report.manifest}")
    _ready(draft, attempt, f"restored and verified: {size}")


def _failed(draft: Draft, attempt: Attempt, report: RestoreReport) -> None:
    stem = f"{draft.observation.replacement.metadata.uid}-{attempt.contract}-"
    number = _number(report.id, stem)
    if number >= TRIES:
        draft.fail(attempt, "RestoreFailed", f"{number} restores failed, the last one: {report.error}")
        return
    draft.announce("RestoreFailed", f"restore {number} of {TRIES} failed: {report.error}", warning=True)
    draft.update(restore=RestoreProgress(id=f"{stem}{number + 1}", started_time=draft.now), progress="asked for")
    draft.phase(ReplacementPhase.RESTORING, f"restore {number} of {TRIES} failed, trying again: {report.error}")
    draft.again(0.0)


def _record(draft: Draft, report: RestoreReport, text: str) -> None:
    started = draft.status.restore.started_time if draft.status.restore is not None else None
    draft.update(
        restore=RestoreProgress(
            id=report.id,
            bytes=report.bytes,
            bytes_total=report.bytes_total,
            files=report.files,
            verified_files=report.verified_files,
            verified_bytes=report.verified_bytes,
            manifest=report.manifest[:80],
            started_time=report.started_time or started,
            finished_time=report.finished_time or None,
        ),
        progress=text,
    )


def _ready(draft: Draft, attempt: Attempt, message: str) -> None:
    text = f"machine {attempt.contract} is ready: {message}"
    draft.condition(ReplacementCondition.READY, True, "Ready", text)
    draft.phase(ReplacementPhase.READY, text)
    draft.announce("ReplacementReady", text)
    draft.again(0.0)


def progress_text(done: int, total: int) -> str:
    """ "42% of 1.2 GiB"."""
    if total <= 0:
        return _size(done)
    return f"{min(100, 100 * done // total)}% of {_size(total)}"


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for following in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, following
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def report_of(data: Mapping[str, Any], wanted: Mapping[str, Any]) -> RestoreReport:
    """The mover's `report.restore`, read without trust in its shape."""

    def whole(key: str) -> int:
        value = data.get(key)
        return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else 0

    def time(key: str) -> float:
        value = data.get(key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0

    return RestoreReport(
        id=str(data.get("id") or ""),
        state=str(data.get("state") or ""),
        files=whole("files"),
        bytes=whole("bytes"),
        bytes_total=whole("bytesTotal"),
        verified_files=whole("verifiedFiles"),
        verified_bytes=whole("verifiedBytes"),
        manifest=str(data.get("manifest") or ""),
        error=str(data.get("error") or "")[:500],
        started_time=time("startedTime"),
        finished_time=time("finishedTime"),
        wanted=dict(wanted),
    )
