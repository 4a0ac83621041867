"""Which JSON types a function's parameter may have, as far as its schema says so plainly."""

import json
from collections.abc import Mapping, Set
from typing import Any

Kinds = Set[str] | None  # None: any

_MAX_HOPS = 32  # of references


def kinds_of(function: Mapping[str, Any], name: str) -> Kinds:
    """The types of one parameter."""
    properties = function.get("properties")
    schema = properties.get(name) if isinstance(properties, dict) else None
    return _kinds(schema, function)


def is_string(kinds: Kinds) -> bool:
    """It can be nothing else."""
    return kinds is not None and set(kinds) == {"string"}


def fits(text: str, kinds: Kinds) -> bool:
    """The text is JSON of one of these types."""
    try:
        kind = _kind(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return False
    return kinds is None or kind in kinds or (kind == "integer" and "number" in kinds)


def _kinds(schema: Any, root: Mapping[str, Any]) -> Kinds:
    match resolved(schema, root):
        case {"anyOf": list(options)} | {"oneOf": list(options)}:
            each = [_stated(resolved(option, root)) for option in options]
            return None if None in each else {kind for kinds in each for kind in kinds or ()}
        case found:
            return _stated(found)


def _stated(schema: Any) -> Kinds:
    match schema:
        case {"type": str(kind)}:
            return {kind}
        case {"type": list(kinds)}:
            return {kind for kind in kinds if isinstance(kind, str)}
        case {"const": value}:
            return {_kind(value)}
        case {"enum": list(values)}:
            return {_kind(value) for value in values}
    return None


def resolved(schema: Any, root: Mapping[str, Any]) -> Any:
    """The schema itself, or what its `#/a/b` refers to; None: nothing here."""
    for _ in range(_MAX_HOPS):
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(reference, str):
            return schema
        head, *path = reference.split("/")
        schema = root if head == "#" else None
        for part in path:
            schema = schema.get(part) if isinstance(schema, dict) else None
    return None


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "null"


def _refuse(constant: str) -> Any:
    raise ValueError(constant)
