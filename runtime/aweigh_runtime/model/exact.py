"""Arithmetic whose result for a token is the same to the last bit in every step.

A library picks its algorithm by the shape of the whole product, so a row's sums may be added in
another order when other rows come or go. Here every product has one of a few numbers of rows, for
which all rows were seen to agree on this machine, and every row operation runs where no thread
starts in the middle of a row. It never trades exactness for speed: where no two shapes agree, each
row is computed by itself.
"""

from math import gcd

import torch
from torch.nn.functional import pad

from aweigh_kernels.int8_weight import Int8Weight
from aweigh_kernels.product import Product
from aweigh_kernels.weight import Weight, prepare, rounding
from aweigh_runtime.model.agreement import agreeing, random
from aweigh_runtime.model.arithmetic import RowOperation, widened
from aweigh_runtime.model.attention import AttentionShape
from aweigh_runtime.model.cache import LayerCache
from aweigh_runtime.model.exact_attention import ExactAttention
from aweigh_runtime.model.step_plan import Plan

_SIZES = (64, 16, 4)  # rows of a product
_VECTOR = 64  # numbers or bytes: where whole vectors begin and end
_SERIAL = 32_000  # numbers: torch splits larger tensors between threads, anywhere in a row


class Exact:
    """For one decoder on one device. It tries a shape when it first meets it."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[torch.Size, torch.dtype, int], tuple[int, ...]] = {}
        self._attention = ExactAttention()

    def project(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[T, in] to [T, out], in products of at most 64 rows."""
        key = (weight.shape, weight.dtype, torch.get_num_threads())
        sizes = self._sizes.get(key)
        if sizes is None:
            sizes = self._sizes[key] = _sizes_for(weight)
        num_rows = len(x)
        if not num_rows:
            return x.new_empty(0, len(weight))
        padded = pad(x, (0, 0, 0, -num_rows % sizes[-1]))
        parts = []
        first = 0
        while first < len(padded):
            last = first + next(size for size in sizes if size <= len(padded) - first)
            parts.append(_aligned(padded[first:last]) @ weight.t())
            first = last
        output = parts[0] if len(parts) == 1 else torch.cat(parts)
        if bias is not None:
            output += bias
        return output[:num_rows]

    def project_wide(
        self, x: torch.Tensor, weight: torch.Tensor, output: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[T, in] to [T, out], fp32, of numbers that are rounded as those of `project` are."""
        return widened(self.project(x, weight), output)

    def prepare(self, weight: Weight, dtype: torch.dtype) -> Product:
        """Sums of integers are exact in any order; all others are products with dense numbers."""
        if isinstance(weight, Int8Weight):
            return prepare(weight, dtype)
        dense, rounded = weight.dense(dtype), rounding(weight)

        def product(x: torch.Tensor) -> torch.Tensor:
            return self.project(rounded(x).to(dtype), dense)

        return product

    def by_rows(self, operation: RowOperation, x: torch.Tensor, width: int) -> torch.Tensor:
        """So many rows at once that one thread does them, in whole vectors."""
        if x.device.type != "cpu" or not len(x):
            return operation(x)
        unit = _VECTOR // gcd(width, _VECTOR)
        step = max(_SERIAL // (width * unit), 1) * unit
        padded = torch.cat((x, x[:1].expand(-len(x) % unit, *x.shape[1:])))
        parts = [operation(padded[first : first + step]) for first in range(0, len(padded), step)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts))[: len(x)]

    def attend(
        self, heads: torch.Tensor, kv: LayerCache, plan: Plan, shape: AttentionShape
    ) -> torch.Tensor:
        """[T, H+2K, D] to [T, H·D]."""
        return self._attention(heads, kv, plan, shape)


def _aligned(rows: torch.Tensor) -> torch.Tensor:
    """What begins in the middle of a vector may be added in another order: new memory does not."""
    return rows.clone() if rows.data_ptr() % _VECTOR else rows


def _sizes_for(weight: torch.Tensor) -> tuple[int, ...]:
    x = random((_SIZES[0], weight.shape[1]), weight)
    other = torch.empty_like(weight).copy_(random(weight.shape, weight))  # in the same layout
    return agreeing([lambda rows: _aligned(rows) @ other.t()], x, _SIZES)
