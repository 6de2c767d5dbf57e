"""Figures: one line each with its limit, the same as JSON, and a failure if one is over."""

import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    unit: str
    limit: float | None = None
    """At most. None: told, not judged."""

    @property
    def ok(self) -> bool:
        return self.limit is None or self.value <= self.limit

    def line(self) -> str:
        limit = "-" if self.limit is None else f"{self.limit:g} {self.unit}"
        return f"{self.name:<58} {self.value:>9.3f} {self.unit}  {limit:>8}  {'ok' if self.ok else 'over'}"


def spread(name: str, values: Sequence[float], *, p50: float | None = None, most: float | None = None) -> list[Figure]:
    """The middle and the worst of many runs, in seconds."""
    return [
        Figure(f"{name}: p50", statistics.median(values), "s", p50),
        Figure(f"{name}: max", max(values), "s", most),
    ]


def finish(bench: str, figures: Sequence[Figure], runs: object = None) -> int:
    """Print, keep as JSON, and say by the exit status whether all are within their limits."""
    for figure in figures:
        print(figure.line())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpu-standby"
    folder = Path(os.environ.get("GPU_STANDBY_CACHE") or home) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{bench}.json"
    told = [{**asdict(figure), "ok": figure.ok} for figure in figures]
    path.write_text(json.dumps({"bench": bench, "figures": told, "runs": runs}, indent=1) + "\n")
    print(f"as JSON, with every run: {path}", file=sys.stderr)
    return 0 if all(figure.ok for figure in figures) else 1
