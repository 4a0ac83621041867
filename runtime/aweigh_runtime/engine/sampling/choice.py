"""Chooses the next token of every row of a step, greedy and drawn rows together.

The logits are edited first, then every row goes one of three ways. A row whose grammar leads
nowhere, or whose logits are no numbers, fails alone: no operation here mixes rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from aweigh_runtime.engine.masks import Masks
from aweigh_runtime.engine.messages import FailureKind, TokenLogprobs
from aweigh_runtime.engine.sampling.edits import allow, edit
from aweigh_runtime.engine.sampling.logprobs import logprobs
from aweigh_runtime.engine.sampling.race import draw_filtered, draw_plain
from aweigh_runtime.engine.sampling.row import Row, Way

NO_TOKEN = -1

_Draw = Callable[[torch.Tensor, torch.Tensor, Sequence[Row]], torch.Tensor]
_DRAWS: dict[Way, _Draw] = {Way.PLAIN: draw_plain, Way.FILTERED: draw_filtered}


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


class Sampler:
    """Chooses tokens of one vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        self._masks = Masks(vocab_size)

    def choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> Chosen:
        """The next token of every row. Ties go to the lowest token.

        Args:
            logits: [S, V], fp32, contiguous; they are overwritten.
            rows: S of them.
        """
        if not rows:
            return Chosen([])
        special = [index for index, row in enumerate(rows) if row.special]
        if not special:
            return _failing(_tokens(logits, rows), logits, rows, {})
        told = [index for index in special if rows[index].logprobs is not None]
        raw = logits[torch.tensor(told, device=logits.device)] if told else logits
        dead = self._edit(logits, rows, special)
        chosen = _failing(_tokens(logits, rows), logits, rows, dead)
        _tell(chosen, raw, rows, told)
        return chosen

    def prompt_logprobs(
        self, logits: torch.Tensor, targets: Sequence[int], top: int
    ) -> list[TokenLogprobs]:
        """How likely each target was, and the `top` likeliest tokens.

        Args:
            logits: [n, V], fp32.
            targets: n tokens.
            top: at least 0.
        """
        return logprobs(logits, targets, [top] * len(targets))

    def _edit(
        self, logits: torch.Tensor, rows: Sequence[Row], special: Sequence[int]
    ) -> dict[int, RowFailure]:
        """Edit the logits in place; the rows whose grammar has failed."""
        edit(logits, rows, special)
        constrained = {i: matcher for i in special if (matcher := rows[i].matcher) is not None}
        if constrained:
            masks = self._masks.of(list(constrained.values()))
            allow(logits, list(constrained), torch.from_numpy(masks))
        failed = {i: matcher.error for i, matcher in constrained.items() if matcher.error}
        return {i: RowFailure("grammar", message) for i, message in failed.items()}


def _tokens(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    """NO_TOKEN where the largest logit is no finite number."""
    best, tokens = logits.max(dim=-1)  # the first of equals; NaN counts as the largest
    for way, draw in _DRAWS.items():
        drawn = [index for index, row in enumerate(rows) if row.way is way]
        if len(drawn) == len(rows):
            tokens = draw(logits, best, rows)
        elif drawn:
            at = torch.tensor(drawn, device=logits.device)
            tokens[at] = draw(logits[at], best[at], [rows[index] for index in drawn])
    chosen: list[int] = torch.where(best.isfinite(), tokens, NO_TOKEN).tolist()
    return chosen


def _failing(
    tokens: list[int], logits: torch.Tensor, rows: Sequence[Row], dead: dict[int, RowFailure]
) -> Chosen:
    """The tokens, and for each row without one the reason."""
    for index in dead:
        tokens[index] = NO_TOKEN
    failures = dict(dead)
    if NO_TOKEN in tokens:
        for index, token in enumerate(tokens):
            if token == NO_TOKEN and index not in dead:
                failures[index] = _reason(logits[index].amax().item(), rows[index])
    return Chosen(tokens, failures=failures)


def _reason(best: float, row: Row) -> RowFailure:
    if row.matcher is not None and best == -math.inf:
        return RowFailure(
            "grammar",
            f"the grammar allows no token at position {row.position}, not even an end of the "
            "answer; expected a grammar that the model's tokens can complete",
        )
    return RowFailure(
        "internal",
        f"the largest logit at position {row.position} is {best}; expected a finite number, so "
        "the model's weights or its number format are broken for this prompt",
    )


def _tell(chosen: Chosen, raw: torch.Tensor, rows: Sequence[Row], told: Sequence[int]) -> None:
    """Add the log-probabilities that rows asked for."""
    if not told:
        return
    targets = [max(chosen.tokens[index], 0) for index in told]
    parts = logprobs(raw, targets, [rows[index].logprobs or 0 for index in told])
    for index, part in zip(told, parts, strict=True):
        if index not in chosen.failures:
            chosen.logprobs[index] = part
