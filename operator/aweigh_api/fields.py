"""Types of single fields that Kubernetes writes in a way of its own."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from aweigh_api.quantity import to_bytes

_QUANTITY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
_MEMORY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[mkMGTPE]|[eE][+-]?[0-9]{1,2})?$"


def part(model: type[BaseModel], description: str) -> Any:
    """A part that is always there: its fields' defaults apply also when it is not written."""
    return Field(default_factory=model, description=description, json_schema_extra={"default": {}})


def _int_or_string(pattern: str) -> dict[str, Any]:
    return {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": pattern,
        "maxLength": 64,
    }


def _is_quantity(value: int | str) -> int | str:
    if re.fullmatch(_QUANTITY, str(value)) is None:
        raise ValueError(f"{value!r} is not a quantity such as 2, 500m or 40Gi")
    return value


def _is_memory(value: int | str) -> int | str:
    to_bytes(value)
    return value


Quantity = Annotated[
    int | str,
    AfterValidator(_is_quantity),
    Field(json_schema_extra={"replace": _int_or_string(_QUANTITY)}),
]
Memory = Annotated[
    int | str,
    AfterValidator(_is_memory),
    Field(json_schema_extra={"replace": _int_or_string(_MEMORY)}),
]
Name = Annotated[str, Field(min_length=1, max_length=253)]
Text = Annotated[str, Field(max_length=1024)]
LabelValue = Annotated[str, Field(max_length=63)]
Labels = Annotated[dict[str, LabelValue], Field(max_length=32)]
