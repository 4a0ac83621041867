"""Weights of 4 or 8 bits as `int_matmul` reads them: what a thread multiplies at once is one word.

A tensor core takes 64 rows and 16 columns of a weight from four warps. Each lane gives it two rows,
8 apart, and of both the same four columns: eight integers, a word of 4 bits each or two of 8. They
lie in it so that a shift and a mask leave the two that share a register, 16 bits apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import gcd

import torch
from torch.nn.functional import pad

from aweigh_kernels.gpu.int_matmul import UNIT, ZEROS

ROWS = int(UNIT.value)  # that are packed together
_LEAST_COLUMNS = 16  # that a tensor core takes at once
_AT_ONCE = 1 << 24  # numbers that are packed at once: it takes three bytes for each
_DEPTHS = {4: 128, 8: 64}  # numbers of a row that are packed together, by bits: 4 kB of ROWS


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix [N, K] as the kernel reads it: w[n, k] = scale · (q - zero)."""

    words: torch.Tensor  # int32, [N / 64, K / depth, 64 · depth · bits / 32], rounded up
    factors: torch.Tensor  # int32, [groups, N], padded: scale and zero point of each row
    shape: tuple[int, int]
    bits: int  # 4 or 8
    group: int  # columns that share a scale
    fours: bool  # as tensor cores that no warpgroups feed take columns

    @property
    def depth(self) -> int:
        """Columns of a tile."""
        return _depth(self.bits, self.group, self.shape[1])

    @property
    def most_depth(self) -> int:
        """Columns that it would have if groups were large."""
        return _DEPTHS[self.bits]


def takes(bits: int, group: int, num_columns: int, zero: torch.Tensor | None) -> bool:
    """Whether weights of such groups can be packed; reads all zero points."""
    if group < num_columns and group % _LEAST_COLUMNS:
        return False
    if zero is None or not zero.numel():
        return True
    low, high = (int(each) for each in zero.aminmax())
    return low >= 0 and high <= 1 << bits


def pack(
    q: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None,
    bits: int,
    group: int,
    *,
    fours: bool,
) -> Packed:
    """Lay a matrix out for the kernel; 2 and 3 bits take 4.

    Args:
        q: [N, K], uint8, below 2 to the power of `bits`.
        scale: [N or 1, ceil(K / group)]; of fp32 ones 15 bits are kept.
        zero: as scale, integers. None: 2 to the power of `bits - 1`.
        bits: 2, 3, 4 or 8.
        group: columns that share a scale; see `takes`.
        fours: whether warps feed the GPU's tensor cores alone, see `by_warpgroups`.
    """
    (num_rows, num_columns), width = q.shape, max(bits, 4)
    factors = _factors(scale, zero, bits, num_rows)
    depth = _depth(width, group, num_columns)
    words = _in_parts(q, lambda part: _words(part, width, depth, fours=fours))
    return Packed(words, factors, (num_rows, num_columns), width, group, fours)


def _in_parts(q: torch.Tensor, words_of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The words of all rows, [units, …], of which some are packed at a time."""
    units = -(-len(q) // ROWS)
    each = max(1, _AT_ONCE // (ROWS * q.shape[1]))
    some = words_of(q[: each * ROWS])
    words = some.new_empty(units, *some.shape[1:])
    words[:each] = some
    for first in range(each, units, each):
        words[first : first + each] = words_of(q[first * ROWS : (first + each) * ROWS])
    return words


def _words(q: torch.Tensor, bits: int, depth: int, *, fours: bool) -> torch.Tensor:
    """[units, tiles, words]: each holds what a thread gives to a tensor core at once, or half."""
    num_rows, num_columns = q.shape
    q = pad(q, (0, -num_columns % depth, 0, -num_rows % ROWS))
    units, steps = len(q) // ROWS, depth // 16
    # A unit's rows: warps, halves of theirs, 8 rows. Columns: pairs, and others beside or between.
    columns = (4, 2, 2) if fours else (2, 4, 2)
    q = q.view(units, 4, 2, 8, -1, steps, *columns)
    pair, other = (6, 7) if fours else (7, 6)
    q = q.permute(0, 4, 5, 1, 3, pair, 2, other, 8)
    each = bits // 4  # words of 16 columns
    words = q.new_zeros(*q.shape[:6], each, dtype=torch.int32)
    for half, column, one in product((0, 1), repeat=3):
        number = q[..., half, column, one].to(torch.int32)
        if bits == 4:
            words[..., 0] |= number << (4 * (half + 2 * column) + 16 * one)
        else:
            words[..., half] |= (number ^ 128) << (8 * column + 16 * one)
    run = min(4 // each, steps)  # what a thread reads at once
    words = torch.unflatten(words, 2, (-1, run)).permute(0, 1, 2, 4, 5, 6, 3, 7)
    return words.reshape(units, len(words[0]), -1)


def _factors(
    scale: torch.Tensor, zero: torch.Tensor | None, bits: int, num_rows: int
) -> torch.Tensor:
    """[groups, rows]: a scale in the upper bits of fp32, rounded, and a zero point below."""
    step = ZEROS.value + 1
    scales = (scale.float().view(torch.int32) + step // 2) & -step
    zeros = torch.full_like(scales, 1 << (bits - 1)) if zero is None else zero.to(torch.int32)
    factors = (scales | zeros).expand(num_rows, -1).t()
    return pad(factors, (0, -num_rows % ROWS)).contiguous()


def _depth(bits: int, group: int, num_columns: int) -> int:
    """Columns of a tile: of one group."""
    most = _DEPTHS[bits]
    return most if group >= num_columns else gcd(most, group)
