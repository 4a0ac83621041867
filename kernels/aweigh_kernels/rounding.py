"""Activations as numbers of 8 bits, for products with weights of 8 bits (Triton).

    numbers[t, k] = nearest to x[t, k] / scale[t]             E4M3, with a scale for each token,
                                                              or for each token and 128 columns
    numbers[t, k] = nearest to x[t, k] / scale[t] + zero[t]   integers

The same bits as `fp8_weight.quantize` and `int8_weight.quantize` give on a CPU. Bound: memory;
3·T·K bytes move.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import triton

from aweigh_kernels.checks import expect
from aweigh_kernels.dense import NARROW, expect_dense, starts_early
from aweigh_kernels.gpu import rounding as kernels

GROUP = int(kernels.GROUP.value)  # columns that share a scale, where a token has several
KINDS = (torch.float8_e4m3fn, torch.int8)
_LONGEST = 16_384  # numbers of a row that one program holds in registers
_PIECE = 2048  # numbers of a program that shares its row
_NUMBERS_A_WARP = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How activations become numbers of 8 bits.

    Raises:
        ValueError: a scale is given where tokens have their own, or the other way round.
    """

    kind: torch.dtype  # float8_e4m3fn or int8
    by: Literal["static", "token", "group"]
    scale: torch.Tensor | None = None  # [], fp32, of a static one
    shifted: bool = False  # integers with a zero point
    zero: torch.Tensor | None = None  # [], int32, of a static one that is shifted

    def __post_init__(self) -> None:
        if self.kind not in KINDS or (self.kind == torch.int8 and self.by == "group"):
            raise ValueError(
                f"activations are rounded to {self.kind} by {self.by}; expected int8 by token or "
                "static, or float8_e4m3fn"
            )
        if self.shifted and self.kind != torch.int8:
            raise ValueError("activations of float8_e4m3fn have a zero point; expected none")
        if (self.scale is not None) != (self.by == "static"):
            raise ValueError(f"activations rounded by {self.by}: expected a scale if static only")
        if (self.zero is not None) != (self.shifted and self.by == "static"):
            raise ValueError("a zero point goes with a static scale that is shifted, and no other")
        if self.scale is not None:
            expect("the activations' scale", self.scale, [()], [torch.float32])
        if self.zero is not None:
            expect("the activations' zero point", self.zero, [()], [torch.int32])


@dataclass(frozen=True, slots=True)
class Rounded:
    """Activations of 8 bits. Rows are filled up with columns that count for nothing."""

    numbers: torch.Tensor  # [T, W], W a multiple of GROUP
    scale: torch.Tensor  # fp32, [T], or [W / GROUP, T]
    zero: torch.Tensor | None = None  # [T], int32


def round_rows(x: torch.Tensor, rounding: Rounding) -> Rounded:
    """Round activations; each token's depend on itself alone.

    Args:
        x: [T, K], bf16 or fp16, contiguous, on a GPU; T may be 0.
        rounding: how.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    expect_dense("x", x, [*x.shape[:2]], NARROW)
    return launch(x, rounding, early=starts_early(x.device))


def launch(x: torch.Tensor, rounding: Rounding, *, early: bool) -> Rounded:
    """`round_rows` of tensors that are as they should be; Triton's interpreter takes them, too."""
    num_rows, size = x.shape
    width = padded(size)
    numbers = torch.empty(num_rows, width, dtype=rounding.kind, device=x.device)
    shape = (width // GROUP, num_rows) if rounding.by == "group" else (num_rows,)
    scale = torch.empty(shape, dtype=torch.float32, device=x.device)
    zero = torch.empty_like(scale, dtype=torch.int32) if rounding.shifted else None
    whole = rounding.by == "token"
    piece = min(int(triton.next_power_of_2(width)), _LONGEST if whole else _PIECE)
    common = {
        "SIZE": size,
        "WIDTH": width,
        "PIECE": piece,
        "EARLY": early,
        "num_warps": min(16, max(1, piece // _NUMBERS_A_WARP)),
        "launch_pdl": early,
    }
    grid = (num_rows, 1 if whole else triton.cdiv(width, piece))
    spare = scale if zero is None else zero
    if not num_rows:
        return Rounded(numbers, scale, zero)
    if rounding.by == "group":
        kernels.round_by_group[grid](x, numbers, scale, num_rows, **common)
    elif whole:
        kernels.round_by_token[grid](
            x, numbers, scale, spare, num_rows, ZERO=zero is not None, **common
        )
    else:
        given = rounding.scale, rounding.scale if rounding.zero is None else rounding.zero
        kernels.round_as_given[grid](
            x, numbers, scale, spare, *given, num_rows, ZERO=zero is not None, **common
        )
    return Rounded(numbers, scale, zero)


def padded(size: int) -> int:
    """Columns of a row of so many, filled up."""
    return -(-size // GROUP) * GROUP
