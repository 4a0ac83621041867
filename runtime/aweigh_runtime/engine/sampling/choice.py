"""Chooses the next token of every row of a step, greedy and drawn rows together.

The logits are edited first, then every row goes one of three ways. A row whose grammar leads
nowhere, or whose logits are no numbers, fails alone: no operation here mixes rows.
"""

from collections.abc import Sequence
from functools import partial

import torch

from aweigh_runtime.engine.masks import Masks
from aweigh_runtime.engine.matcher import Matcher
from aweigh_runtime.engine.messages import TokenLogprobs
from aweigh_runtime.engine.sampling.continued import Continued, continued_by, explain
from aweigh_runtime.engine.sampling.drawing import Draws
from aweigh_runtime.engine.sampling.edits import allow, edit
from aweigh_runtime.engine.sampling.logprobs import logprobs
from aweigh_runtime.engine.sampling.pending import Chosen, Pending, RowFailure
from aweigh_runtime.engine.sampling.row import Row
from aweigh_runtime.engine.sampling.verification import Ahead, Drafted, Unread, compare
from aweigh_runtime.engine.sampling.verifying import Verifying


class Sampler:
    """Chooses tokens of one vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        self._masks = Masks(vocab_size)
        self._draws = Draws()

    def choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> Chosen:
        """The next token of every row; arguments are those of `begin`, which does not wait."""
        return self.begin(logits, rows).chosen()

    def begin(self, logits: torch.Tensor, rows: Sequence[Row]) -> Pending:
        """Begin to choose the next token of every row. Ties go to the lowest token.

        Args:
            logits: [S, V], fp32, contiguous; they are overwritten. Nothing reads them later.
            rows: S of them.
        """
        special = [index for index, row in enumerate(rows) if row.special]
        if not special:
            return Pending(self._draws.draw(logits, rows), rows, {})
        told = [index for index in special if rows[index].logprobs is not None]
        raw = logits[torch.tensor(told, device=logits.device)] if told else logits
        constrained = [
            (index, matcher, ())
            for index in special
            if (matcher := rows[index].matcher) is not None
        ]
        dead = self._edit(logits, rows, special, constrained)
        tell = partial(_tell, raw=raw, rows=rows, told=told) if told else None
        return Pending(self._draws.draw(logits, rows), rows, dead, tell)

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
        continued = continued_by(ahead, self._own(logits, ahead), compare(logits, ahead))
        explain(continued, lambda index: logits[index].amax().item(), ahead, dead)
        _tell_all(continued, raw, ahead, told)
        return continued

    def begin_verifying(
        self, logits: torch.Tensor, rows: Sequence[Row], drafted: Unread
    ) -> Verifying:
        """Begin to find out what stays of drafts that the host does not know.

        Args:
            logits: as `verify` takes them.
            rows: S of them, greedy, none of them special.
            drafted: for each of them.
        """
        return Verifying(drafted, rows, partial(self._draws.draw, logits))

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

    def _own(self, logits: torch.Tensor, ahead: Ahead) -> dict[int, int]:
        """What rows choose by themselves, by their index: all but those that compare."""
        own = ahead.own
        if len(own) < len(ahead.rows):
            logits = logits[torch.tensor(own, device=logits.device)]
        drawn = self._draws.draw(logits, [ahead.rows[index] for index in own])
        return dict(zip(own, drawn.read(), strict=True))

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


def _tell(chosen: Chosen, raw: torch.Tensor, rows: Sequence[Row], told: Sequence[int]) -> None:
    """Add the log-probabilities that rows asked for."""
    targets = [max(chosen.tokens[index], 0) for index in told]
    parts = logprobs(raw, targets, [rows[index].logprobs or 0 for index in told])
    for index, part in zip(told, parts, strict=True):
        if index not in chosen.failures:
            chosen.logprobs[index] = part


def _tell_all(continued: Continued, raw: torch.Tensor, ahead: Ahead, told: Sequence[int]) -> None:
    """Add the log-probabilities that answers asked for."""
    line = {index: place for place, index in enumerate(told)}
    for answer, (first, tokens) in enumerate(zip(ahead.firsts, continued.tokens, strict=True)):
        top = ahead.rows[first].logprobs
        if top is not None and tokens:
            begin = line[first]
            rows = raw[begin : begin + len(tokens)]
            continued.logprobs[answer] = logprobs(rows, tokens, [top] * len(tokens))
