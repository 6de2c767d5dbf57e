"""The two CustomResourceDefinitions, generated from the typed models: structural schemas with defaults and CEL rules."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from gpu_standby.api import names
from gpu_standby.api.pair import PairSpec, PairStatus
from gpu_standby.api.replacement import ReplacementSpec, ReplacementStatus

Schema = dict[str, Any]
_KEPT = (
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
)


def definitions() -> dict[str, Schema]:
    """By the file's name."""
    return {
        f"{names.GROUP}_{names.PAIR_PLURAL}.yaml": _definition(
            kind=names.PAIR_KIND,
            plural=names.PAIR_PLURAL,
            short="gsp",
            about="GpuStandbyPair pairs a GPU machine with a CPU standby that keeps its copy.",
            spec=PairSpec,
            status=PairStatus,
            columns=_PAIR_COLUMNS,
            rules=[
                (
                    f"self.metadata.name.size() <= {names.PAIR_NAME_MAX}",
                    f"metadata.name must have at most {names.PAIR_NAME_MAX} characters: names of what we make are "
                    "derived from it; choose a shorter one",
                )
            ],
        ),
        f"{names.GROUP}_{names.REPLACEMENT_PLURAL}.yaml": _definition(
            kind=names.REPLACEMENT_KIND,
            plural=names.REPLACEMENT_PLURAL,
            short="gpr",
            about="GpuReplacement is one rental of a GPU machine, from the search to the proof that it is gone.",
            spec=ReplacementSpec,
            status=ReplacementStatus,
            columns=_REPLACEMENT_COLUMNS,
            rules=[],
        ),
    }


def _column(name: str, path: str, kind: str = "string", *, wide: bool = False) -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path}
    return {**column, "priority": 1} if wide else column


def _condition(kind: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].status'


_PAIR_COLUMNS = [
    _column("Phase", ".status.phase"),
    _column("Active", ".status.active"),
    _column("GPU", _condition("GpuHealthy")),
    _column("Standby", _condition("StandbyReady")),
    _column("Synced", ".status.sync.coveredTime", "date"),
    _column("Epoch", ".status.epoch", "integer"),
    _column("Age", ".metadata.creationTimestamp", "date"),
    _column("Ready", _condition("Ready"), wide=True),
    _column("Machine", ".status.gpu.providerID", wide=True),
    _column("$/h", ".status.gpu.pricePerHour", wide=True),
    _column("Last-Failover", ".status.lastFailover.flippedTime", "date", wide=True),
]
_REPLACEMENT_COLUMNS = [
    _column("Phase", ".status.phase"),
    _column("Offer", ".status.offerName"),
    _column("Price", ".status.pricePerHour"),
    _column("Progress", ".status.progress"),
    _column("Age", ".metadata.creationTimestamp", "date"),
    _column("Pair", ".spec.pair", wide=True),
    _column("Why", ".spec.why", wide=True),
    _column("Machine", ".status.providerID", wide=True),
]


def _definition(
    *,
    kind: str,
    plural: str,
    short: str,
    about: str,
    spec: type[BaseModel],
    status: type[BaseModel],
    columns: list[Schema],
    rules: list[tuple[str, str]],
) -> Schema:
    schema: Schema = {
        "type": "object",
        "description": about,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(spec),
            "status": structural(status),
        },
    }
    if rules:
        schema["x-kubernetes-validations"] = [{"rule": rule, "message": message} for rule, message in rules]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["gpustandby"],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def structural(model: type[BaseModel]) -> Schema:
    """A model's schema as the API server wants it: nothing by reference, no null, bounds and rules in place."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _convert(raw, raw.get("$defs", {}))


def _convert(node: Mapping[str, Any], defined: Mapping[str, Any]) -> Schema:
    if "$ref" in node:
        target = defined[node["$ref"].rpartition("/")[2]]
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _convert({**target, **beside}, defined)
    if "anyOf" in node:
        others = [option for option in node["anyOf"] if option.get("type") != "null"]
        if len(others) != 1:
            raise ValueError(f"a union has no structural schema: {node}")
        beside = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
        return _convert({**others[0], **beside}, defined)
    schema: Schema = {key: node[key] for key in _KEPT if key in node}
    if "const" in node:
        schema |= {"type": "string", "enum": [node["const"]]}
    if schema.get("format") == "date-time":
        schema["type"] = "string"
    if "description" in node:
        schema["description"] = " ".join(node["description"].split())
    if node.get("default") is not None:
        schema["default"] = node["default"]
    schema |= {key: value for key, value in node.items() if key.startswith("x-kubernetes-")}
    if node.get("type") == "object":
        _convert_object(node, schema, defined)
    if node.get("type") == "array":
        schema["items"] = _convert(node["items"], defined)
    return schema


def _convert_object(node: Mapping[str, Any], schema: Schema, defined: Mapping[str, Any]) -> None:
    if "properties" in node:
        schema["properties"] = {name: _convert(part, defined) for name, part in node["properties"].items()}
        # Whole, not {}: the API server holds an object's default against the rules before the inner defaults.
        if schema.get("default") is not None:
            schema["default"] = {key: value for key, value in schema["default"].items() if value is not None}
    elif isinstance(node.get("additionalProperties"), dict) and node["additionalProperties"]:
        schema["additionalProperties"] = _convert(node["additionalProperties"], defined)
    else:
        schema["x-kubernetes-preserve-unknown-fields"] = True
