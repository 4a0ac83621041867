"""Quantized weights that can be trained: integers with what was rounded away, and their scales."""

from dataclasses import replace

import torch

from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.sparse_int_weight import SparseIntWeight

Trainable = IntWeight | SparseIntWeight

_FARTHEST = 0.49  # from an integer, at first: the rounding begins where it was
_REACH = 1.0  # how far training may move a number from there, in integers


class Latent:
    """One matrix [N, K]. Integers pass gradients on as if they had not been rounded."""

    def __init__(self, weight: Trainable, dense: torch.Tensor) -> None:
        """`dense`: [N, K], what the weight was rounded from."""
        self._weight = weight
        self._kept = None if isinstance(weight, IntWeight) else _kept(weight)
        self._perm = weight.perm if isinstance(weight, IntWeight) else None
        self._most = (1 << weight.bits) - 1
        q, self._zero = _integers(weight), self._zeros()
        ordered = dense if self._perm is None else dense[:, self._perm]
        scale = weight.scale.float()
        exact = _ungrouped(_grouped(ordered, weight) / scale[..., None] + self._zero)
        self._start = q + (exact - q).clamp(-_FARTHEST, _FARTHEST)
        self._scale = scale
        self.offset = torch.zeros_like(q, requires_grad=True)  # [N, K], of the integers
        self.stretch = torch.zeros_like(scale, requires_grad=True)  # of the scales, logarithm

    def values(self) -> torch.Tensor:
        """[N, K], in the order of x's columns; gradients reach offsets and stretches."""
        integers = _grouped(self._integers(), self._weight) - self._zero
        scaled = integers * (self._scale * self.stretch.exp())[..., None]
        found = _ungrouped(scaled)
        if self._kept is not None:
            found = found * self._kept
        if self._perm is None:
            return found
        return torch.empty_like(found).index_copy(1, self._perm, found)

    def round_onwards(self, rate: float) -> None:
        """Move offsets against their gradient's sign, within reach, and forget the gradient."""
        if self.offset.grad is not None:
            self.offset.data.sub_(self.offset.grad.sign(), alpha=rate).clamp_(-_REACH, _REACH)
            self.offset.grad = None

    def weight(self) -> Trainable:
        """What training has made of it."""
        with torch.no_grad():
            q = self._integers().to(torch.uint8)
            scale = (self._scale * self.stretch.exp()).to(self._weight.scale.dtype)
            if isinstance(self._weight, IntWeight):
                return replace(self._weight, q=q, scale=scale)
            places = _columns(self._weight)
            return replace(self._weight, q=q.gather(1, places), scale=scale)

    def _integers(self) -> torch.Tensor:
        moved = (self._start + self.offset).clamp(0, self._most)
        return moved + (moved.round() - moved).detach()

    def _zeros(self) -> torch.Tensor | float:
        zero = self._weight.zero if isinstance(self._weight, IntWeight) else None
        return float(1 << (self._weight.bits - 1)) if zero is None else zero.float()[..., None]


def _integers(weight: Trainable) -> torch.Tensor:
    """[N, K], fp32; of a sparse weight the zero point where nothing is kept."""
    if isinstance(weight, IntWeight):
        return weight.q.float()
    empty = torch.full(weight.shape, float(1 << (weight.bits - 1)), device=weight.q.device)
    return empty.scatter(1, _columns(weight), weight.q.float())


def _kept(weight: SparseIntWeight) -> torch.Tensor:
    """[N, K]: 1 where a number is kept, 0 elsewhere."""
    found = torch.zeros(weight.shape, device=weight.q.device)
    return found.scatter_(1, _columns(weight), 1.0)


def _columns(weight: SparseIntWeight) -> torch.Tensor:
    """[N, K / 2]: the column of each kept number."""
    count = weight.q.shape[1]
    fours = torch.arange(count, device=weight.q.device) // 2 * 4
    return weight.index.long() + fours


def _grouped(values: torch.Tensor, weight: Trainable) -> torch.Tensor:
    """[N, K] as [N, K / group, group]."""
    return values.view(len(values), -1, min(weight.group, values.shape[1]))


def _ungrouped(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1)
