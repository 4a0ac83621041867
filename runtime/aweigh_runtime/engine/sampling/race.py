"""Draws tokens by an exponential race: the token with the largest weight ÷ noise wins.

A weight is a probability relative to the likeliest token's, so nothing here needs a softmax. Where
weights are summed, they are summed as integers: no order of adding changes what top_p leaves out.
"""

from collections.abc import Sequence

import torch

from aweigh_runtime.engine.sampling.noise import Stream, exponential, uniform
from aweigh_runtime.engine.sampling.ranking import nearest
from aweigh_runtime.engine.sampling.row import Row, Way

NUCLEUS = 256  # candidates for top_p; a row whose nucleus is larger is drawn from all tokens
_ONE = 2.0**40  # of a weight as an integer: 2^18 tokens and more add up in 63 bits


class Origins:
    """Where the noise of some rows comes from: their seeds, and where they stand."""

    def __init__(
        self, rows: Sequence[Row], device: torch.device, streams: Sequence[Stream] | None = None
    ) -> None:
        chosen = streams or [Stream.CHOICE] * len(rows)
        origins = [
            [_signed(row.sampling.seed ^ stream), row.position]
            for row, stream in zip(rows, chosen, strict=True)
        ]
        self._seeds, self._positions = torch.tensor(origins, device=device).unbind(-1)

    def noise(self, tokens: torch.Tensor, later: int = 0) -> torch.Tensor:
        """Exponential noise, positive.

        Args:
            tokens: [V] or [S, C], int64.
            later: positions after the rows' own.

        Returns:
            [S, V] or [S, C], fp32.
        """
        return exponential(self._seeds, self._positions + later, tokens)

    def uniform(self) -> torch.Tensor:
        """A number between 0 and 1 for each row: [S], fp32."""
        return uniform(self._seeds, self._positions)


def draw_plain(logits: torch.Tensor, best: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """Draw where every token, or every one above min_p, can win: tokens, [S].

    Args:
        logits: [S, V], fp32.
        best: the largest of each row, [S].
        rows: S of them.
    """
    weights = _plain_weights(logits, best, rows)
    tokens = torch.arange(logits.shape[-1], device=logits.device)
    return (weights / Origins(rows, logits.device).noise(tokens)).argmax(dim=-1)


def draw_filtered(
    logits: torch.Tensor, best: torch.Tensor, rows: Sequence[Row], nucleus: int = NUCLEUS
) -> torch.Tensor:
    """Draw from what top_k, then top_p of the rest, then min_p leave: tokens, [S].

    Args:
        logits: [S, V], fp32.
        best: the largest of each row, [S].
        rows: S of them.
        nucleus: candidates that are looked at first where only top_p bounds them.
    """
    size = logits.shape[-1]
    width = _width(rows, size, nucleus)
    gaps = best.unsqueeze(-1) - logits
    tokens, complete = _draw_from_nearest(gaps, rows, width)
    if width == size or bool(complete.all()):
        return tokens
    rest = (~complete).nonzero().squeeze(-1)
    rows = [rows[index] for index in rest.tolist()]
    tokens[rest], _ = _draw_from_nearest(gaps[rest], rows, size)
    return tokens


def probabilities(logits: torch.Tensor, best: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """What the draws above follow: [S, V], fp32, 0 for what is left out; none of them is greedy.

    Args:
        logits: [S, V], fp32.
        best: the largest of each row, [S].
        rows: S of them.
    """
    weights = _plain_weights(logits, best, rows)
    filtered = [index for index, row in enumerate(rows) if row.way is Way.FILTERED]
    if filtered:
        at = torch.tensor(filtered, device=logits.device)
        those = [rows[index] for index in filtered]
        weights[at] = _filtered_weights(best[at, None] - logits[at], those)
    return weights.div_(weights.sum(dim=-1, keepdim=True))


def near_probabilities(
    logits: torch.Tensor, best: torch.Tensor, rows: Sequence[Row]
) -> torch.Tensor:
    """The same, cut to the likeliest tokens where top_p leaves many; it never asks the device."""
    weights = _plain_weights(logits, best, rows)
    filtered = [index for index, row in enumerate(rows) if row.way is Way.FILTERED]
    if filtered:
        at = torch.tensor(filtered, device=logits.device)
        those = [rows[index] for index in filtered]
        width = _width(those, logits.shape[-1], NUCLEUS)
        gaps = best[at, None] - logits[at]
        kept, tokens, _ = _kept(gaps, those, width)
        weights[at] = torch.zeros_like(gaps).scatter_(-1, tokens, kept)
    return weights.div_(weights.sum(dim=-1, keepdim=True))


def _plain_weights(logits: torch.Tensor, best: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    settings = _Settings(rows, logits.device)
    weights = (best.unsqueeze(-1) - logits).div_(settings.cooling).exp_()
    if any(row.sampling.min_p > 0.0 for row in rows):
        weights.masked_fill_(weights < settings.min_p, 0.0)
    return weights


def _filtered_weights(gaps: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    size = gaps.shape[-1]
    width = _width(rows, size, NUCLEUS)
    kept, tokens, complete = _kept(gaps, rows, width)
    weights = torch.zeros_like(gaps).scatter_(-1, tokens, kept)
    if width == size or bool(complete.all()):
        return weights
    rest = (~complete).nonzero().squeeze(-1)
    kept, tokens, _ = _kept(gaps[rest], [rows[index] for index in rest.tolist()], size)
    weights[rest] = torch.zeros_like(gaps[rest]).scatter_(-1, tokens, kept)
    return weights


def _draw_from_nearest(
    gaps: torch.Tensor, rows: Sequence[Row], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and whether `width` candidates were all that these rows may draw from."""
    kept, tokens, complete = _kept(gaps, rows, width)
    race = kept / Origins(rows, gaps.device).noise(tokens)
    return tokens.gather(-1, race.argmax(dim=-1, keepdim=True)).squeeze(-1), complete


def _kept(
    gaps: torch.Tensor, rows: Sequence[Row], width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights and tokens of the `width` nearest, [S, width], 0 for what the settings leave out.

    Also [S], whether these candidates were all.
    """
    settings = _Settings(rows, gaps.device)
    near, tokens = nearest(gaps, width)
    weights = near.div_(settings.cooling).exp_()
    shares = _whole(weights)
    sums = shares.cumsum(dim=-1)
    top_k = torch.tensor([_top_k(row, gaps.shape[-1]) for row in rows], device=gaps.device)
    top_k = top_k.unsqueeze(-1)
    total = sums.gather(-1, top_k.clamp(max=width) - 1)
    if any(row.sampling.top_k == 0 for row in rows):
        everything = _whole((gaps / settings.cooling).exp_()).sum(dim=-1, keepdim=True)
        total = torch.where(top_k <= width, total, everything)
    mass = total * settings.top_p  # of the likeliest tokens: what top_p wants

    kept = (sums - shares < mass) | (settings.top_p >= 1.0)
    kept &= torch.arange(width, device=gaps.device) < top_k
    kept &= weights >= settings.min_p
    kept[:, 0] = True
    complete = (top_k <= width) | ((settings.top_p < 1.0) & (sums[:, -1:] >= mass))
    return weights.masked_fill_(~kept, 0.0), tokens, complete.squeeze(-1)


def _width(rows: Sequence[Row], size: int, nucleus: int) -> int:
    return min(size, max(row.sampling.top_k or nucleus for row in rows))


def _top_k(row: Row, size: int) -> int:
    return min(row.sampling.top_k or size, size)


def _whole(weights: torch.Tensor) -> torch.Tensor:
    return (weights * _ONE).to(torch.int64)


class _Settings:
    """The rows' settings as columns, [S, 1]."""

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        samplings = [row.sampling for row in rows]
        columns = [[-s.temperature, s.top_p, s.min_p] for s in samplings]
        values = torch.tensor(columns, dtype=torch.float64, device=device)
        self.cooling = values[:, 0:1].to(torch.float32)
        self.top_p = values[:, 1:2]
        self.min_p = values[:, 2:3].to(torch.float32)


def _signed(seed: int) -> int:
    """64 bits as torch stores them."""
    seed &= (1 << 64) - 1
    return seed - (1 << 64) if seed >> 63 else seed
