"""What every model of the contract shares: camelCase on the wire, no unknown fields, and rules.

A `Rule` says once, for the API server (CEL) and for Python, which values contradict each other, so
that `kubectl apply` and `aweigh local` refuse the same file with the same sentence.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel


@dataclass(frozen=True, slots=True)
class Rule:
    """A statement that a valid object fulfils."""

    cel: str  # the statement for the API server; `self` is the object
    message: str  # what the user reads: the contradiction and what to do
    holds: Callable[[Any], bool]  # the same statement for Python
    given: str | None = None  # text field of the object whose value the sentence ends with

    def sentence(self, of: Any) -> str:
        """What the user reads of an object that does not fulfil it."""
        return self.message if self.given is None else f"{self._begin}{getattr(of, self.given)}'"

    def validation(self) -> dict[str, str]:
        """The rule as it stands in a schema of the API server."""
        found = {"rule": self.cel, "message": self.message}
        if self.given is not None:
            value = f"self.{to_camel(self.given)}"
            found["messageExpression"] = f'{json.dumps(self._begin)} + {value} + "\'"'
        return found

    @property
    def _begin(self) -> str:
        return f"{self.message}; it is '"


class Schema(BaseModel):
    """A part of the contract: immutable, camelCase in YAML, snake_case in Python."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in self.RULES:
            if not rule.holds(self):
                raise ValueError(rule.sentence(self))
        return self

    def manifest(self) -> dict[str, Any]:
        """The object as Kubernetes writes it: camelCase, without what is not set."""
        return self.model_dump(by_alias=True, exclude_none=True)
