"""Types of single fields that Kubernetes writes in a way of its own."""

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from aweigh_api.quantity import NotAQuantity, to_bytes
from aweigh_api.schema import Rule

_SHAPE = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,9})?")


def part(model: type[BaseModel], description: str) -> Any:
    """A part that is always there: its fields' defaults apply also when it is not written."""
    return Field(default_factory=model, description=description, json_schema_extra={"default": {}})


def _is_memory(value: int | str) -> bool:
    try:
        to_bytes(value)
    except NotAQuantity:
        return False
    return True


# No pattern: of one the API server tells nothing but its letters. No matches() either: it knows no
# longest string(self), takes the cost for unbounded and refuses the whole schema. To isQuantity a
# unit without a number is 0; hence a digit comes first, or a point and a digit.
_UNSIGNED = (
    "isQuantity(string(self)) && (string(self) >= '0' && string(self) < ':' || "
    "string(self) >= '.0' && string(self) < '.:')"
)
_QUANTITY = Rule(
    cel=_UNSIGNED,
    message="expected a quantity, such as 2, 500m, 10Gi or 10G; units have no B",
    holds=lambda value: _SHAPE.fullmatch(str(value)) is not None,
)
_MEMORY = Rule(
    cel=f"{_UNSIGNED} && !string(self).endsWith('n') && !string(self).endsWith('u')",
    message="expected an amount of memory, such as 10Gi or 10G, or bytes; units have no B",
    holds=_is_memory,
)


def _checked(rule: Rule) -> Callable[[int | str], int | str]:
    def check(value: int | str) -> int | str:
        if not rule.holds(value):
            raise PydanticCustomError("quantity", "{message}", {"message": rule.message})
        return value

    return check


def _int_or_string(rule: Rule) -> dict[str, Any]:
    return {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "maxLength": 64,
        "x-kubernetes-validations": [rule.validation()],
    }


Quantity = Annotated[
    int | str,
    AfterValidator(_checked(_QUANTITY)),
    Field(json_schema_extra={"replace": _int_or_string(_QUANTITY)}),
]
Memory = Annotated[
    int | str,
    AfterValidator(_checked(_MEMORY)),
    Field(json_schema_extra={"replace": _int_or_string(_MEMORY)}),
]
Name = Annotated[str, Field(min_length=1, max_length=253)]
Text = Annotated[str, Field(max_length=1024)]
LabelValue = Annotated[str, Field(max_length=63)]
Labels = Annotated[dict[str, LabelValue], Field(max_length=32)]
