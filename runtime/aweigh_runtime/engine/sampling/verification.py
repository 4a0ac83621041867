"""Which tokens of a draft stay: one forward pass of the target has scored all of them.

Greedy and seeded rows keep a drafted token if it is the one that they would have chosen at that
position. The others keep it with probability min(1, p ÷ q) and replace the first one that does not
stay by a token drawn from max(p - q, 0), p being the target's distribution and q the draft's: so
the answer follows p whatever q is (Leviathan, Kalman, Matias: Fast Inference from Transformers via
Speculative Decoding, 2023, algorithm 1 and appendix A.1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from aweigh_runtime.engine.sampling.noise import Stream
from aweigh_runtime.engine.sampling.race import Origins, probabilities
from aweigh_runtime.engine.sampling.row import Row, Way

NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class Drafted:
    """What may come next in one answer."""

    tokens: Sequence[int] = ()
    probabilities: torch.Tensor | None = None  # [K, V], q; None: q is 1 for the tokens themselves


@dataclass(frozen=True, slots=True)
class Unread:
    """What may come next in R answers, while the device alone knows it."""

    tokens: torch.Tensor  # [R, n], int64
    confidences: torch.Tensor  # [R, n], fp32
    counts: Sequence[int]  # of tokens of each answer, n at most; what lies behind is of no account
    seconds: Callable[[], float]  # that drafting took; to be asked when they have been verified
    ahead: bool  # they were on their way before the step before was read


class Ahead:
    """The rows of several answers: before each drafted token of one, then after its last."""

    def __init__(self, rows: Sequence[Row], drafted: Sequence[Drafted]) -> None:
        self.drafted = drafted
        self.rows: list[Row] = []
        self.firsts: list[int] = []  # of each answer, an index of `rows`
        self.own: list[int] = []  # rows that choose by themselves
        self.compared: list[int] = []  # the others: they compare distributions
        for row, each in zip(rows, drafted, strict=True):
            first = len(self.rows)
            self.firsts.append(first)
            self.rows += row.ahead(each.tokens)
            last = len(self.rows) - 1
            equal = row.way is Way.GREEDY or row.sampling.seeded
            (self.own if equal else self.compared).extend(range(first, last))
            self.own.append(last)


def compare(logits: torch.Tensor, ahead: Ahead) -> dict[int, tuple[bool, int]]:
    """Judge drafted tokens by their distributions.

    Args:
        logits: [S + drafted tokens, V], fp32, edited.
        ahead: whose they are.

    Returns:
        for each row that compares, by its index: whether the drafted token in its place stays, and
        the one instead if not; NO_TOKEN where the target's largest logit is no finite number.
    """
    if not ahead.compared:
        return {}
    device = logits.device
    rows = [ahead.rows[index] for index in ahead.compared]
    those = logits[torch.tensor(ahead.compared, device=device)]
    best = those.amax(dim=-1)
    p = probabilities(those, best, rows)  # [M, V]
    tokens, q = _proposed(p, ahead)
    at = tokens.unsqueeze(-1)
    acceptance = Origins(rows, device, [Stream.ACCEPTANCE] * len(rows)).uniform()
    stays = acceptance * q.gather(-1, at).squeeze(-1) < p.gather(-1, at).squeeze(-1)
    left = (p - q).clamp_(min=0.0)
    # Where rounding leaves nothing, p and q are equal and a refusal has probability 0.
    left = torch.where(left.sum(dim=-1, keepdim=True) > 0.0, left, p)
    noise = Origins(rows, device, [Stream.REPLACEMENT] * len(rows))
    race = left / noise.noise(torch.arange(p.shape[-1], device=device))
    others = torch.where(best.isfinite(), race.argmax(dim=-1), NO_TOKEN)
    verdicts = torch.stack((stays.long(), others), dim=-1).tolist()  # the device is asked once
    return {
        index: (bool(stay), other)
        for index, (stay, other) in zip(ahead.compared, verdicts, strict=True)
    }


def _proposed(p: torch.Tensor, ahead: Ahead) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that are compared, [M], and what they were drawn from, [M, V]."""
    compared = set(ahead.compared)
    those = [
        each for first, each in zip(ahead.firsts, ahead.drafted, strict=True) if first in compared
    ]
    tokens = torch.tensor([token for each in those for token in each.tokens], device=p.device)
    q = torch.zeros_like(p)
    first = 0
    for each in those:
        rows = slice(first, first + len(each.tokens))
        if each.probabilities is None:
            q[rows].scatter_(-1, tokens[rows, None], 1.0)
        else:
            q[rows] = each.probabilities
        first = rows.stop
    return tokens, q
