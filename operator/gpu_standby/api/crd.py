"""The two CustomResourceDefinitions, made from the typed models: structural schemas with defaults and CEL rules."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from gpu_standby.api import descriptions, names
from gpu_standby.api.model import MESSAGE, Model, rules
from gpu_standby.api.pair import PairStatus
from gpu_standby.api.replacement import ReplacementSpec, ReplacementStatus
from gpu_standby.api.spec import PairSpec

Schema = dict[str, Any]
REPLACEMENT_NAME_MAX = 63
INT32_MAX = 2**31 - 1
_KEPT = {
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
    "x-kubernetes-validations",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
}
_READ = {"$defs", "title", "description", "default", "const", "properties", "items", "additionalProperties", MESSAGE}
"""Taken up in another form, or left out: titles repeat the fields' names."""


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
            validations=_NAME_RULES,
        ),
        f"{names.GROUP}_{names.REPLACEMENT_PLURAL}.yaml": _definition(
            kind=names.REPLACEMENT_KIND,
            plural=names.REPLACEMENT_PLURAL,
            short="gpr",
            about="GpuReplacement is one rental of a GPU machine, from the search to the proof that it is gone.",
            spec=ReplacementSpec,
            status=ReplacementStatus,
            columns=_REPLACEMENT_COLUMNS,
            validations=[_name_rule(REPLACEMENT_NAME_MAX)],
        ),
    }


def _name_rule(most: int) -> tuple[str, str]:
    return (
        f"self.metadata.name.size() <= {most}",
        f"metadata.name must have at most {most} characters: names of what we make are derived from it; "
        "choose a shorter one",
    )


_NAME_RULES = [
    _name_rule(names.PAIR_NAME_MAX),
    (
        "!self.metadata.name.contains('.')",
        "metadata.name must have no dot: pods are named after it; use dashes",
    ),
]


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
    validations: Sequence[tuple[str, str]],
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
    schema |= rules(*validations)
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
    return _Converter(raw.get("$defs", {}), descriptions.of_fields(Model)).convert(raw)


class _Converter:
    def __init__(self, defined: Mapping[str, Any], told: Mapping[str, Mapping[str, str]]) -> None:
        self._defined = defined
        self._told = told
        """What is said about each field, by class."""

    def convert(self, node: Mapping[str, Any]) -> Schema:
        if "$ref" in node:
            beside = {key: value for key, value in node.items() if key != "$ref"}
            return self.convert({**self._defined[node["$ref"].rpartition("/")[2]], **beside})
        if "anyOf" in node:
            # Optional: absent, never null.
            others = [option for option in node["anyOf"] if option.get("type") != "null"]
            if len(others) != 1:
                raise ValueError(f"a union has no structural schema: {node}")
            beside = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
            return self.convert({**others[0], **beside})
        unknown = set(node) - _KEPT - _READ
        if unknown:
            raise ValueError(f"{sorted(unknown)} has no place in a structural schema: {node}")
        return self._plain(node)

    def _plain(self, node: Mapping[str, Any]) -> Schema:
        schema: Schema = {key: node[key] for key in node if key in _KEPT}
        if "const" in node:
            schema |= {"type": "string", "enum": [node["const"]]}
        if node.get("type") == "integer":
            schema["format"] = "int32" if node.get("maximum", INT32_MAX + 1) <= INT32_MAX else "int64"
        if "description" in node:
            schema["description"] = " ".join(node["description"].split())
        if node.get("default") is not None:
            schema["default"] = node["default"]
        if MESSAGE in node:
            pattern = schema.pop("pattern")
            schema |= rules((f"self.matches(r'{pattern}')", node[MESSAGE]))
        match node.get("type"):
            case "object":
                self._object(node, schema)
            case "array":
                schema["items"] = self.convert(node["items"])
        return schema

    def _object(self, node: Mapping[str, Any], schema: Schema) -> None:
        if "properties" in node:
            told = self._told.get(node.get("title", ""), {})
            schema["properties"] = {
                name: self.convert({**part, **({"description": told[name]} if name in told else {})})
                for name, part in node["properties"].items()
            }
            # Whole, not {}: the API server holds an object's default against the rules before the inner defaults.
            if schema.get("default") is not None:
                schema["default"] = {key: value for key, value in schema["default"].items() if value is not None}
        elif isinstance(node.get("additionalProperties"), dict) and node["additionalProperties"]:
            schema["additionalProperties"] = self.convert(node["additionalProperties"])
        else:
            schema["x-kubernetes-preserve-unknown-fields"] = True
