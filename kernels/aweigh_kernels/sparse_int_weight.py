"""Weights of 4 or 8 bits of which two in four are kept (2:4), with activations of 16 or 32 bits.

    w[n, 4g + index[n, 2g + i]] = scale[n, k // group] · (q[n, 2g + i] - 2^(bits - 1)),  i = 0, 1

All other weights are 0. It is what the tensor cores of NVIDIA GPUs since Ampere multiply at twice
the rate, and what Sparse-Marlin stores (Castro and others 2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import linear

from aweigh_kernels import bits
from aweigh_kernels.checks import FLOATS, expect, expect_input
from aweigh_kernels.dense import has_kernels
from aweigh_kernels.product import Product, in_parts

WIDTHS = (4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseIntWeight:
    """A matrix [N, K] of which half the numbers are 0.

    Raises:
        ValueError: the tensors do not fit together.
    """

    q: torch.Tensor  # [N, K / 2], uint8: the kept ones, below 2 to the power of `bits`
    index: torch.Tensor  # [N, K / 2], uint8: place in its four columns, 0 to 3, rising in each pair
    scale: torch.Tensor  # [N, K / group], float
    bits: int
    group: int  # columns that share a scale

    def __post_init__(self) -> None:
        if self.bits not in WIDTHS:
            raise ValueError(f"bits is {self.bits}; expected one of {WIDTHS}")
        if self.q.dim() != 2 or self.q.shape[1] % 2:
            raise ValueError(f"q is {list(self.q.shape)}; expected [N, K/2], K a multiple of 4")
        rows, columns = self.shape
        if self.group < 4 or columns % self.group:
            raise ValueError(f"group is {self.group}; expected a divisor of K ({columns})")
        expect("q", self.q, [(rows, columns // 2)], [torch.uint8])
        expect("index", self.index, [(rows, columns // 2)], [torch.uint8])
        expect("scale", self.scale, [(rows, columns // self.group)], FLOATS)

    @property
    def shape(self) -> tuple[int, int]:
        """N, K."""
        return self.q.shape[0], 2 * self.q.shape[1]

    def dense(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[N, K], rounded once, to `dtype`."""
        return _scattered(self.q, self.index, self.scale, self.bits).to(dtype)


def reference(x: torch.Tensor, weight: SparseIntWeight) -> torch.Tensor:
    """[T, K] times the weight: [T, N], in fp32, rounded to x's number format.

    Raises:
        ValueError: x is not [T, K].
    """
    expect_input(x, weight.shape[1])
    return linear(x.float(), weight.dense()).to(x.dtype)


def stack(weights: Sequence[SparseIntWeight]) -> SparseIntWeight | None:
    """One weight with the rows of all; None: they are of different kinds."""
    first = weights[0]
    kind = (first.bits, first.group, first.shape[1], first.scale.dtype)
    if any((each.bits, each.group, each.shape[1], each.scale.dtype) != kind for each in weights):
        return None
    return replace(
        first,
        q=torch.cat([each.q for each in weights]),
        index=torch.cat([each.index for each in weights]),
        scale=torch.cat([each.scale for each in weights]),
    )


def prepare(weight: SparseIntWeight, dtype: torch.dtype) -> Product:
    """The product for many calls: [T, K] of `dtype` to [T, N]. The weight stays packed.

    On a GPU a kernel of ours multiplies x of 16 bits with it (`sparse_int_matmul`): no host waits,
    and graphs may hold it, but no two products of one GPU may run at the same time. It skips what
    is not kept: a number of x that is infinite or none is not seen there.

    Elsewhere the weight is made dense in parts, in each call.
    """
    if has_kernel(weight, dtype):
        return _on_gpu(weight)
    columns = weight.shape[1]
    packed = bits.pack(weight.q, weight.bits)
    places = bits.pack(weight.index, 2)
    scale, width = weight.scale, weight.bits

    def dense(part: slice) -> torch.Tensor:
        q = bits.unpack(packed[part], width, columns // 2)
        index = bits.unpack(places[part], 2, columns // 2)
        return _scattered(q, index, scale[part], width).to(dtype)

    multiply = in_parts(dense, weight.shape)

    def product(x: torch.Tensor) -> torch.Tensor:
        expect_input(x, columns)
        return multiply(x)

    return product


def has_kernel(weight: SparseIntWeight, dtype: torch.dtype) -> bool:
    """Whether a GPU kernel of ours multiplies it with x of such a format."""
    if not has_kernels(weight.q, dtype):
        return False
    from aweigh_kernels import sparse_int_matmul, sparse_packing  # Triton is not everywhere

    if not sparse_packing.takes(weight.group, weight.shape[1]):
        return False
    return sparse_int_matmul.is_ready(weight.q.device, weight.bits, dtype)


def _on_gpu(weight: SparseIntWeight) -> Product:
    from aweigh_kernels import sparse_int_matmul, sparse_packing, tile_matmul

    packed = sparse_packing.pack(weight.q, weight.index, weight.scale, weight.bits)
    workspace = tile_matmul.workspace_of(weight.q.device)
    columns = weight.shape[1]

    def product(x: torch.Tensor) -> torch.Tensor:
        expect_input(x, columns)
        return sparse_int_matmul.sparse_int_matmul(x.contiguous(), packed, workspace)

    return product


def _scattered(
    q: torch.Tensor, index: torch.Tensor, scale: torch.Tensor, width: int
) -> torch.Tensor:
    """[N, K], fp32."""
    kept = torch.unflatten(q.float().sub_(1 << (width - 1)), 1, (-1, 2))  # [N, K/4, 2]
    places = torch.unflatten(index.long(), 1, (-1, 2))
    fours = kept.new_zeros(len(q), kept.shape[1], 4).scatter_(2, places, kept)
    groups = fours.view(len(q), scale.shape[1], -1)
    return groups.mul_(scale[..., None]).flatten(1)
