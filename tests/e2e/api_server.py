"""The API server alone: what it says to a document, without an operator and without a stand-in Vast.ai."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from gpu_standby.api import crd, names

TOP = Path(__file__).resolve().parents[2]
Json = dict[str, Any]


def environment() -> dict[str, str]:
    """With KUBECONFIG and the cluster's own kubectl and helm on the path."""
    told = subprocess.run([TOP / "hack/cluster/env"], capture_output=True, text=True, timeout=10, check=True).stdout
    shown = subprocess.run(
        ["bash", "-c", f"{told}\nenv -0"], capture_output=True, text=True, timeout=10, check=True
    ).stdout
    return dict(line.split("=", 1) for line in shown.split("\0") if line)


class ApiServer:
    def __init__(self) -> None:
        self.environment = environment()

    def kubectl(self, *words: str, document: Json | None = None, check: bool = True) -> str:
        """What it said: standard output, or the error when there was one."""
        done = subprocess.run(
            ["kubectl", *words],
            input=json.dumps(document) if document is not None else None,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout if done.returncode == 0 else done.stderr


def definitions_in(group: str) -> list[Json]:
    """Our CRDs under another group: the same schemas and rules, and no operator that would act on them."""
    text = json.dumps(list(crd.definitions().values())).replace(names.GROUP, group)
    found: list[Json] = json.loads(text)
    for definition in found:
        # `kubectl get gsp` in another test must not find two.
        for name in ("shortNames", "categories"):
            del definition["spec"]["names"][name]
    return found


def in_group(document: Json, group: str) -> Json:
    return {**document, "apiVersion": f"{group}/{names.VERSION}"}


def plain(answer: str) -> str:
    """Without the line breaks and bullets of kubectl."""
    return re.sub(r"\s+", " ", answer)
