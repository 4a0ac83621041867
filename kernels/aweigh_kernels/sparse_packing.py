"""Weights of which two in four are kept, as `sparse_int_matmul` reads them: a warp's step in a row.

A sparse tensor core takes 16 rows and 32 columns. Each lane gives it two rows, 8 apart, and of both
the kept numbers of two times four columns: eight integers, a word of 4 bits each or two of 8. They
lie in it so that a shift and a mask leave the two that share a register, 16 bits apart. Which of
four columns they belong to stands in words of 2 bits each, of which half of the lanes have those of
the first 16 rows, the others those of the second.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch.nn.functional import pad

ROWS = 32  # that are packed together: of a warp
DEPTH = 128  # columns that are: of a step


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix [N, K] as the kernel reads it."""

    words: torch.Tensor  # int32, [N / 32, K / 128, words], rounded up: integers, then their places
    scales: torch.Tensor  # fp32, [K / 128, N] or [1, N], padded to 32 rows
    shape: tuple[int, int]
    bits: int  # 4 or 8


def takes(group: int, num_columns: int) -> bool:
    """Whether weights of such groups can be packed: a step has one scale for each row."""
    return group == num_columns or group % DEPTH == 0


def pack(q: torch.Tensor, index: torch.Tensor, scale: torch.Tensor, bits: int) -> Packed:
    """Lay a matrix out for the kernel.

    Args:
        q: [N, K / 2], uint8, below 2 to the power of `bits`.
        index: [N, K / 2], uint8: places in four columns, rising in each pair.
        scale: [N, K / group], of groups that `takes` lets by.
        bits: 4 or 8.
    """
    num_rows, num_columns = q.shape[0], 2 * q.shape[1]
    rows, columns = -num_rows % ROWS, -num_columns % DEPTH
    integers = _words(pad(q, (0, columns // 2, 0, rows), value=1 << (bits - 1)), bits)
    beside = pad(index, (0, columns // 2, 0, rows))
    beside[:, num_columns // 2 + 1 :: 2] = 1  # what is padded keeps the first two of four, as zeros
    beside[num_rows:, 1::2] = 1
    words = torch.cat([integers, _places(beside)], 2)
    return Packed(words, _scales(scale, num_columns), (num_rows, num_columns), bits)


def _words(q: torch.Tensor, bits: int) -> torch.Tensor:
    """[units, steps, words]: of 16 rows, one after the other, 16 bytes of each lane at a time."""
    q = _split(q)
    each = bits // 4  # words for a tensor core
    words = q.new_zeros(*q.shape[:2], 2, 8, 4, 4, each, dtype=torch.int32)
    for lower, right, one in product((0, 1), repeat=3):
        number = q[:, :, :, lower, :, :, right, :, one].to(torch.int32).permute(0, 1, 2, 3, 5, 4)
        if bits == 4:
            words[..., 0] |= number << (4 * lower + 8 * right + 16 * one)
        else:
            words[..., lower] |= (number ^ 128) << (8 * right + 16 * one)
    words = words.reshape(*words.shape[:3], 32, each, 4).transpose(3, 4)
    return words.reshape(*words.shape[:2], -1)


def _places(index: torch.Tensor) -> torch.Tensor:
    """[units, steps, words]: a lane's four, one for each 32 columns."""
    index = _split(index)
    words = index.new_zeros(*index.shape[:2], 2, 8, 4, 2, dtype=torch.int32)
    for lower, four, one in product((0, 1), range(4), (0, 1)):
        number = index[:, :, :, lower, :, :, :, four, one].to(torch.int32)
        words |= number << (16 * lower + 4 * four + 2 * one)
    # Of the four lanes of a row, two have the first 16 rows' and two the others'.
    return words.permute(0, 1, 3, 2, 5, 4).reshape(*words.shape[:2], -1)


def _split(numbers: torch.Tensor) -> torch.Tensor:
    """Units, steps, 16 rows, the other 8 rows, row; 32 columns, the other 16, four of them, one."""
    parts = numbers.view(len(numbers) // ROWS, 2, 2, 8, -1, 4, 2, 4, 2)
    return parts.permute(0, 4, 1, 2, 3, 5, 6, 7, 8)


def _scales(scale: torch.Tensor, num_columns: int) -> torch.Tensor:
    """One for each row of each step, or of all."""
    if scale.shape[1] > 1:
        scale = scale.repeat_interleave(num_columns // DEPTH // scale.shape[1], 1)
    return pad(scale.float().t(), (0, -len(scale) % ROWS)).contiguous()
