"""The generated CRDs hold the API conventions point by point; what only the API server can judge is in tests/e2e."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from gpu_standby.api import crd, descriptions
from gpu_standby.api.model import Model, matching
from gpu_standby.api.pair import GpuStandbyPair, PairStatus
from gpu_standby.api.replacement import ReplacementSpec, ReplacementStatus
from gpu_standby.api.spec import PairSpec

Node = dict[str, Any]


def nodes(schema: Node, path: str) -> Iterator[tuple[str, Node]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


MODELS = {"spec": PairSpec, "status": PairStatus, "gpr.spec": ReplacementSpec, "gpr.status": ReplacementStatus}
EVERY_NODE = [found for path, model in MODELS.items() for found in nodes(crd.structural(model), path)]


def offenders(kind: str, holds: Callable[[Node], object], part: str = "") -> list[str]:
    return [path for path, node in EVERY_NODE if node["type"] == kind and part in path and not holds(node)]


def test_every_node_has_a_type_and_none_is_nullable_or_refused_by_a_bare_pattern() -> None:
    assert {node["type"] for _, node in EVERY_NODE} <= {"object", "array", "string", "integer", "boolean"}
    assert not [path for path, node in EVERY_NODE if node.keys() & {"nullable", "pattern"}]


def test_every_string_is_bounded() -> None:
    assert not offenders("string", lambda node: node.keys() & {"maxLength", "enum", "format"})


def test_every_list_is_bounded_and_says_how_it_merges() -> None:
    assert not offenders("array", lambda node: node["maxItems"] <= 64)
    assert not offenders("array", lambda node: node["x-kubernetes-list-type"] in {"map", "set", "atomic"})


def test_every_object_has_fields_or_a_bound_or_is_left_open_on_purpose() -> None:
    free = "x-kubernetes-preserve-unknown-fields"
    assert not offenders("object", lambda node: node.keys() & {"properties", "maxProperties", free})


def test_every_number_of_a_spec_has_a_lowest_value() -> None:
    assert not offenders("integer", lambda node: "minimum" in node, "spec")
    assert not offenders("integer", lambda node: node["format"] in {"int32", "int64"})


def test_only_what_a_user_passes_on_to_a_pod_is_left_open() -> None:
    left_open = {path for path, node in EVERY_NODE if node.get("x-kubernetes-preserve-unknown-fields")}
    assert left_open == {"spec.standby.pod.env[]", "spec.standby.pod.envFrom[]", "spec.standby.pod.resources"}


def test_a_pattern_with_a_message_becomes_a_rule_that_says_it() -> None:
    class Thing(Model):
        size: Annotated[str, matching(r"^[0-9]+$", "must be a number in quotes", 4)]

    size = crd.structural(Thing)["properties"]["size"]
    assert "pattern" not in size
    assert size["x-kubernetes-validations"] == [
        {"rule": "self.matches(r'^[0-9]+$')", "message": "must be a number in quotes"}
    ]


def test_what_has_no_place_in_a_structural_schema_is_an_error() -> None:
    class Thing(Model):
        choice: int | str = 1

    class Other(Model):
        number: Annotated[int, Field(multiple_of=2)] = 2

    with pytest.raises(ValueError, match="a union has no structural schema"):
        crd.structural(Thing)
    with pytest.raises(ValueError, match="multipleOf"):
        crd.structural(Other)


def test_one_word_is_an_enum_and_an_optional_field_is_absent_not_null() -> None:
    class Inner(Model):
        kind: Literal["Only"] = "Only"
        number: int | None = None

    class Thing(Model):
        inner: Inner = Inner()

    schema = crd.structural(Thing)["properties"]["inner"]
    assert schema["default"] == {"kind": "Only"}
    assert schema["properties"]["kind"] == {"type": "string", "enum": ["Only"], "default": "Only"}
    assert "default" not in schema["properties"]["number"]


def test_a_fields_docstring_is_its_description_also_when_inherited() -> None:
    told = descriptions.of_fields(Model)
    assert told["OfferSpec"]["gpuName"].startswith("As Vast.ai writes it")
    host = crd.structural(PairSpec)["properties"]["standby"]["properties"]["existing"]
    assert host["description"].startswith("An SSH host of the user's own that keeps the copy")


def test_the_models_own_defaults_hold_their_own_rules() -> None:
    """A pydantic pattern and the rule made of it are one text; a default that breaks it would be refused."""
    pair = GpuStandbyPair.model_validate(
        {
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {
                "gpu": {
                    "vast": {
                        "apiKeySecretRef": {"name": "vast", "key": "api-key"},
                        "image": "some/image:1",
                        "offer": {"gpuName": "RTX 4090", "maxPricePerHour": "0.60"},
                    }
                },
                "standby": {"pod": {"command": ["/workspace/serve.sh"]}},
                "service": {"name": "p", "ports": [{"port": 80, "gpuPort": 8080, "standbyPort": 8080}]},
            },
        }
    )
    assert PairSpec.model_validate(pair.spec.document()) == pair.spec


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("gpustandbypairs", ["Phase", "Active", "GPU", "Standby", "Synced", "Epoch", "Age"]),
        ("gpureplacements", ["Phase", "Offer", "Price", "Progress", "Age"]),
    ],
)
def test_the_columns_that_a_plain_get_shows(name: str, columns: list[str]) -> None:
    version = crd.definitions()[f"gpustandby.dev_{name}.yaml"]["spec"]["versions"][0]
    assert [c["name"] for c in version["additionalPrinterColumns"] if not c.get("priority")] == columns
    assert version["subresources"] == {"status": {}}
