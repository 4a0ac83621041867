"""Weights of 2, 3, 4 or 8 bits as `int_matmul` reads them: in words of one thread.

A tensor core takes 64 rows and 16 columns of a weight from four warps. Each lane gives it two rows,
8 apart, and of both the same four columns: eight integers, which are four pairs that share a
register, 16 bits apart. So they are in words, and a mask leaves a pair, for most after a shift. A
word holds half of such eight of 8 bits, one of 4, two of 2; three words hold four of 3, and the
third of them lies apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd

import torch
from torch.nn.functional import pad

from aweigh_kernels.gpu.integers import UNIT, ZEROS

ROWS = int(UNIT.value)  # that are packed together
_LEAST_COLUMNS = 16  # that a tensor core takes at once
_AT_ONCE = 1 << 24  # numbers that are packed at once: it takes some bytes for each
_DEPTHS = {2: 128, 3: 128, 4: 128, 8: 64}  # numbers of a row that are packed together at most
_WHOLE = {2: 32, 3: 64}  # columns that whole words hold


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix [N, K] as the kernel reads it: w[n, k] = scale · (q - zero)."""

    words: torch.Tensor  # int32, [N / 64, K / depth, 64 · depth · bits / 32], rounded up
    factors: torch.Tensor  # int32, [groups, N], padded: scale and zero point of each row
    shape: tuple[int, int]
    bits: int  # 2, 3, 4 or 8
    group: int  # columns that share a scale
    fours: bool  # as tensor cores that no warpgroups feed take columns

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What kernels read, in their order."""
        return self.words, self.factors

    @property
    def constants(self) -> dict[str, int]:
        """What kernels are compiled for."""
        rows, columns = self.shape
        sizes = {"OUT": rows, "IN": columns, "GROUP": self.group, "DEPTH": self.depth}
        return sizes | {"BITS": self.bits, "FOURS": self.fours}

    @property
    def depth(self) -> int:
        """Columns of a tile."""
        return _depth(self.bits, self.group, self.shape[1])

    @property
    def most_depth(self) -> int:
        """Columns of as many tiles as a step should multiply where tokens are few."""
        return _DEPTHS[self.bits]

    @property
    def row_bytes(self) -> int:
        """What a row of a tile has of shared memory, its factor twice."""
        return self.depth * self.bits // 8 + 8


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
    """Lay a matrix out for the kernel.

    2 bits take 4 unless groups are multiples of 32 columns, and 3 unless of 64: they would end
    within words.

    Args:
        q: [N, K], uint8, below 2 to the power of `bits`.
        scale: [N or 1, ceil(K / group)]; of fp32 ones 15 bits are kept.
        zero: as scale, integers. None: 2 to the power of `bits - 1`.
        bits: 2, 3, 4 or 8.
        group: columns that share a scale; see `takes`.
        fours: whether warps feed the GPU's tensor cores alone, see `by_warpgroups`.
    """
    num_rows, num_columns = q.shape
    whole = group >= num_columns or group % _WHOLE.get(bits, 1) == 0
    width = bits if whole else 4
    factors = _factors(scale, zero, bits, num_rows)
    depth = _depth(width, group, num_columns)

    def words_of(part: slice) -> torch.Tensor:
        lanes = in_lanes(q[part], depth, fours=fours)
        return _words(lanes, width) if width > 3 else _few_bits(lanes, width)

    words = in_parts(q.shape, words_of)
    return Packed(words, factors, (num_rows, num_columns), width, group, fours)


def in_parts(shape: Sequence[int], words_of: Callable[[slice], torch.Tensor]) -> torch.Tensor:
    """The words of all rows, [units, …], of which some are packed at a time.

    Args:
        shape: N, K.
        words_of: those of some rows.
    """
    num_rows, num_columns = shape
    units = -(-num_rows // ROWS)
    each = max(1, _AT_ONCE // (ROWS * num_columns))
    some = words_of(slice(each * ROWS))
    words = some.new_empty(units, *some.shape[1:])
    words[:each] = some
    for first in range(each, units, each):
        end = first + each
        words[first:end] = words_of(slice(first * ROWS, end * ROWS))
    return words


def in_lanes(q: torch.Tensor, depth: int, *, fours: bool) -> torch.Tensor:
    """A matrix [N, K], zeros behind its end, in the order in which a tensor core takes it.

    Returns:
        [N / 64, K / depth, depth / 16, 4 warps, 8 rows, 4 columns, 2, 2, 2]: the last three are the
        other 8 rows, columns beside or between, and those that share a register.
    """
    num_rows, num_columns = q.shape
    q = pad(q, (0, -num_columns % depth, 0, -num_rows % ROWS))
    # A unit's rows: warps, halves of theirs, 8 rows. Columns: pairs, and others beside or between.
    columns = (4, 2, 2) if fours else (2, 4, 2)
    q = q.view(len(q) // ROWS, 4, 2, 8, -1, depth // 16, *columns)
    pair, other = (6, 7) if fours else (7, 6)
    return q.permute(0, 4, 5, 1, 3, pair, 2, other, 8)


def in_runs(words: torch.Tensor, run: int) -> torch.Tensor:
    """[units, tiles, words] of [units, tiles, steps, warps, rows, columns, words of 16 columns].

    A thread reads those of `run` steps at once.
    """
    words = torch.unflatten(words, 2, (-1, run)).permute(0, 1, 2, 4, 5, 6, 3, 7)
    return words.reshape(*words.shape[:2], -1)


def _words(lanes: torch.Tensor, bits: int) -> torch.Tensor:
    """Of 4 or 8 bits, [units, tiles, words]."""
    each, steps = bits // 4, lanes.shape[2]  # words of 16 columns
    words = lanes.new_zeros(*lanes.shape[:6], each, dtype=torch.int32)
    for half, column, one in product((0, 1), repeat=3):
        number = lanes[..., half, column, one].to(torch.int32)
        if bits == 4:
            words[..., 0] |= number << (4 * (half + 2 * column) + 16 * one)
        else:
            words[..., half] |= (number ^ 128) << (8 * column + 16 * one)
    return in_runs(words, min(4 // each, steps))  # 16 bytes


def _few_bits(lanes: torch.Tensor, bits: int) -> torch.Tensor:
    """Of 2 or 3 bits, [units, tiles, words]: what a thread has of a tile lies side by side.

    But for third words of three, which are behind those of all threads.
    """
    together = bits if bits == 2 else 4  # 16 columns each, whose numbers fill words
    lanes = torch.unflatten(lanes, 2, (-1, together)).permute(0, 1, 4, 5, 6, 2, 3, 7, 8, 9)
    pairs = lanes.flatten(6, 8).to(torch.int32)  # [units, tiles, 4, 8, 4, words, pairs, 2]
    words = pairs.new_zeros(*pairs.shape[:6], 1 if bits == 2 else 3)
    whole = 16 // bits  # pairs of a word
    for pair, one in product(range(pairs.shape[6]), (0, 1)):
        number, (word, place) = pairs[..., pair, one], divmod(pair, whole)
        if word < words.shape[-1]:
            words[..., word] |= number << (bits * place + 16 * one)
        else:  # the last pair of 16: a bit for each word
            for bit in range(bits):
                words[..., bit] |= (number >> bit & 1) << (15 + 16 * one)
    main = words[..., :2].flatten(2)
    return torch.cat((main, words[..., 2:].flatten(2)), -1)


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
