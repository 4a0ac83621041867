"""NVFP4 weights as `fp4_matmul` reads them: what a thread multiplies at once is one word.

As in `int_packing` a tensor core takes 64 rows and 16 columns, of which a lane has eight numbers,
in pairs that share a register. A word holds eight codes of 4 bits, whose bits lie where few
operations move them to where they mean something. Scales, E4M3, get five bits of exponent and no
sign, so that none is subnormal: codes have the sign, and are 0 where a scale is.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch.nn.functional import pad

from aweigh_kernels.gpu.fp4_matmul import DEPTH, GROUP, LEFT, NARROW_MOVES, WIDE_MOVES
from aweigh_kernels.int_packing import ROWS, in_lanes, in_parts, in_runs

_DEPTH, _GROUP = int(DEPTH.value), int(GROUP.value)
_SIGN, _NOTHING = 8, 0xFF  # of a code; a scale that is no number
_HIGHEST = 30  # what the exponent of 448 becomes
_PLACES = {torch.bfloat16: (15, 8, 7, 6), torch.float16: (15, 11, 10, 9)}  # sign first


@dataclass(frozen=True, slots=True)
class Fp4Packed:
    """A matrix [N, K] as the kernel reads it."""

    words: torch.Tensor  # int32, [N / 64, K / 128, 1024], rounded up
    scales: torch.Tensor  # int32, [N / 64, K / 128, 128]: four in each
    factors: torch.Tensor  # fp32, [N]: global scales, and what numbers are less
    shape: tuple[int, int]
    dtype: torch.dtype  # of x: bf16 or fp16
    fours: bool  # as tensor cores that no warpgroups feed take columns

    depth = _DEPTH  # columns of a tile
    most_depth = _DEPTH
    bits = 4
    row_bytes = _DEPTH // 2 + _DEPTH // _GROUP  # what a row of a tile has of shared memory

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What kernels read, in their order."""
        return self.words, self.scales, self.factors

    @property
    def constants(self) -> dict[str, int]:
        """What kernels are compiled for."""
        rows, columns = self.shape
        return {"OUT": rows, "IN": columns, "FOURS": self.fours}


def pack(
    q: torch.Tensor,
    scale: torch.Tensor,
    global_scale: torch.Tensor,
    dtype: torch.dtype,
    *,
    fours: bool,
) -> Fp4Packed:
    """Lay a matrix out for the kernel.

    Args:
        q: codes [N, K], uint8; K is a multiple of 16.
        scale: [N, K / 16], float8_e4m3fn.
        global_scale: [N or 1, 1], fp64.
        dtype: of x, bf16 or fp16.
        fours: whether warps feed the GPU's tensor cores alone, see `by_warpgroups`.
    """
    num_rows, num_columns = q.shape

    def words_of(part: slice) -> torch.Tensor:
        return _words(with_signs(q[part], scale[part].float()), dtype, fours=fours)

    words = in_parts(q.shape, words_of)
    scales = _scales(_codes(scale.float().abs()))
    factors = (global_scale * float(LEFT.value)).float().expand(num_rows, 1)[:, 0].contiguous()
    return Fp4Packed(words, scales, factors, (num_rows, num_columns), dtype, fours)


def with_signs(q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Codes that have the signs of scales, and are 0 where scales are."""
    sign = torch.signbit(scale).to(torch.uint8).mul_(_SIGN).repeat_interleave(_GROUP, 1)
    there = (scale != 0).repeat_interleave(_GROUP, 1)
    return torch.where(there, q ^ sign, q & _SIGN)


def _words(q: torch.Tensor, dtype: torch.dtype, *, fours: bool) -> torch.Tensor:
    """[units, tiles, words]."""
    lanes = in_lanes(q, _DEPTH, fours=fours)
    words = lanes.new_zeros(*lanes.shape[:6], 1, dtype=torch.int32)
    for half, column, one in product((0, 1), repeat=3):
        number = lanes[..., half, column, one].to(torch.int32)
        for bit, place in zip((3, 2, 1, 0), _PLACES[dtype], strict=True):
            at = (place + 16 * one - _rotation(half + 2 * column, place, dtype)) % 32
            words[..., 0] |= (number >> bit & 1) << at
    return in_runs(words, 4)  # 16 bytes


def _rotation(pair: int, place: int, dtype: torch.dtype) -> int:
    """To the left, that the kernel brings a bit of a pair to its place with."""
    moves = WIDE_MOVES if dtype == torch.bfloat16 else NARROW_MOVES
    first, mask, second, _ = moves.value[pair]
    return int(first if mask >> place & 1 else second)


def _codes(scale: torch.Tensor) -> torch.Tensor:
    """Five bits of exponent and three of the fraction, uint8, of scales that are not negative."""
    fraction, exponent = torch.frexp(scale)  # 448 is 0.875 · 2^9
    codes = ((exponent + (_HIGHEST - 9)) << 3) + (fraction * 16).int() - 8
    codes = torch.where(scale > 0, codes, torch.zeros_like(codes))
    return torch.where(scale.isnan(), torch.full_like(codes, _NOTHING), codes).to(torch.uint8)


def _scales(codes: torch.Tensor) -> torch.Tensor:
    """[units, tiles, words]: warps, rows, 64 columns, other 8 rows; 16 columns a byte."""
    codes = pad(codes, (0, -codes.shape[1] % (_DEPTH // _GROUP), 0, -len(codes) % ROWS))
    codes = codes.view(len(codes) // ROWS, 4, 2, 8, -1, 2, 4).permute(0, 4, 1, 3, 5, 2, 6)
    return codes.contiguous().view(torch.int32).reshape(*codes.shape[:2], -1)
