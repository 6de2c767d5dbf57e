"""`make demo`: the whole story on a real cluster, told while it happens. Every figure at the end was measured.

The exit status is not zero if anything did not hold. The pair stays, to be looked at; `make demo-down` removes all.
"""

import hashlib
import json
import os
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from hack.bench.client import Client
from hack.bench.world import Json, World

PAIR = "trainer"
HERE = Path(__file__).parent
FILES, FILE_BYTES = 300, 60_000
NOTE_BYTES = 2_000
NOTE_PERIOD_SECONDS = 0.4


class Story:
    """Prints what is new, with the seconds since the story began."""

    def __init__(self) -> None:
        self._begun = time.time()
        self._last: dict[str, str] = {}
        self.failures: list[str] = []

    def tell(self, text: str) -> None:
        print(f"[{time.time() - self._begun:6.1f} s]  {text}", flush=True)

    def chapter(self, text: str) -> None:
        print(f"\n== {text}", flush=True)

    def changed(self, what: str, value: object) -> None:
        text = str(value)
        if value not in (None, "") and self._last.get(what) != text:
            self._last[what] = text
            self.tell(f"{what:<28} {text}")

    def holds(self, what: str, truth: object) -> None:
        if not truth:
            self.failures.append(what)
        self.tell(f"{'yes' if truth else 'NO ':<4} {what}")


class Notes(threading.Thread):
    """Somebody at work on the GPU: writes a small file again and again until the machine is gone."""

    def __init__(self, world: World, machine: int) -> None:
        super().__init__(daemon=True)
        self._world, self._machine = world, machine
        self.written: dict[str, float] = {}
        """Name → when it was surely on the machine's disk."""
        self.ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.ended.is_set():
            number += 1
            name = f"note-{number:04d}"
            script = (
                f"mkdir -p /workspace/notes && cd /workspace/notes && head -c {NOTE_BYTES} /dev/urandom > {name}.tmp"
                f" && mv {name}.tmp {name} && sync {name} && echo done"
            )
            try:
                told = self._world.on_machine(self._machine, script)
            except AssertionError:
                return
            if "done" in told:
                self.written[name] = time.time()
            self.ended.wait(NOTE_PERIOD_SECONDS)


def main() -> int:
    story = Story()
    story.chapter("1. A stand-in Vast.ai, and the operator by `helm install` from charts/gpu-standby")
    world = World("demo")
    world.remove(PAIR)
    story.tell("the operator runs, the stand-in rents out machines")

    story.chapter("2. kubectl apply -f hack/demo/pair.yaml")
    world.kubectl("apply", "-f", str(HERE / "pair.yaml"))
    _follow(story, world, lambda s: s.get("phase") == "Protected", 120)

    story.chapter("3. Somebody works on the GPU while a client calls the Service 20 times a second")
    old = world.machine(PAIR)
    truth = _write_files(world, old)
    client = Client(world, PAIR)
    notes = Notes(world, old)
    notes.start()
    story.tell(f"{len(truth)} files with {sum(truth.values()):,} bytes are on the GPU; a note follows every moment")
    world.wait("the copy holds them", lambda: _count(world, "model") == FILES, 60)
    world.wait("some notes", lambda: _count(world, "notes") >= 3, 30)
    story.tell("the standby's copy holds all of them")
    story.changed("the client is answered by", _answering(client))

    story.chapter("4. The GPU machine dies")
    died = world.vast.kill(old, container=True)
    story.tell(f"machine {old} is dead")
    status = _follow(story, world, lambda s: s.get("active") == "Standby" and not s.get("move"), 60, client)
    notes.ended.set()
    covered = float(json.loads(world.on_standby(PAIR, "cat /standby/sync.json"))["startedTime"])

    story.chapter("5. The standby serves; another GPU is rented, restored, verified and gets the endpoint back")
    status = _follow(story, world, lambda s: s.get("active") == "GPU" and s.get("phase") == "Protected", 180, client)
    last = {key: _seconds(value) for key, value in status["lastFailover"].items() if key.endswith("Time")}
    world.wait("a GPU answers the client", lambda: _answered(client, "gpu", last["recoveredTime"]), 30)
    story.changed("the client is answered by", _answering(client))

    story.chapter("6. Did it hold?")
    new = world.machine(PAIR)
    there = _names(world.on_machine(new, "cd /workspace/notes && ls"))
    lost = [name for name in notes.written if name not in there]
    restore = _replacement(world).get("status", {}).get("restore") or {}
    hashes = _hashes(world.on_machine(new, "cd /workspace/model && sha256sum *"))
    story.holds("it is another machine", new != old)
    story.holds("the epoch has grown by two, once for each move", status["epoch"] == 3)
    story.holds("every file is on the new GPU with the hash it had", hashes == _truth_hashes(truth))
    story.holds("every file was verified before traffic went there", restore.get("verifiedFiles", 0) >= FILES)
    story.holds(
        "nothing that a completed sync covered is lost",
        all(notes.written[name] > covered for name in lost),
    )
    world.on_machine(new, "echo on the new machine > /workspace/after.txt")
    world.wait("syncing goes on", lambda: world.on_standby(PAIR, "ls /standby/tree").find("after.txt") >= 0, 30)
    story.holds("syncing goes on in the new epoch", True)
    gap = client.gap(died, "cpu")
    client.stop()
    rows = [
        ("detected after", f"{last['decidedTime'] - died:.2f} s"),
        ("flipped after", f"{last['flippedTime'] - died:.2f} s"),
        ("gap seen by the client", f"{gap:.2f} s"),
        ("recovered after", f"{last['recoveredTime'] - died:.1f} s"),
        ("files verified, hash by hash", f"{restore.get('verifiedFiles', 0):,}"),
        ("bytes verified", f"{restore.get('verifiedBytes', 0):,}"),
        ("bytes lost (written after the last sync)", f"{len(lost) * NOTE_BYTES:,} in {len(lost)} notes"),
    ]
    print()
    for name, value in rows:
        print(f"  {name:<44}{value:>22}")
    print(
        '\nThe cluster stays up. Look around:  eval "$(hack/cluster/env)"; kubectl -n demo get gsp -o wide; '
        "kubectl -n demo describe gsp trainer\nRemove everything:  make demo-down"
    )
    for failure in story.failures:
        print(f"DID NOT HOLD: {failure}", file=sys.stderr)
    return 1 if story.failures else 0


def _follow(story: Story, world: World, holds: Any, seconds: float, client: Client | None = None) -> Json:
    """Until the status is as wanted; meanwhile everything that changes is told."""

    def look() -> Json | None:
        status = world.status(PAIR)
        story.changed("phase", status.get("phase"))
        story.changed("active side", f"{status.get('active')}, epoch {status.get('epoch')}")
        if (move := status.get("move")) is not None:
            story.changed("move", f"to the {move['to']}, step {move['step']} ({move['reason']})")
            age = (status.get("lastFailover") or {}).get("standbyAgeSeconds")
            if move["to"] == "Standby" and age is not None:
                story.changed("age of the standby's copy", f"{age} s")
        child = _replacement(world)
        if child:
            rented = child.get("status", {})
            story.changed(
                f"{child['metadata']['name']}",
                " ".join(
                    str(word)
                    for word in (
                        rented.get("phase"),
                        rented.get("offerName"),
                        f"at {rented['pricePerHour']} $/h" if rented.get("pricePerHour") else None,
                        rented.get("progress"),
                    )
                    if word
                ),
            )
        if client is not None:
            story.changed("the client is answered by", _answering(client))
        return status if holds(status) else None

    found: Json = world.wait("the story goes on", look, seconds, lambda: world.operator_log(40))
    return found


def _replacement(world: World) -> Json:
    """The newest rental."""
    found = world.objects("gpr", "--sort-by=.metadata.creationTimestamp")
    return found[-1] if found else {}


def _answering(client: Client) -> str:
    calls = client.calls()[-1:]
    return "nobody" if not calls or not calls[0].ok else f"the {calls[0].side} side"


def _answered(client: Client, side: str, since: float) -> bool:
    return any(call.ok and call.side == side and call.time > since for call in client.calls())


def _write_files(world: World, machine: int) -> dict[str, int]:
    """Files whose content is a function of their name, so that the truth is known without the machine."""
    script = (
        "mkdir -p /workspace/model && cd /workspace/model && python3 - <<'PY'\n"
        "import hashlib\n"
        f"for n in range({FILES}):\n"
        f"    open(f'part-{{n:03d}}', 'wb').write(hashlib.shake_128(f'part-{{n:03d}}'.encode()).digest({FILE_BYTES}))\n"
        "PY"
    )
    world.on_machine(machine, script)
    return {f"part-{n:03d}": FILE_BYTES for n in range(FILES)}


def _truth_hashes(truth: dict[str, int]) -> dict[str, str]:
    return {
        name: hashlib.sha256(hashlib.shake_128(name.encode()).digest(size)).hexdigest() for name, size in truth.items()
    }


def _hashes(text: str) -> dict[str, str]:
    return {line.split()[1]: line.split()[0] for line in text.splitlines()}


def _names(text: str) -> set[str]:
    return set(text.split())


def _count(world: World, folder: str) -> int:
    return int(world.on_standby(PAIR, f"ls /standby/tree/{folder} 2>/dev/null | wc -l"))


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
