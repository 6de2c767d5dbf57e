"""The base of every model: camelCase on the wire, frozen, unknown fields ignored when reading."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

MESSAGE = "x-message"
"""Beside a pattern: the CRD gets a rule with this message in the pattern's place."""


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """CEL rules as (rule, message); the message says what must be true and so how to mend it."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


def matching(pattern: str, message: str, max_length: int) -> Any:
    """A string of one form. The API server answers another one with `message`, which a pattern alone would not tell."""
    return Field(pattern=pattern, max_length=max_length, json_schema_extra={MESSAGE: message})


class Model(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore", serialize_by_alias=True
    )

    def document(self) -> dict[str, Any]:
        """As it is written to the API: camelCase, absent optional fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _read_time(value: object) -> object:
    if isinstance(value, str):
        return datetime.fromisoformat(value).timestamp()
    return value


def format_time(seconds: float) -> str:
    """RFC 3339 with milliseconds: the times of a failover are told by them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_seconds(seconds: float) -> str:
    """RFC 3339 without a fraction, as metav1.Time demands (conditions)."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_TIME_SCHEMA: dict[str, Any] = {"type": "string", "format": "date-time"}

Time = Annotated[
    float,
    BeforeValidator(_read_time),
    PlainSerializer(format_time, return_type=str, when_used="json"),
    Field(json_schema_extra=_TIME_SCHEMA),
]
"""Epoch seconds in Python, RFC 3339 with milliseconds on the wire."""

WholeTime = Annotated[
    float,
    BeforeValidator(_read_time),
    PlainSerializer(format_seconds, return_type=str, when_used="json"),
    Field(json_schema_extra=_TIME_SCHEMA),
]
"""Epoch seconds in Python, RFC 3339 in whole seconds on the wire."""


class SecretKeyRef(Model):
    """A key of a Secret in the pair's namespace."""

    name: str = Field(min_length=1, max_length=253)
    key: str = Field(min_length=1, max_length=253)
