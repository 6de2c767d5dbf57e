"""Is a machine fit for work? The command that is run on it over SSH, and what its answer means. Pure.

`nvidia-smi` may hang for ever on a sick GPU, and has exited 0 while it printed ERR!: so it is bounded, its exit
status is reported, and its text is read.
"""

import re
import shlex
from dataclasses import dataclass

GPU_CHECK_SECONDS = 10
INSPECTION_SECONDS = 20.0
"""Limit of the whole inspection over SSH."""
_BAD_WORDS = ("err!", "no devices were found", "failed", "unknown error", "gpu is lost", "requires reset")
_RSYNC = re.compile(r"version v?(\d+)\.(\d+)")
RSYNC_AT_LEAST = (3, 2)


@dataclass(frozen=True)
class Fitness:
    gpu_problem: str = ""
    """Empty: the GPUs answer."""
    not_yet: str = ""
    """What onstart may still be installing; empty: nothing."""


def command(workspace: str) -> str:
    """POSIX sh; prints `gpu <line>`, `gpu-exit <status>`, `rsync <line>`."""
    query = "nvidia-smi --query-gpu=name,temperature.gpu,power.draw --format=csv,noheader"
    return (
        f"mkdir -p -- {shlex.quote(workspace)}; "
        "if ! command -v nvidia-smi >/dev/null 2>&1; then echo gpu-exit 127; else "
        # A file, not a pipe: a hung nvidia-smi would hold the pipe open after timeout(1) has given up.
        "t=$(mktemp) || exit 1; "
        f'timeout -k 1 {GPU_CHECK_SECONDS} {query} </dev/null >"$t" 2>&1; s=$?; sed "s/^/gpu /" "$t"; rm -f "$t"; '
        'echo "gpu-exit $s"; fi; '
        'echo "rsync $(rsync --version 2>/dev/null | head -n 1)"'
    )


def read(output: str, gpu_count: int) -> Fitness:
    lines = output.splitlines()
    status = next((line[9:].strip() for line in lines if line.startswith("gpu-exit ")), None)
    gpus = [line[4:].strip() for line in lines if line.startswith("gpu ") and line[4:].strip()]
    rsync = next((line for line in lines if line.startswith("rsync")), None)
    if status is None or rsync is None:
        return Fitness(not_yet=f"its answer is not complete: {' '.join(output.split())[:100]!r}")
    problem = _gpu_problem(status, gpus, gpu_count)
    if problem:
        return Fitness(gpu_problem=problem)
    return Fitness(not_yet=_rsync_problem(rsync))


def _gpu_problem(status: str, gpus: list[str], gpu_count: int) -> str:
    match status:
        case "127":
            return "there is no nvidia-smi"
        case "124" | "137":
            return f"nvidia-smi hangs (no answer in {GPU_CHECK_SECONDS} s)"
        case "0":
            pass
        case _:
            return f"nvidia-smi failed with {status}: {'; '.join(gpus)[:120]}"
    bad = next((line for line in gpus if any(word in line.lower() for word in _BAD_WORDS)), None)
    if bad is not None:
        return f"nvidia-smi reports {bad[:120]!r}"
    if len(gpus) < gpu_count:
        return f"nvidia-smi shows {len(gpus)} of {gpu_count} GPUs"
    return ""


def _rsync_problem(line: str) -> str:
    found = _RSYNC.search(line)
    if found is None:
        return "rsync is not installed (yet)"
    if (int(found[1]), int(found[2])) < RSYNC_AT_LEAST:
        return f"rsync {found[1]}.{found[2]} is too old (3.2 is needed)"
    return ""
