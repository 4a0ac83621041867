"""Typed reading of a JSON object that somebody else wrote. It checks; it never fills in a guess."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from aweigh_runtime.failures import ModelUnreadable, UnsupportedModel

Word = TypeVar("Word", bound=str | bool)
MAX_JSON_BYTES = 64 << 20  # an index of a very large model has a few MB


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelUnreadable(
                f"{path} has {path.stat().st_size} bytes; expected a small JSON file"
            )
        value = json.loads(path.read_bytes())
        readable = is_text(json.dumps(value, ensure_ascii=False))
    except OSError as error:
        raise ModelUnreadable(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelUnreadable(f"{path} is not JSON ({error}); copy the model again") from error
    if not isinstance(value, dict):
        raise ModelUnreadable(f"{path} holds {_kind(value)}; expected a JSON object")
    if not readable:
        raise ModelUnreadable(f"{path} holds half a surrogate pair; expected Unicode text")
    return value


def is_text(text: str) -> bool:
    """Whether a string can be written; JSON can spell some that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Fields:
    """The fields of one JSON object. A null counts as absent, unless a method says otherwise."""

    def __init__(self, path: Path, values: dict[str, Any], within: str = "") -> None:
        self.path = path
        self._values = values
        self._within = within

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    @property
    def empty(self) -> bool:
        """Whether there is no field at all."""
        return not self._values

    @property
    def names(self) -> list[str]:
        """The fields' names in the order of the file."""
        return list(self._values)

    def spelling(self, *names: str) -> str:
        """The one of several names of the same field that is used; the first when none is.

        Raises:
            ModelUnreadable: two are, with different values.
        """
        used = [name for name in names if name in self]
        for name in used[1:]:
            if self._values[name] != self._values[used[0]]:
                value = json.dumps(self._values[used[0]])[:80]
                raise self._unexpected(name, self._values[name], f"{value}, as {used[0]} says")
        return (used or names)[0]

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from `low` to `high`."""
        value = self._get(name, default)
        if type(value) is not int or not low <= value <= high:
            raise self._unexpected(name, value, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A number from `low` to `high`."""
        value = self._get(name, default)
        if not _is_number(value) or not low <= value <= high:
            raise self._unexpected(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def optional_integer(self, name: str, low: int, high: int, absent: int | None) -> int | None:
        """A whole number; None where a null stands, `absent` where nothing does."""
        if name not in self:
            return None if name in self._values else absent
        return self.integer(name, low, high)

    def optional_number(
        self, name: str, low: float, high: float, absent: float | None
    ) -> float | None:
        """A number; None where a null stands, `absent` where nothing does."""
        if name not in self:
            return None if name in self._values else absent
        return self.number(name, low, high)

    def boolean(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._unexpected(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self._unexpected(name, value, "a string")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of strings."""
        value = self._get(name, None)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._unexpected(name, value, "a list of strings")
        return value

    def flat_texts(self, name: str) -> list[str]:
        """A list of strings, or of lists of strings, as one list; empty when absent."""
        value = self._get(name, [])
        groups = value if isinstance(value, list) else [value]
        texts = [text for group in groups for text in (group if type(group) is list else [group])]
        if value is not groups or not all(isinstance(text, str) for text in texts):
            raise self._unexpected(name, value, "a list of strings, or of lists of strings")
        return texts

    def integers(self, name: str, low: int, high: int) -> list[int]:
        """A list of whole numbers from `low` to `high`; empty when absent."""
        value = self._get(name, [])
        if not isinstance(value, list) or not all(
            type(item) is int and low <= item <= high for item in value
        ):
            raise self._unexpected(name, value, f"a list of whole numbers from {low} to {high}")
        return value

    def numbers(self, name: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """`count` numbers from `low` to `high`."""
        value = self._get(name, None)
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(_is_number(item) and low <= item <= high for item in value)
        ):
            raise self._unexpected(name, value, f"{count} numbers from {low:g} to {high:g}")
        return tuple(map(float, value))

    def choice(self, name: str, value: str, supported: Sequence[str]) -> str:
        """`value`, if it is supported.

        Raises:
            UnsupportedModel: it is not; the message names what is.
        """
        if value not in supported:
            raise UnsupportedModel(
                f"{self.path}: {self._within}{name} {value[:80]!r} is not supported; supported: "
                f"{', '.join(supported)}"
            )
        return value

    def one_of(self, name: str, allowed: Sequence[Word], default: Word) -> Word:
        """A string or a boolean, of those that are allowed."""
        value = self._get(name, default)
        for word in allowed:
            if type(value) is type(word) and value == word:
                return word
        raise self._unexpected(name, value, " or ".join(map(json.dumps, allowed)))

    def object(self, name: str) -> "Fields":
        """An object within; empty when absent."""
        value = self._get(name, {})
        if not isinstance(value, dict):
            raise self._unexpected(name, value, "an object")
        return Fields(self.path, value, f"{self._within}{name}.")

    def _get(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is not None:
            return value
        if default is None:
            raise ModelUnreadable(f"{self.path} lacks {self._within}{name}, which must be given")
        return default

    def _unexpected(self, name: str, value: Any, expected: str) -> ModelUnreadable:
        shown = json.dumps(value)[:80]
        return ModelUnreadable(f"{self.path}: {self._within}{name} is {shown}; expected {expected}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
