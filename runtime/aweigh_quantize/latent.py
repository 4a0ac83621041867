"""Quantized weights that can be trained: numbers that are rounded to integers, and their scales."""

from dataclasses import replace
from typing import Any

import torch

from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.sparse_int_weight import SparseIntWeight

Trainable = IntWeight | SparseIntWeight

_FARTHEST = 0.49  # from an integer, at first: the rounding begins where it was


class Latent:
    """One matrix [N, K]: what a sparse one does not keep stays zero.

    Gradients pass the rounding as if there were none (straight-through, Bengio et al. 2013).
    """

    def __init__(self, weight: Trainable, numbers: torch.Tensor) -> None:
        """`numbers`: as `start` gives them, or training has left them."""
        self._weight = weight
        self._most = (1 << weight.bits) - 1
        self._zero = _zeros(weight)
        self._scale = weight.scale.float()
        self.numbers = numbers.requires_grad_()  # as q, fp32: the integers are nearest to them
        self.stretch = torch.zeros_like(self._scale, requires_grad=True)  # of scales, logarithm

    def values(self) -> torch.Tensor:
        """[N, K], in the order of x's columns; gradients reach numbers and stretches."""
        scale = self._scale * self.stretch.exp()
        found: torch.Tensor = _Rounded.apply(self.numbers, scale, self._zero)  # type: ignore[no-untyped-call]
        weight = self._weight
        if isinstance(weight, SparseIntWeight):
            return found.new_zeros(weight.shape).scatter(1, _columns(weight), found)
        if weight.perm is None:
            return found
        return torch.empty_like(found).index_copy(1, weight.perm, found)

    @torch.no_grad()
    def settle(self) -> None:
        """After a step: numbers stay within the range of the integers."""
        self.numbers.clamp_(0, self._most)

    @torch.no_grad()
    def weight(self) -> Trainable:
        """What training has made of it, in the number formats of files."""
        q = self.numbers.round().to(torch.uint8)
        scale = (self._scale * self.stretch.exp()).to(self._weight.scale.dtype)
        return replace(self._weight, q=q, scale=scale)


def start(weight: Trainable, dense: torch.Tensor) -> torch.Tensor:
    """Numbers that round to a weight's integers, as near as can be to what it was made of.

    Args:
        weight: a quantized one.
        dense: [N, K], what it was rounded from.

    Returns:
        as q, fp32.
    """
    if isinstance(weight, SparseIntWeight):
        dense = dense.gather(1, _columns(weight))
    elif weight.perm is not None:
        dense = dense[:, weight.perm]
    groups = torch.unflatten(dense, 1, (weight.scale.shape[1], -1))
    exact = (groups / weight.scale.float()[..., None] + _zeros(weight)).flatten(1)
    q = weight.q.float()
    return (q + (exact - q).clamp_(-_FARTHEST, _FARTHEST)).clamp_(0, (1 << weight.bits) - 1)


class _Rounded(torch.autograd.Function):
    """(round(numbers) - zero) · scale; [N, K], with scales [N, G]."""

    @staticmethod
    def forward(
        ctx: Any, numbers: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | float
    ) -> torch.Tensor:
        integers = torch.unflatten(numbers.round(), 1, (scale.shape[1], -1)).sub_(zero)
        ctx.save_for_backward(integers, scale)
        return (integers * scale[..., None]).flatten(1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        integers, scale = ctx.saved_tensors
        groups = torch.unflatten(grads[0], 1, (scale.shape[1], -1))
        return (groups * scale[..., None]).flatten(1), (groups * integers).sum(-1), None


def _zeros(weight: Trainable) -> torch.Tensor | float:
    zero = weight.zero if isinstance(weight, IntWeight) else None
    return float(1 << (weight.bits - 1)) if zero is None else zero.float()[..., None]


def _columns(weight: SparseIntWeight) -> torch.Tensor:
    """[N, K / 2]: the column of each kept number."""
    fours = torch.arange(weight.q.shape[1], device=weight.q.device) // 2 * 4
    return weight.index.long() + fours
