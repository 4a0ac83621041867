"""Typed reading of a JSON object that somebody else wrote. It checks; it never fills in a guess."""

import json
from pathlib import Path
from typing import Any

from aweigh_runtime.failures import ModelUnreadable

MAX_JSON_BYTES = 64 << 20  # an index of a very large model has a few MB


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelUnreadable(
                f"{path} has {path.stat().st_size} bytes; expected a small JSON file"
            )
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelUnreadable(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelUnreadable(f"{path} is not JSON ({error}); copy the model again") from error
    if not isinstance(value, dict):
        raise ModelUnreadable(f"{path} holds {_kind(value)}; expected a JSON object")
    return value


class Fields:
    """The fields of one JSON object. A null counts as absent, as in published configs."""

    def __init__(self, path: Path, values: dict[str, Any], within: str = "") -> None:
        self._path = path
        self._values = values
        self._within = within

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from `low` to `high`."""
        value = self._get(name, default)
        if type(value) is not int or not low <= value <= high:
            raise self._unexpected(name, value, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A number from `low` to `high`."""
        value = self._get(name, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise self._unexpected(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

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

    def object(self, name: str) -> "Fields":
        """An object within; empty when absent."""
        value = self._get(name, {})
        if not isinstance(value, dict):
            raise self._unexpected(name, value, "an object")
        return Fields(self._path, value, f"{self._within}{name}.")

    def _get(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is not None:
            return value
        if default is None:
            raise ModelUnreadable(f"{self._path} lacks {self._within}{name}, which must be given")
        return default

    def _unexpected(self, name: str, value: Any, expected: str) -> ModelUnreadable:
        shown = json.dumps(value)[:80]
        return ModelUnreadable(
            f"{self._path}: {self._within}{name} is {shown}; expected {expected}"
        )


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
