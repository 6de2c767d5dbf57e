#!/usr/bin/env python3
"""Write crds/ and the chart's copy from the models; --check only compares."""

import sys
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "operator"))

from gpu_standby.api.crd import definitions  # noqa: E402

HEADER = "# Generated from operator/gpu_standby/api by hack/generate_crds.py. Do not edit.\n"
CHART_HEAD = "{{- if .Values.crds.install }}\n"
CHART_TAIL = "{{- end }}\n"


class _Plain(yaml.SafeDumper):
    """Without anchors: what occurs twice is written twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _yaml(document: dict[str, Any]) -> str:
    text = yaml.dump(document, Dumper=_Plain, sort_keys=False, width=110)
    if "{{" in text:
        raise ValueError("helm would take {{ for its own")
    return text


def wanted() -> dict[Path, str]:
    files: dict[Path, str] = {}
    for name, definition in definitions().items():
        files[TOP / "crds" / name] = HEADER + _yaml(definition)
        # Uninstalling the chart must not take the users' pairs with it.
        kept = {
            **definition,
            "metadata": {**definition["metadata"], "annotations": {"helm.sh/resource-policy": "keep"}},
        }
        text = HEADER + CHART_HEAD + _yaml(kept) + CHART_TAIL
        files[TOP / "charts/gpu-standby/templates/crds" / name] = text
    return files


def main() -> int:
    stale = [path for path, text in wanted().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(TOP)} differs from the models: run make crds", file=sys.stderr)
        return 1 if stale else 0
    for path, text in wanted().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
