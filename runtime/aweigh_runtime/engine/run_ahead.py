"""One step further than is known: a step is launched before the tokens of the last one are read.

    launch n ─► assume n ─► launch n+1 ─► read n ─► assume n+1 ─► launch n+2 ─► read n+1 ─► …

To assume a step is to take it for computed, and its answers for going on. Their new tokens get
places in the requests, empty ones for the host: the next step takes them from the device, where
they were chosen. What proves wrong when they are read, because an answer has ended, has cost one
row of one step: its token is dropped, and who gets its blocks writes them later on the same stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from aweigh_runtime.engine.counting import count_computed
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling.pending import Pending
from aweigh_runtime.engine.sampling.verification import Drafted, Unread
from aweigh_runtime.engine.sampling.verifying import Verifying
from aweigh_runtime.engine.scheduler import Part, Scheduler
from aweigh_runtime.model.step_inputs import Tokens
from aweigh_runtime.model.step_plan import on_device


@dataclass(frozen=True, slots=True)
class Launched:
    """A step that the device has been told to compute."""

    parts: list[Part]
    started_s: float  # when it was planned
    complete: list[Part]  # those with all tokens of their requests: they get new ones
    behind: list[Drafted]  # each of them
    logits: torch.Tensor  # [S + drafted tokens, V], for the new tokens
    pending: Pending | None  # the new tokens; None: they are chosen when they are read,
    verifying: Verifying | None  # unless this is what becomes of drafts
    ahead: bool  # launched before the step before it was read

    @property
    def num_tokens(self) -> int:
        """Tokens that it computes, without drafted ones."""
        return sum(part.num_tokens for part in self.parts)


def assume(step: Launched, scheduler: Scheduler) -> None:
    """Let the next step be planned as if this one had been computed and read.

    Args:
        step: whose tokens are on the device, `pending`.
        scheduler: has planned it last.
    """
    advance(step.parts, scheduler)
    for row, part in enumerate(step.complete):
        request = part.request
        if not request.gone and len(request.tokens) + 1 < request.max_tokens:
            request.expect(row)  # the others end with this token, whichever it is


def advance(parts: Sequence[Part], scheduler: Scheduler) -> None:
    """Parts are computed; nobody looks any more at those of requests that are gone."""
    for part in parts:
        if not part.request.gone:
            count_computed(scheduler.counters, part)
            scheduler.advance(part, 0)


def nobody(request: Request) -> int:
    """A `Lookahead` for a step that drafts nothing, where that was asked already."""
    del request
    return 0


def placeholders(drafted: Unread) -> dict[int, Drafted]:
    """For each part as many tokens as are drafted, any ones."""
    return {index: Drafted([0] * count) for index, count in enumerate(drafted.counts)}


def packed(
    tokens: list[int], parts: Sequence[Part], last: Pending | None, drafted: Unread | None
) -> Tokens:
    """A step's tokens: on the device if it alone knows some of them.

    Args:
        tokens: of all parts and what is drafted behind them, T of them, with anything in the places
            of those that are unread.
        parts: whose tokens they are.
        last: the step before, if it is unread: it has chosen those, and nothing is drafted.
        drafted: behind each part, if that is unread.

    Returns:
        [T], int64, without waiting for the device.
    """
    if drafted is not None:
        return _drafted_behind(tokens, drafted)
    return tokens if last is None else _behind_chosen(tokens, parts, last)


def _behind_chosen(tokens: list[int], parts: Sequence[Part], last: Pending) -> Tokens:
    places, rows, end = [], [], 0
    for part in parts:
        assert not part.room  # drafts would follow tokens that nobody knows
        end += part.num_tokens
        request = part.request
        if request.unread is not None and part.end == len(request.tokens):
            places.append(end - 1)
            rows.append(request.unread)
    if not rows:
        return tokens
    chosen = last.tokens.clamp(min=0)  # what failed is dropped later, and must be a token now
    if len(rows) == len(tokens):
        return (
            chosen
            if rows == list(range(len(chosen)))
            else chosen[on_device(np.array(rows), chosen.device)]
        )
    everything = on_device(np.array([*tokens, *places, *rows]), chosen.device)
    known, at, of = torch.split(everything, [len(tokens), len(rows), len(rows)])
    return known.index_copy(0, at, chosen[of])


def _drafted_behind(tokens: list[int], drafted: Unread) -> torch.Tensor:
    width = drafted.tokens.shape[1]
    places: list[int] = []
    of: list[int] = []
    for row, count in enumerate(drafted.counts):
        first = len(places) + row + 1
        places += range(first, first + count)
        of += range(row * width, row * width + count)
    everything = on_device(np.array([*tokens, *places, *of]), drafted.tokens.device)
    known, at, which = torch.split(everything, [len(tokens), len(places), len(of)])
    return known.index_copy(0, at, drafted.tokens.flatten()[which])
