"""What requests change in their logits: penalties, bias, bans and grammars, each in one operation.

Only what is asked for costs anything: tokens that nobody touches are never copied.
"""

from array import array
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from aweigh_runtime.engine.sampling.row import Row

_Numbers = NDArray[np.float32]
_OCTETS = np.arange(256, dtype=np.uint8)[:, np.newaxis]
# For each octet of a mask, eight booleans in one number: the bits that are not set.
_CLEAR_BITS = np.unpackbits(~_OCTETS, axis=1, bitorder="little").view(np.int64).squeeze(-1)


def edit(logits: torch.Tensor, rows: Sequence[Row], special: Sequence[int]) -> None:
    """Penalties, then bias, then bans, in place.

    Args:
        logits: [S, V], fp32.
        rows: S of them.
        special: the rows that have any of these.
    """
    if penalized := [index for index in special if rows[index].penalties is not None]:
        _penalize(logits, rows, penalized)
    if biased := [index for index in special if rows[index].bias is not None]:
        _bias(logits, rows, biased)
    if bans := [(index, tokens) for index in special if (tokens := rows[index].banned)]:
        spots = _Spots([(index, array("q", tokens)) for index, tokens in bans], logits)
        spots.write(torch.full_like(spots.read(), -torch.inf))


def allow(logits: torch.Tensor, constrained: Sequence[int], masks: torch.Tensor) -> None:
    """Rule out what grammars do not allow, in place.

    Args:
        logits: [S, V], fp32.
        constrained: G of its rows.
        masks: [G, V ÷ 32], int32, on the CPU: one bit for each token, the lowest first.
    """
    size = logits.shape[-1]
    octets = masks.view(torch.uint8).to(logits.device, non_blocking=True)
    eights = torch.from_numpy(_CLEAR_BITS).to(logits.device)[octets.int()]
    ruled_out = eights.view(torch.bool)[:, :size]  # [G, V]
    if len(constrained) == len(logits):
        logits.masked_fill_(ruled_out, -torch.inf)
    else:
        at = torch.tensor(constrained, device=logits.device)
        logits[at] = logits[at].masked_fill_(ruled_out, -torch.inf)


def _penalize(logits: torch.Tensor, rows: Sequence[Row], penalized: Sequence[int]) -> None:
    factors: list[_Numbers] = []
    losses: list[_Numbers] = []
    tokens: list[tuple[int, array[int]]] = []
    for index in penalized:
        sampling, penalties = rows[index].sampling, rows[index].penalties
        assert penalties is not None
        counts = np.frombuffer(penalties.counts, np.int64)
        loss = counts * sampling.frequency_penalty + (counts > 0) * sampling.presence_penalty
        losses.append(loss.astype(np.float32))
        factors.append(np.full(len(counts), sampling.repetition_penalty, np.float32))
        tokens.append((index, penalties.tokens))
    spots = _Spots(tokens, logits)
    factor, values = spots.column(factors), spots.read()
    values = torch.where(values > 0, values / factor, values * factor)
    spots.write(values - spots.column(losses))


def _bias(logits: torch.Tensor, rows: Sequence[Row], biased: Sequence[int]) -> None:
    pairs = [(index, bias) for index in biased if (bias := rows[index].bias) is not None]
    spots = _Spots([(index, bias.tokens) for index, bias in pairs], logits)
    values = [np.array(bias.values, np.float32) for _, bias in pairs]
    spots.write(spots.read() + spots.column(values))


class _Spots:
    """Some tokens of some rows, each once: a token beyond the vocabulary is none."""

    def __init__(self, tokens: Sequence[tuple[int, "array[int]"]], logits: torch.Tensor) -> None:
        columns = np.concatenate([np.frombuffer(ids, np.int64) for _, ids in tokens])
        lengths = [len(ids) for _, ids in tokens]
        lines = np.repeat(np.array([index for index, _ in tokens], np.int64), lengths)
        self._inside = (columns >= 0) & (columns < logits.shape[-1])
        at = np.stack([lines[self._inside], columns[self._inside]])
        self._at = tuple(torch.from_numpy(at).to(logits.device).unbind())
        self._logits = logits

    def read(self) -> torch.Tensor:
        return self._logits[self._at]

    def write(self, values: torch.Tensor) -> None:
        self._logits[self._at] = values

    def column(self, parts: Sequence[_Numbers]) -> torch.Tensor:
        values = np.concatenate(parts)[self._inside]
        return torch.from_numpy(values).to(self._logits.device)
