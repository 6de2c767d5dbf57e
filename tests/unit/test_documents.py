"""What people read and copy must be true: examples fit the CRDs, links lead somewhere, named reasons exist."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md"), TOP / "hack/fakes/README.md"])
TARGETS = {
    "help",
    "lint",
    "test",
    "test-unit",
    "test-contract",
    "test-e2e",
    "cluster",
    "cluster-down",
    "fakes",
    "demo",
    "demo-down",
    "bench-failover",
}


def _schema() -> dict[str, Any]:
    crd = yaml.safe_load((TOP / "crds/gpustandby.dev_gpustandbypairs.yaml").read_text())
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def _unknown(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    if isinstance(value, list):
        return [found for item in value for found in _unknown(item, schema.get("items", {}), f"{path}[]")]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    properties = schema.get("properties", {})
    missing = [f"{path}.{name} is missing" for name in schema.get("required", []) if name not in value]
    known = [name for name in value if name in properties]
    strange = [f"{path}.{name} is not in the CRD" for name in value if name not in properties and properties]
    below = [found for name in known for found in _unknown(value[name], properties[name], f"{path}.{name}")]
    return [*missing, *strange, *below]


def _examples() -> list[tuple[str, dict[str, Any]]]:
    found = [("hack/demo/pair.yaml", yaml.safe_load((TOP / "hack/demo/pair.yaml").read_text()))]
    for document in DOCUMENTS:
        blocks = re.findall(r"```yaml\n(.*?)```", document.read_text(), re.DOTALL)
        found += [(document.name, yaml.safe_load(block)) for block in blocks]
    return found


@pytest.mark.parametrize(("name", "example"), _examples())
def test_an_example_fits_the_crd(name: str, example: dict[str, Any]) -> None:
    assert example["kind"] == "GpuStandbyPair"
    assert _unknown(example["spec"], _schema()["properties"]["spec"]) == []


def test_every_link_leads_somewhere() -> None:
    broken = [
        f"{document.name}: {target}"
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text())
        if not target.startswith("http") and not (document.parent / target).exists()
    ]
    assert broken == []


def test_every_reason_in_the_runbook_is_one_that_the_code_gives() -> None:
    code = "\n".join(path.read_text() for path in (TOP / "operator").rglob("*.py"))
    rows = [line for line in (TOP / "docs/runbook.md").read_text().splitlines() if line.startswith("| `")]
    named = {word for row in rows for word in re.findall(r"`([A-Z][A-Za-z]+)`", row.split("|")[1])}
    assert named
    assert {word for word in named if f'"{word}"' not in code} == set()


def test_every_annotation_in_the_documents_is_one_that_is_read() -> None:
    names = (TOP / "operator/gpu_standby/api/names.py").read_text()
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    told = set(re.findall(r"gpustandby\.dev/([a-z-]+)=", text))
    assert told
    assert {name for name in told if f'{{GROUP}}/{name}"' not in names} == set()


def test_make_help_lists_every_target_that_is_promised() -> None:
    told = subprocess.run(["make", "help"], cwd=TOP, capture_output=True, text=True, check=True).stdout
    listed = {line.split()[0] for line in told.splitlines()}
    assert listed >= TARGETS
