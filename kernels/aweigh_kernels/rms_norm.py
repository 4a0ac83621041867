"""Root mean square norm of each row, with the addition before it if there is one (Triton).

    hidden = x + residual,   output = hidden / sqrt(mean(hidden², over N) + eps) · weight

As torch rounds: the sum once, to the activations' numbers, and the output once. In between
everything is fp32. Bound: memory; 2·T·N numbers move, 4·T·N with a residual.
"""

import torch
import triton

from aweigh_kernels.dense import NARROW, expect_dense, starts_early
from aweigh_kernels.gpu import rms_norm as kernels
from aweigh_kernels.round_rows import empty, given
from aweigh_kernels.rounding import GROUP, ByteRounding, Rounded, padded

MOST_COLUMNS = 32_768  # of a row, which one program holds in registers
_TILE = 2048  # numbers of a program at least, where rows are short
_NUMBERS_A_WARP = 512  # of one row: two loads of 16 bytes of each thread


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    *,
    residual: torch.Tensor | None = None,
    output: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalize each row; what a residual is added to is its sum from then on.

    Args:
        x: [T, N], bf16 or fp16, contiguous like all of them; T may be 0, N at most MOST_COLUMNS.
            Fastest where rows are a multiple of 16 bytes.
        weight: [N], as x, or fp32 as models have it whose weights are stored less one: the one
            is already added.
        eps: added to the mean square.
        residual: [T, N], as x; becomes x + residual, which is what is normalized.
        output: [T, N], as x; x itself is allowed. None: new memory.

    Returns:
        output: [T, N].

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    _expect(x, weight, residual)
    if output is None:
        output = torch.empty_like(x)
    expect_dense("output", output, x.shape, [x.dtype])
    if len(x):
        _launch(x, weight, eps, residual, output)
    return output


def rms_norm_rounded(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    rounding: ByteRounding,
    *,
    residual: torch.Tensor | None = None,
) -> Rounded:
    """What `rms_norm` gives, rounded to 8 bits: the bits of both, one after the other.

    Args:
        x: see `rms_norm`, as the others.
        weight: [N].
        eps: added to the mean square.
        rounding: how.
        residual: [T, N]; becomes x + residual.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    _expect(x, weight, residual)
    early = starts_early(x.device)
    return launch_rounded(x, weight, eps, rounding, residual=residual, early=early)


def reference(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by torch, on any device; it changes nothing.

    Returns:
        output, hidden: [T, N] both.
    """
    hidden = x if residual is None else x + residual
    normed = torch.rms_norm(hidden.to(weight.dtype), weight.shape, weight, eps)
    return normed.to(x.dtype), hidden


def launch_rounded(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    rounding: ByteRounding,
    *,
    residual: torch.Tensor | None,
    early: bool,
) -> Rounded:
    """`rms_norm_rounded` of tensors that are as they should be; Triton's interpreter takes them."""
    num_rows, size = x.shape
    found = empty(num_rows, size, rounding, x.device)
    if not num_rows:
        return found
    size_up = max(GROUP, int(triton.next_power_of_2(size)))
    ways = {"static": 0, "token": kernels.BY_TOKEN.value, "group": kernels.BY_GROUP.value}
    rows = max(1, _TILE // size_up)
    kernels.normalize_rounded[(triton.cdiv(num_rows, rows),)](
        x,
        x if residual is None else residual,
        weight,
        found.numbers,
        found.scale,
        found.scale if found.zero is None else found.zero,
        *given(rounding, found.scale),
        num_rows,
        eps,
        SIZE=size,
        SIZE_UP=size_up,
        WIDTH=padded(size),
        ROWS=rows,
        ADD=residual is not None,
        BY=ways[rounding.by],
        ZERO=found.zero is not None,
        EARLY=early,
        num_warps=num_warps_of(rows * size_up),
        launch_pdl=early,
    )
    return found


def _expect(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None) -> None:
    num_rows, size = x.shape
    expect_dense("x", x, [num_rows, size], NARROW)
    expect_dense("weight", weight, [size], [x.dtype, torch.float32])
    if residual is not None:
        expect_dense("residual", residual, x.shape, [x.dtype])
    if not 0 < size <= MOST_COLUMNS:
        raise ValueError(f"x has rows of {size} numbers; expected 1 to {MOST_COLUMNS}")


def _launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
    output: torch.Tensor,
) -> None:
    num_rows, size = x.shape
    size_up = triton.next_power_of_2(size)
    rows = max(1, _TILE // size_up)
    early = starts_early(x.device)
    kernels.normalize[(triton.cdiv(num_rows, rows),)](
        x,
        x if residual is None else residual,
        weight,
        output,
        num_rows,
        eps,
        SIZE=size,
        SIZE_UP=size_up,
        ROWS=rows,
        ADD=residual is not None,
        EARLY=early,
        num_warps=num_warps_of(rows * size_up),
        launch_pdl=early,
    )


def num_warps_of(numbers: int) -> int:
    """Of a program that holds so many numbers."""
    return min(16, max(1, numbers // _NUMBERS_A_WARP))
