"""The tokens of one step while the device still computes them, and what the host reads of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from aweigh_runtime.engine.messages import FailureKind, TokenLogprobs
from aweigh_runtime.engine.sampling.row import Row
from aweigh_runtime.engine.sampling.verification import NO_TOKEN


@dataclass(frozen=True, slots=True)
class RowFailure:
    """Why a row has no token."""

    kind: FailureKind
    message: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """One step's tokens. Rows that asked for more, or failed, are found by their index."""

    tokens: list[int]  # NO_TOKEN where the row failed
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    failures: dict[int, RowFailure] = field(default_factory=dict)


class Drawn:
    """Tokens on the device, with the largest logit of each row; on their way to the host."""

    def __init__(self, tokens: torch.Tensor, best: torch.Tensor) -> None:
        """Begin to copy them.

        Args:
            tokens: [S], int64; NO_TOKEN where the largest logit is no finite number.
            best: [S], fp32.
        """
        self.tokens = tokens
        self._best = best
        self._copied = tokens.to("cpu", non_blocking=True)
        self._arrived = None
        if tokens.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> list[int]:
        """The tokens on the host. It waits for them, and for nothing that was launched later."""
        if self._arrived is not None:
            self._arrived.synchronize()
        tokens: list[int] = self._copied.tolist()
        return tokens

    def largest(self, index: int) -> float:
        """The largest logit of a row; it waits for the device."""
        return self._best[index].item()

    def failure(self, index: int, row: Row, position: int) -> RowFailure:
        """Why a row has no token at a position."""
        return broken(self.largest(index), row, position)


class Pending:
    """One step's tokens: on the device at once, on the host when somebody asks."""

    def __init__(
        self,
        drawn: Drawn,
        rows: Sequence[Row],
        dead: dict[int, RowFailure],
        tell: Callable[[Chosen], None] | None = None,
    ) -> None:
        """Take what was begun.

        Args:
            drawn: the tokens of S rows.
            rows: S of them.
            dead: rows that have no token whatever was drawn.
            tell: adds to what was chosen, at the end.
        """
        self._drawn = drawn
        self._rows = rows
        self._positions = [row.position for row in rows]  # they may move on before this is read
        self._dead = dead
        self._tell = tell

    @property
    def tokens(self) -> torch.Tensor:
        """[S], int64, on the device; NO_TOKEN where a row failed but for its grammar."""
        return self._drawn.tokens

    def chosen(self) -> Chosen:
        """The tokens on the host; it waits for them."""
        tokens = self._drawn.read()
        for index in self._dead:
            tokens[index] = NO_TOKEN
        failures = dict(self._dead)
        if NO_TOKEN in tokens:
            for index, token in enumerate(tokens):
                if token == NO_TOKEN and index not in failures:
                    failures[index] = self._drawn.failure(
                        index, self._rows[index], self._positions[index]
                    )
        chosen = Chosen(tokens, failures=failures)
        if self._tell is not None:
            self._tell(chosen)
        return chosen


def broken(best: float, row: Row, position: int) -> RowFailure:
    """Why a row has no token at a position where its largest logit is no finite number."""
    if row.matcher is not None and best == -math.inf:
        return RowFailure(
            "grammar",
            f"the grammar allows no token at position {position}, not even an end of the "
            "answer; expected a grammar that the model's tokens can complete",
        )
    return RowFailure(
        "internal",
        f"the largest logit at position {position} is {best}; expected a finite number, so "
        "the model's weights or its number format are broken for this prompt",
    )
