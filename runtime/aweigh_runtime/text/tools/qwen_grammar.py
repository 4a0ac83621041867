"""The grammar of Qwen3-Coder's parameters. A string is written as plain text there, not as JSON: so
what a schema says about strings is turned into expressions here, or refused.
"""

from collections.abc import Mapping
from typing import Any

from aweigh_runtime.text.tools import lark
from aweigh_runtime.text.tools.kinds import is_string, kinds_of, resolved
from aweigh_runtime.text.tools.lark import Unenforceable
from aweigh_runtime.text.tools.qwen import PARAMETER, PARAMETER_ENDS

_NAMESPACES = ("$defs", "definitions")  # where references inside a schema lead
_NOTES = {"title", "description", "default", "examples", "deprecated", "$comment"}
_OF_TEXT = _NOTES | {"type", "enum", "const", "minLength", "maxLength"}
_OF_MIXED = _NOTES | {"type", "anyOf", "oneOf"}
_OF_FUNCTION = _NOTES | {"type", "properties", "required", "additionalProperties", *_NAMESPACES}
_ENDS = f"\n{PARAMETER_ENDS}\n"
_WITHOUT_END = r"& ~/(?s:.*)<\/parameter>(?s:.*)/"


class Parameters:
    """One function's parameters in the order of its schema; those not required may be missing."""

    def __init__(self, function: Mapping[str, Any], prefix: str, *, strict: bool) -> None:
        self.rules: list[str] = []  # beside the sequence
        self._function = function
        self._prefix = prefix
        self._strict = strict
        self._expect_known("parameters", function, _OF_FUNCTION)
        properties, required = function.get("properties"), function.get("required")
        self._properties = properties if isinstance(properties, dict) else {}
        self._required = required if isinstance(required, list) else []
        names = list(dict.fromkeys([*self._properties, *map(str, self._required)]))
        self.sequence = " ".join(map(self._parameter, names))
        if not isinstance(properties, dict):
            self.sequence += f" {self._others()}"

    def _parameter(self, name: str) -> str:
        if not name or len(name) > 256 or ">" in name or "\n" in name:
            raise Unenforceable(f"the parameter's name {name[:100]!r} cannot be written")
        head = lark.text(f"{PARAMETER}{name}>\n")
        part = f"({head} {self._value(name)})"
        return part if name in self._required else f"{part}?"

    def _value(self, name: str) -> str:
        kinds = kinds_of(self._function, name)
        own = self._properties.get(name)
        found = resolved(own, self._function)
        if kinds is not None and "string" not in kinds and isinstance(own, dict):
            shared = {key: self._function[key] for key in _NAMESPACES if key in self._function}
            value = lark.schema({**shared, **own}, strict=self._strict)
            return f"{value} {lark.text(_ENDS)}"
        if is_string(kinds):
            self._expect_known(name, found, _OF_TEXT)
            return self._string(found)
        self._expect_known(name, found, _OF_MIXED)
        return self._text("*")

    def _string(self, found: Mapping[str, Any]) -> str:
        match found:
            case {"const": str(value)}:
                values = [value]
            case {"enum": list(listed)}:
                values = [value for value in listed if isinstance(value, str)]
            case _:
                least, most = _length(found, "minLength"), _length(found, "maxLength")
                return self._text(f"{{{least or 0},{'' if most is None else most}}}")
        texts = [lark.text(f"{value}{_ENDS}") for value in values]
        return f"({' | '.join(texts)})"

    def _text(self, times: str) -> str:
        """So many characters, and the end."""
        name = f"{self._prefix}_{len(self.rules)}"
        self.rules.append(
            f'{name}[lazy]: {name.upper()} "{PARAMETER_ENDS}\\n"\n'
            f"{name.upper()}: /(?s:.){times}\\n/ {_WITHOUT_END}"
        )
        return name

    def _others(self) -> str:
        """Parameters that the schema does not name."""
        name = f"{self._prefix}_NAME".upper()
        self.rules.append(f"{name}: /[^<>\\n]{{1,64}}/")
        return f'("{PARAMETER}" {name} ">\\n" {self._text("*")})*'

    def _expect_known(self, name: str, found: Any, known: set[str]) -> None:
        unknown = set(found) - known if isinstance(found, dict) else set()
        if self._strict and unknown:
            raise Unenforceable(f"{min(unknown)!r} of {name!r} is not supported")


def _length(found: Mapping[str, Any], keyword: str) -> int | None:
    value = found.get(keyword)
    if value is None or (type(value) is int and value >= 0):
        return value
    raise Unenforceable(f"{keyword!r} is {str(value)[:100]}; expected a number of characters")
