"""What is wrong with a field of a request: what it is, and what its type in `requests` expects.

Of msgspec's own sentence only the place is taken.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from aweigh_http.errors import ApiError
from aweigh_runtime.server.errors import invalid

_STEP = re.compile(r"\.(?P<field>\w+)|\[(?P<index>\d+)\]")
_ABSENT = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_SHOWN_CHARACTERS = 40

Path = Sequence[str | int]


def explained(
    error: msgspec.ValidationError, kind: type[msgspec.Struct], values: dict[str, Any]
) -> ApiError:
    """The error for the client, whose body had these values."""
    what, _, place = str(error).partition(" - at `")
    path = [step["field"] or int(step["index"]) for step in _STEP.finditer(place)]
    where, type_ = _spelled(path), _type_at(path, kind)
    if absent := _ABSENT.fullmatch(what):
        path.append(absent[1])
        where = _spelled(path)
        return invalid(f"'{where}' is missing; expected {_expected(_type_at(path, kind))}.", where)
    if unknown := _UNKNOWN.fullmatch(what):
        known = ", ".join(field.name for field in type_.fields)
        return invalid(f"'{where}' has {_shown(unknown[1])}; expected {known}.", where)
    if place.startswith("key`"):
        return invalid(f"A name in '{where}' is not {_expected(type_.key_type)}.", where)
    if place.endswith("[...]`"):
        return invalid(f"A value in '{where}' is not {_expected(type_.value_type)}.", where)
    value = _shown(_value_at(path, values))
    return invalid(f"'{where}' is {value}; expected {_expected(type_)}.", where)


def _spelled(path: Path) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")


def _value_at(path: Path, value: Any) -> Any:
    for step in path:
        value = value[step]
    return value


def _type_at(path: Path, kind: type[msgspec.Struct]) -> Any:
    found: Any = _inspected(kind)
    for step in path:
        options = found.types if isinstance(found, inspect.UnionType) else [found]
        found = next(inner for inner in (_inside(option, step) for option in options) if inner)
    return _narrowed(found)


@cache
def _inspected(kind: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(kind)


def _inside(type_: Any, step: str | int) -> Any:
    """What a type has at a name or an index; None: nothing."""
    if isinstance(type_, inspect.ListType) and isinstance(step, int):
        return type_.item_type
    if isinstance(type_, inspect.StructType):
        return next((field.type for field in type_.fields if field.name == step), None)
    return None


def _narrowed(type_: Any) -> Any:
    """The one kind of a value that may also be null."""
    if not isinstance(type_, inspect.UnionType):
        return type_
    options = [each for each in type_.types if not isinstance(each, inspect.NoneType)]
    return options[0] if len(options) == 1 else inspect.UnionType(tuple(options))


def _expected(type_: Any) -> str:
    return _WORDS[type(type_)](type_)


def _number(noun: str) -> Callable[[Any], str]:
    def words(type_: Any) -> str:
        most = type_.lt - 1 if type_.le is None and type_.lt is not None else type_.le
        if most is None:
            return noun
        if type_.gt is not None:
            return f"{noun} above {type_.gt}, at most {most}"
        return f"{noun} from {type_.ge} to {most}"

    return words


def _sized(noun: str, unit: str) -> Callable[[Any], str]:
    def words(type_: Any) -> str:
        if type_.max_length is None:
            return noun if type_.min_length is None else f"{noun} that is not empty"
        begin = "up" if type_.min_length is None else type_.min_length
        return f"{noun} of {begin} to {type_.max_length} {unit}"

    return words


def _text(type_: inspect.StrType) -> str:
    if type_.pattern is not None:
        return f"a text that matches {type_.pattern}"
    return _sized("a text", "characters")(type_)


_WORDS: dict[type, Callable[[Any], str]] = {
    inspect.AnyType: lambda _: "any value",
    inspect.BoolType: lambda _: "true or false",
    inspect.IntType: _number("an integer"),
    inspect.FloatType: _number("a number"),
    inspect.StrType: _text,
    inspect.LiteralType: lambda type_: " or ".join(map(_shown, type_.values)),
    inspect.ListType: _sized("a list", "items"),
    inspect.DictType: _sized("an object", "fields"),
    inspect.StructType: lambda _: "an object",
    inspect.NoneType: lambda _: "null",
    inspect.UnionType: lambda type_: " or ".join(map(_expected, type_.types)),
}


def _shown(value: Any) -> str:
    """A value if it is short, else its kind and length."""
    match value:
        case list():
            return f"a list of {len(value)} items"
        case dict():
            return f"an object of {len(value)} fields"
        case str() if len(value) > _SHOWN_CHARACTERS:
            return f"a text of {len(value)} characters"
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 2 * _SHOWN_CHARACTERS else "a number of many digits"
