"""Activations become NVFP4, or what NVFP4 makes of them in 16 bits (Triton).

The same bits as `fp4_weight.quantize` gives on a CPU. Bound: memory; 2.5625 bytes move for each
number that is quantized, 4 for each that is rounded.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton

from aweigh_kernels.checks import expect
from aweigh_kernels.dense import NARROW, expect_dense, starts_early
from aweigh_kernels.gpu.fp4_matmul import GROUP
from aweigh_kernels.gpu.fp4_rounding import quantize_groups, round_groups

RANGE = (2.0**-80, 2.0**80)  # of a global scale: no step of what is computed leaves fp32
_GROUP = int(GROUP.value)
_BLOCK = 128  # groups of a program
_SWIZZLED_ROWS, _SWIZZLED_COLUMNS = 128, 4


@dataclass(frozen=True, slots=True)
class Fp4Numbers:
    """Activations of 4 bits."""

    codes: torch.Tensor  # [T, K / 2], uint8: the code of an even column in the low half
    # float8_e4m3fn, [T, K / 16]; or swizzled: rows rounded up to 128, columns to 4, as tensor cores
    # of Blackwell read them, zeros where there are no tokens
    scale: torch.Tensor
    global_scale: torch.Tensor  # [], fp64


def quantize_rows(
    x: torch.Tensor, global_scale: torch.Tensor, *, swizzled: bool = False
) -> Fp4Numbers:
    """Quantize activations; each group's depend on itself alone.

    Args:
        x: [T, K], bf16 or fp16, contiguous, on a GPU; K is a multiple of 16, T may be 0.
        global_scale: [], fp64, in RANGE; on the same device.
        swizzled: whether scales lie in blocks of 128 by 4.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    _expect(x, global_scale)
    return launch_quantize(x, global_scale, swizzled=swizzled, early=starts_early(x.device))


def round_numbers(x: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """What quantized activations mean, [T, K] as x; see `quantize_rows`."""
    _expect(x, global_scale)
    return launch_round(x, global_scale, early=starts_early(x.device))


def launch_quantize(
    x: torch.Tensor,
    global_scale: torch.Tensor,
    *,
    swizzled: bool,
    early: bool,
    interpreted: bool = False,
) -> Fp4Numbers:
    """Quantize tensors that are as they should be, which Triton's interpreter takes, too."""
    num_rows, columns = x.shape[0], x.shape[1] // _GROUP
    shape = (num_rows, columns)
    if swizzled:
        shape = (-(-num_rows // _SWIZZLED_ROWS) * _SWIZZLED_ROWS, -(-columns // 4) * 4)
    make = torch.empty if shape == (num_rows, columns) else torch.zeros
    scale = make(shape, dtype=torch.uint8, device=x.device)
    codes = torch.empty(num_rows, columns * _GROUP // 2, dtype=torch.uint8, device=x.device)
    if x.numel():
        quantize_groups[_grid(x)](
            x,
            global_scale,
            codes.view(torch.int32),
            scale,
            x.numel() // _GROUP,
            COLUMNS=columns,
            SWIZZLED=swizzled,
            **_constants(early, interpreted),
        )
    return Fp4Numbers(codes, scale.view(torch.float8_e4m3fn), global_scale)


def launch_round(
    x: torch.Tensor, global_scale: torch.Tensor, *, early: bool, interpreted: bool = False
) -> torch.Tensor:
    """See `launch_quantize`."""
    output = torch.empty_like(x)
    if x.numel():
        groups = x.numel() // _GROUP
        round_groups[_grid(x)](x, global_scale, output, groups, **_constants(early, interpreted))
    return output


def _grid(x: torch.Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel() // _GROUP, _BLOCK),)


def _constants(early: bool, interpreted: bool) -> dict[str, Any]:
    return {
        "BLOCK": _BLOCK,
        "FUSED": not interpreted,
        "EARLY": early,
        "num_warps": 4,
        "launch_pdl": early,
    }


def _expect(x: torch.Tensor, global_scale: torch.Tensor) -> None:
    expect_dense("x", x, x.shape, NARROW)
    if x.dim() != 2 or x.shape[1] % _GROUP:
        raise ValueError(f"x is {list(x.shape)}; expected [T, K], K a multiple of {_GROUP}")
    expect("the global scale", global_scale, [()], [torch.float64])
    if global_scale.device != x.device:
        raise ValueError(f"the global scale is on {global_scale.device}; expected {x.device}")
