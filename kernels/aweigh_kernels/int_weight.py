"""Weights of 2, 3, 4 or 8 bits that are multiplied with activations of 16 or 32 bits.

    w[n, perm[k]] = scale[n, k // group] · (q[n, k] - zero[n, k // group])

GPTQ (Frantar et al. 2022), AWQ (Lin et al. 2023) and compressed-tensors' packed integers all mean
this. The permutation is GPTQ's act order: columns that were quantized together lie together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import linear, pad

from aweigh_kernels import bits
from aweigh_kernels.checks import FLOATS, expect, expect_input
from aweigh_kernels.product import Product

_FEW_ROWS = 8  # up to which torch's product with packed integers is quicker on a CPU
_PACKED_GROUPS = (32, 64, 128, 256)  # that it takes
_PACKED_ROWS = 16  # of the weight, of which it takes multiples
_AT_ONCE = 1 << 24  # weights that are made dense at once


@dataclass(frozen=True, slots=True, kw_only=True)
class IntWeight:
    """A matrix [N, K] of small integers.

    Raises:
        ValueError: the tensors do not fit together.
    """

    q: torch.Tensor  # [N, K], uint8, below 2 to the power of `bits`
    scale: torch.Tensor  # [N or 1, ceil(K / group)], float
    zero: torch.Tensor | None = None  # as scale, int16; None: 2 to the power of `bits - 1`
    bits: int
    group: int  # columns of q that share a scale
    perm: torch.Tensor | None = None  # [K], int64: the column of x that meets each column of q

    def __post_init__(self) -> None:
        if self.bits not in bits.WIDTHS:
            raise ValueError(f"bits is {self.bits}; expected one of {bits.WIDTHS}")
        if self.q.dim() != 2 or self.group < 1:
            raise ValueError(
                f"q is {list(self.q.shape)} in groups of {self.group}; expected [N, K]"
            )
        rows, columns = self.q.shape
        groups = -(-columns // self.group)
        expect("q", self.q, [(rows, columns)], [torch.uint8])
        expect("scale", self.scale, [(rows, groups), (1, groups)], FLOATS)
        if self.zero is not None:
            expect("zero", self.zero, [self.scale.shape], [torch.int16])
        if self.perm is not None:
            expect("perm", self.perm, [(columns,)], [torch.int64])

    @property
    def shape(self) -> tuple[int, int]:
        """N, K."""
        return self.q.shape[0], self.q.shape[1]

    def dense(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[N, K] in the order of x's columns, rounded once, to `dtype`."""
        values = _scaled(self.q, self.scale, self.zero, self.bits, self.group).to(dtype)
        if self.perm is None:
            return values
        return torch.empty_like(values).index_copy_(1, self.perm, values)


def reference(x: torch.Tensor, weight: IntWeight) -> torch.Tensor:
    """[T, K] times the weight: [T, N], in fp32, rounded to x's number format.

    Raises:
        ValueError: x is not [T, K].
    """
    expect_input(x, weight.shape[1])
    return linear(x.float(), weight.dense()).to(x.dtype)


def stack(weights: Sequence[IntWeight]) -> IntWeight | None:
    """One weight with the rows of all; None: they are of different kinds."""
    first = weights[0]
    alike = all(
        (each.bits, each.group, each.scale.dtype) == (first.bits, first.group, first.scale.dtype)
        and each.q.shape[1] == first.q.shape[1]
        and (each.zero is None) == (first.zero is None)
        and _same(each.perm, first.perm)
        for each in weights
    )
    if not alike:
        return None
    return replace(
        first,
        q=torch.cat([each.q for each in weights]),
        scale=torch.cat([_by_rows(each.scale, each) for each in weights]),
        zero=_stacked_zeros(weights),
    )


def prepare(weight: IntWeight, dtype: torch.dtype) -> Product:
    """The product for many calls: [T, K] of `dtype` to [T, N]. It keeps the weight packed.

    On a CPU torch multiplies a few rows with packed integers; everything else is made dense in
    parts, which costs the more per row the fewer rows x has.
    """
    many: Product = _Packed(weight, dtype)
    few = _FewRows(weight, dtype) if _torch_takes(weight, dtype) else many
    perm, num_columns = weight.perm, weight.shape[1]

    def product(x: torch.Tensor) -> torch.Tensor:
        expect_input(x, num_columns)
        if perm is not None:
            x = x[:, perm]
        return few(x) if len(x) <= _FEW_ROWS else many(x)

    return product


class _Packed:
    """Rows of the weight are unpacked, scaled and multiplied some at a time."""

    def __init__(self, weight: IntWeight, dtype: torch.dtype) -> None:
        self._packed = bits.pack(weight.q, weight.bits)
        self._scale, self._zero = weight.scale, weight.zero
        self._bits, self._group, self._columns = weight.bits, weight.group, weight.shape[1]
        self._dtype = dtype
        self._step = max(_AT_ONCE // self._columns, 1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = range(0, len(self._packed), self._step)
        parts = [linear(x, self._dense(slice(first, first + self._step))) for first in rows]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _dense(self, rows: slice) -> torch.Tensor:
        q = bits.unpack(self._packed[rows], self._bits, self._columns)
        scale, zero = self._scale, self._zero
        if len(scale) > 1:
            scale = scale[rows]
            zero = None if zero is None else zero[rows]
        return _scaled(q, scale, zero, self._bits, self._group).to(self._dtype)


class _FewRows:
    """torch's product with integers of 4 or 8 bits, on a CPU."""

    def __init__(self, weight: IntWeight, dtype: torch.dtype) -> None:
        rows = weight.shape[0]
        scale = weight.scale.expand(rows, -1).to(dtype)
        if weight.bits == 8:
            self._q = weight.q.view(torch.int8) ^ -128  # q - 128
            self._scale = scale[:, 0].contiguous()
            self._multiply = self._by_bytes
            return
        self._q = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.q.to(torch.int32), 1)
        self._scale = torch.stack((scale.t(), torch.zeros_like(scale.t())), -1).contiguous()
        self._group = weight.group
        self._multiply = self._by_halves

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._multiply(x.contiguous())

    def _by_bytes(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.aten._weight_int8pack_mm(x, self._q, self._scale)
        return found

    def _by_halves(self, x: torch.Tensor) -> torch.Tensor:
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
        found: torch.Tensor = multiply(x, self._q, self._group, self._scale)
        return found


def _torch_takes(weight: IntWeight, dtype: torch.dtype) -> bool:
    """Symmetric ones only: torch adds zero points in x's number format, rounded."""
    if weight.q.device.type != "cpu" or weight.zero is not None:
        return False
    rows, columns = weight.shape
    if weight.scale.dtype not in (dtype, torch.float16) and dtype != torch.float32:
        return False
    if weight.bits == 8:
        return weight.group == columns
    whole = columns % weight.group == 0 and rows % _PACKED_ROWS == 0
    return weight.bits == 4 and whole and weight.group in _PACKED_GROUPS


def _scaled(
    q: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, bits: int, group: int
) -> torch.Tensor:
    """[N, K], fp32: exact, because scales have at most 24 bits and fp32 rounds once."""
    columns = q.shape[1]
    groups = torch.unflatten(
        pad(q.float(), (0, -columns % group)), 1, (-1, group)
    )  # [N, K/group, group]
    groups = groups.sub_(1 << (bits - 1) if zero is None else zero[..., None])
    return groups.mul_(scale[..., None]).flatten(1)[:, :columns]


def _stacked_zeros(weights: Sequence[IntWeight]) -> torch.Tensor | None:
    zeros = [_by_rows(each.zero, each) for each in weights if each.zero is not None]
    return torch.cat(zeros) if zeros else None


def _by_rows(values: torch.Tensor, weight: IntWeight) -> torch.Tensor:
    return values.expand(weight.shape[0], -1)


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)
