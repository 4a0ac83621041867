"""Chooses the next token of every row of a step, greedy and drawn rows together.

The logits are edited first, then every row goes one of three ways. A row whose grammar leads
nowhere, or whose logits are no numbers, fails alone: no operation here mixes rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from aweigh_runtime.engine.masks import Masks
from aweigh_runtime.engine.matcher import Matcher
from aweigh_runtime.engine.messages import FailureKind, TokenLogprobs
from aweigh_runtime.engine.sampling.arriving import Arriving
from aweigh_runtime.engine.sampling.edits import allow, edit
from aweigh_runtime.engine.sampling.logprobs import logprobs
from aweigh_runtime.engine.sampling.race import draw_filtered, draw_plain
from aweigh_runtime.engine.sampling.row import Row, Way
from aweigh_runtime.engine.sampling.verification import NO_TOKEN, Ahead, Drafted, compare

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


@dataclass(frozen=True, slots=True)
class Continued:
    """What one step adds to several answers, found by their index."""

    tokens: list[list[int]]  # those of the draft that stay, then one more unless the answer failed
    kept: list[int]  # how many of the draft stay
    logprobs: dict[int, list[TokenLogprobs]] = field(default_factory=dict)
    # Why an answer has no more tokens; it is of no account if one of them ends the answer.
    failures: dict[int, RowFailure] = field(default_factory=dict)


class Pending:
    """One step's tokens, chosen on the device: the next step may take them there."""

    def __init__(self, tokens: torch.Tensor, best: torch.Tensor, positions: list[int]) -> None:
        """Take what will be there when all is done that was launched until now.

        Args:
            tokens: [S], int64, NO_TOKEN where a row has failed.
            best: [S], fp32, the largest logit of each row: why it has.
            positions: S of them, of the tokens.
        """
        self.tokens = tokens
        self._best = best
        self._positions = positions
        self._arriving = Arriving(tokens)

    def chosen(self) -> Chosen:
        """The same on the host; waits until they are there, and not for what comes after them."""
        tokens = self._arriving.read()
        failures = {
            index: no_number(self._best[index].item(), self._positions[index])
            for index, token in enumerate(tokens)
            if token == NO_TOKEN
        }
        return Chosen(tokens, failures=failures)


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
        constrained = [
            (index, matcher, ())
            for index in special
            if (matcher := rows[index].matcher) is not None
        ]
        dead = self._edit(logits, rows, special, constrained)
        chosen = _failing(_tokens(logits, rows), logits, rows, dead)
        _tell(chosen, raw, rows, told)
        return chosen

    def begin(self, logits: torch.Tensor, rows: Sequence[Row]) -> Pending:
        """The same for rows of which none is special, without waiting for the device.

        Args:
            logits: [S, V], fp32, contiguous; they are overwritten, and may be by others later.
            rows: S of them, at least 1.
        """
        tokens, best = _choices(logits, rows)
        return Pending(tokens, best, [row.position for row in rows])

    def verify(
        self, logits: torch.Tensor, rows: Sequence[Row], drafted: Sequence[Drafted]
    ) -> Continued:
        """What stays of each answer's draft, and the token after it.

        Args:
            logits: [S + drafted tokens, V], fp32, contiguous: those before each drafted token of
                an answer, then those after its last one, answer by answer; they are overwritten.
            rows: S of them.
            drafted: S of them; one may have no tokens.
        """
        ahead = Ahead(rows, drafted)
        special = [index for index, row in enumerate(ahead.rows) if row.special]
        told = [index for index in special if ahead.rows[index].logprobs is not None]
        raw = logits[torch.tensor(told, device=logits.device)] if told else logits
        constrained = [
            (first, matcher, each.tokens)
            for first, row, each in zip(ahead.firsts, rows, drafted, strict=True)
            if (matcher := row.matcher) is not None
        ]
        dead = self._edit(logits, ahead.rows, special, constrained)
        continued = _continued(ahead, _drawn(logits, ahead), compare(logits, ahead))
        _explain(continued, logits, ahead, dead)
        _tell_all(continued, raw, ahead, told)
        return continued

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
        self,
        logits: torch.Tensor,
        rows: Sequence[Row],
        special: Sequence[int],
        constrained: Sequence[tuple[int, Matcher, Sequence[int]]],
    ) -> dict[int, RowFailure]:
        """Edit the logits in place; the rows whose grammar has failed.

        `constrained`: the first row of an answer with a grammar, and what its other rows follow.
        """
        edit(logits, rows, special)
        if not constrained:
            return {}
        masks = self._masks.of([(matcher, tokens) for _, matcher, tokens in constrained])
        lines = [
            index
            for first, _, tokens in constrained
            for index in range(first, first + len(tokens) + 1)
        ]
        allow(logits, lines, torch.from_numpy(masks))
        return {
            index: RowFailure("grammar", matcher.error)
            for first, matcher, tokens in constrained
            if matcher.error
            for index in range(first, first + len(tokens) + 1)
        }


def _tokens(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    chosen: list[int] = _choices(logits, rows)[0].tolist()
    return chosen


def _choices(logits: torch.Tensor, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, NO_TOKEN where the largest logit is no finite number, and those logits."""
    best, tokens = logits.max(dim=-1)  # the first of equals; NaN counts as the largest
    for way, draw in _DRAWS.items():
        drawn = [index for index, row in enumerate(rows) if row.way is way]
        if len(drawn) == len(rows):
            tokens = draw(logits, best, rows)
        elif drawn:
            at = torch.tensor(drawn, device=logits.device)
            tokens[at] = draw(logits[at], best[at], [rows[index] for index in drawn])
    return torch.where(best.isfinite(), tokens, NO_TOKEN), best


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
    return no_number(best, row.position)


def no_number(best: float, position: int) -> RowFailure:
    """Why a row has no token whose largest logit is not finite."""
    return RowFailure(
        "internal",
        f"the largest logit at position {position} is {best}; expected a finite number, so "
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


def _drawn(logits: torch.Tensor, ahead: Ahead) -> dict[int, int]:
    """What rows choose by themselves, by their index: all but those that compare."""
    own = ahead.own
    if len(own) == len(ahead.rows):
        return dict(enumerate(_tokens(logits, ahead.rows)))
    chosen = logits[torch.tensor(own, device=logits.device)]
    return dict(zip(own, _tokens(chosen, [ahead.rows[index] for index in own]), strict=True))


def _continued(
    ahead: Ahead, drawn: dict[int, int], verdicts: dict[int, tuple[bool, int]]
) -> Continued:
    continued = Continued([], [])
    for first, each in zip(ahead.firsts, ahead.drafted, strict=True):
        tokens = []
        for index, token in enumerate(each.tokens, first):
            stays, other = verdicts.get(index) or (drawn[index] == token, drawn[index])
            if not stays:
                tokens.append(other)
                break
            tokens.append(token)
        else:
            tokens.append(drawn[first + len(each.tokens)])
        continued.tokens.append(tokens)
        continued.kept.append(len(tokens) - 1)
    return continued


def _explain(
    continued: Continued, logits: torch.Tensor, ahead: Ahead, dead: dict[int, RowFailure]
) -> None:
    """Take out what is no token, and say why there is none."""
    for answer, (first, tokens) in enumerate(zip(ahead.firsts, continued.tokens, strict=True)):
        if first in dead:
            tokens.clear()
            continued.kept[answer] = 0
            continued.failures[answer] = dead[first]
        elif tokens[-1] == NO_TOKEN:
            index = first + len(tokens) - 1
            del tokens[-1]
            best = logits[index].amax().item()
            continued.failures[answer] = _reason(best, ahead.rows[index])


def _tell_all(continued: Continued, raw: torch.Tensor, ahead: Ahead, told: Sequence[int]) -> None:
    """Add the log-probabilities that answers asked for."""
    line = {index: place for place, index in enumerate(told)}
    for answer, (first, tokens) in enumerate(zip(ahead.firsts, continued.tokens, strict=True)):
        top = ahead.rows[first].logprobs
        if top is not None and tokens:
            begin = line[first]
            rows = raw[begin : begin + len(tokens)]
            continued.logprobs[answer] = logprobs(rows, tokens, [top] * len(tokens))
