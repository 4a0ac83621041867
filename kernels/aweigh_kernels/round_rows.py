"""Activations become numbers of 8 bits, for products with weights of 8 bits (Triton).

See `rounding`. The same bits as `fp8_weight.quantize` and `int8_weight.quantize` give on a CPU.
Bound: memory; 3·T·K bytes move, 5·T·M of gates and what they let by.
"""

from typing import Any

import torch
import triton

from aweigh_kernels.activation import Activation
from aweigh_kernels.dense import NARROW, expect_dense, starts_early
from aweigh_kernels.gpu import rounding as kernels
from aweigh_kernels.rounding import GROUP, ByteRounding, Rounded, padded

_LONGEST = 16_384  # numbers of a row that one program holds in registers
_PIECE = 2048  # numbers of a program that shares its row
_NUMBERS_A_WARP = 512


def round_rows(x: torch.Tensor, rounding: ByteRounding) -> Rounded:
    """Round activations; each token's depend on itself alone.

    Args:
        x: [T, K], bf16 or fp16, contiguous, on a GPU; T may be 0.
        rounding: how.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    num_rows, size = x.shape
    expect_dense("x", x, [num_rows, size], NARROW)
    return launch(x, rounding, early=starts_early(x.device))


def round_gated(gate_up: torch.Tensor, activation: Activation, rounding: ByteRounding) -> Rounded:
    """What `gated` gives, rounded: the bits of both, one after the other.

    Args:
        gate_up: [T, 2M], gates first; bf16 or fp16, contiguous, on a GPU; T may be 0.
        activation: silu, or gelu by its tanh formula.
        rounding: how.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    num_rows, width = gate_up.shape
    expect_dense("gate_up", gate_up, [num_rows, width // 2 * 2], NARROW)
    return launch(gate_up, rounding, gates=activation, early=starts_early(gate_up.device))


def round_by_largest(x: torch.Tensor, largest: torch.Tensor, rounding: ByteRounding) -> Rounded:
    """`round_rows` where whoever made the rows has found how large they are.

    Args:
        x: see `round_rows`.
        largest: [T, any], int32: `size_of` all parts of each row.
        rounding: by token, and not shifted.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    num_rows, size = x.shape
    expect_dense("x", x, [num_rows, size], NARROW)
    expect_dense("largest", largest, [num_rows, largest.shape[1]], [torch.int32])
    return launch_by_largest(x, largest, rounding, early=starts_early(x.device))


def empty(num_rows: int, size: int, rounding: ByteRounding, device: torch.device) -> Rounded:
    """Memory for rows of so many numbers."""
    width = padded(size)
    shape = (width // GROUP, num_rows) if rounding.by == "group" else (num_rows,)
    scale = torch.empty(shape, dtype=torch.float32, device=device)
    zero = torch.empty_like(scale, dtype=torch.int32) if rounding.shifted else None
    numbers = torch.empty(num_rows, width, dtype=rounding.kind, device=device)
    return Rounded(numbers, scale, zero)


def given(rounding: ByteRounding, spare: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale and the zero point that a kernel reads, or what it takes in their place."""
    scale = spare if rounding.scale is None else rounding.scale
    return scale, scale if rounding.zero is None else rounding.zero


def launch(
    x: torch.Tensor, rounding: ByteRounding, *, gates: Activation | None = None, early: bool
) -> Rounded:
    """Round tensors that are as they should be, which Triton's interpreter takes, too."""
    num_rows = len(x)
    size = x.shape[1] // (1 if gates is None else 2)
    found = empty(num_rows, size, rounding, x.device)
    width = padded(size)
    whole = rounding.by == "token"
    piece = min(int(triton.next_power_of_2(width)), _LONGEST if whole else _PIECE)
    common: dict[str, Any] = {
        "SIZE": size,
        "WIDTH": width,
        "PIECE": piece,
        "GATED": gates is not None,
        "GELU": gates == "gelu_pytorch_tanh",
        "EARLY": early,
        "num_warps": min(16, max(1, piece // _NUMBERS_A_WARP)),
        "launch_pdl": early,
    }
    if not num_rows:
        return found
    grid = (num_rows, 1 if whole else triton.cdiv(width, piece))
    numbers, scale, shifted = found.numbers, found.scale, found.zero is not None
    zero = scale if found.zero is None else found.zero
    if rounding.by == "group":
        kernels.round_by_group[grid](x, numbers, scale, num_rows, **common)
    elif whole:
        kernels.round_by_token[grid](x, numbers, scale, zero, ZERO=shifted, **common)
    else:
        fixed = given(rounding, scale)
        kernels.round_as_given[grid](x, numbers, scale, zero, *fixed, ZERO=shifted, **common)
    return found


def launch_by_largest(
    x: torch.Tensor, largest: torch.Tensor, rounding: ByteRounding, *, early: bool
) -> Rounded:
    """`round_by_largest` of tensors that are as they should be; Triton's interpreter, too."""
    num_rows, size = x.shape
    found = empty(num_rows, size, rounding, x.device)
    if num_rows:
        kernels.round_by_largest[(num_rows, triton.cdiv(padded(size), _PIECE))](
            x,
            largest,
            found.numbers,
            found.scale,
            SIZE=size,
            WIDTH=padded(size),
            PIECE=_PIECE,
            PARTS=largest.shape[1],
            PARTS_UP=triton.next_power_of_2(largest.shape[1]),
            EARLY=early,
            num_warps=_PIECE // _NUMBERS_A_WARP,
            launch_pdl=early,
        )
    return found
