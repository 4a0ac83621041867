"""Where one answer stands in its grammar. Recomputing the answer does not move it.

A matcher advances with the tokens of its answer alone. It computes nothing by itself and knows no
clock: `masks` asks it which tokens may come next, and says how long that took.
"""

from dataclasses import dataclass

from llguidance import LLMatcher

from aweigh_runtime.text.grammar_compiler import reason

_SLOW_BUDGET_S = 0.25  # for one answer's slow masks altogether: what it may cost the others


@dataclass(slots=True, eq=False)
class Prototype:
    """A compiled grammar before its first token."""

    backend: LLMatcher
    compiling_s: float
    spoilt: bool = False  # it has reached a limit


class Matcher:
    """One answer's copy of a compiled grammar."""

    def __init__(self, prototype: Prototype, stop_tokens: frozenset[int]) -> None:
        self.stop_tokens = stop_tokens  # all that may come when the grammar is complete
        self.backend = prototype.backend.deep_copy()
        self._prototype = prototype
        self._slow_s = 0.0
        self._error = ""

    def append(self, token: int) -> None:
        """A token has joined the answer. After the end of the grammar nothing changes any more."""
        if not self.backend.is_stopped():
            self.backend.consume_token(token)

    def rollback(self, num_tokens: int) -> None:
        """Take back the last tokens."""
        self.backend.rollback(num_tokens)

    @property
    def complete(self) -> bool:
        """The answer can only end here."""
        return self.backend.is_stopped() and not self.backend.is_error()

    @property
    def error(self) -> str:
        """Why the answer cannot go on; empty while it can."""
        if not self._error and self.backend.is_error():
            why = reason(self.backend.get_error())
            self._fail(f"the grammar cannot be followed any further: {why}; simplify it")
        return self._error

    def charge(self, slow_s: float) -> None:
        """A mask was so slow that others had to wait: an answer may do that for a while only."""
        self._slow_s += slow_s
        if self._slow_s > _SLOW_BUDGET_S:
            self._fail(
                f"the grammar took {self._slow_s:.2f} s of slow steps; expected at most "
                f"{_SLOW_BUDGET_S} s for an answer, so that others do not wait; make it less "
                "ambiguous"
            )

    def _fail(self, message: str) -> None:
        self._error = message
        self._prototype.spoilt = True  # copies share what a lexer has built, up to its limit
