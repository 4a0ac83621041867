"""x · weightᵀ of NVFP4 numbers on both sides, by tensor cores that know them: Blackwell's (Triton).

    y[t, n] = x_global · global[n] · sum over k of x[t, k] · x_scale[t, g] · q[n, k] · scale[n, g],

where g is k // 16. Products are exact and fp32 adds them up, in an order that depends on shapes
alone. It has not run on such a GPU yet: an emulation of the instruction proves the numbers, and
machine code that Triton chooses it.
"""

from dataclasses import dataclass

import torch
import triton
from torch.nn.functional import pad

from aweigh_kernels.dense import expect_beside, expect_dense, starts_early
from aweigh_kernels.fp4_packing import with_signs
from aweigh_kernels.fp4_rounding import Fp4Numbers
from aweigh_kernels.gpu.fp4_matmul_blackwell import ROWS, multiply
from aweigh_kernels.gpus import Gpu
from aweigh_kernels.product import Kernels
from aweigh_kernels.skinny_matmul import Scratch, splits, tokens_of

_ROWS = int(ROWS.value)
_MOST_TOKENS = 128  # of one program
_MOST_SHARED = 64  # of one that shares rows: so much `Scratch` of a GPU's workspace has room for
_DEPTH = 256  # numbers of each row that are multiplied at once
_MOST_SPLITS = 8
_LEAST_STEPS = 4  # of programs that share rows


@dataclass(frozen=True, slots=True)
class Fp4Blocks:
    """A matrix [N, K] as tensor cores read it."""

    codes: torch.Tensor  # [N, K / 2], uint8: the code of an even column in the low half
    scale: torch.Tensor  # float8_e4m3fn, in blocks of 128 rows by 4 groups, none negative
    factors: torch.Tensor  # [N], fp32: global scales


@dataclass(frozen=True, slots=True)
class Division:
    """How a product is divided."""

    tokens: int  # of one program
    splits: int  # programs that share rows, each with a part of their numbers


def pack(q: torch.Tensor, scale: torch.Tensor, global_scale: torch.Tensor) -> Fp4Blocks:
    """Lay a matrix out; see `Fp4Weight`."""
    wide = scale.float()
    q = with_signs(q, wide)
    factors = global_scale.float().expand(len(q), 1)[:, 0].contiguous()
    return Fp4Blocks(q[:, ::2] | (q[:, 1::2] << 4), in_blocks(wide.abs().to(scale.dtype)), factors)


def in_blocks(scale: torch.Tensor) -> torch.Tensor:
    """[rows, groups] in blocks of 128 by 4, of which 32 rows lie four times side by side."""
    codes = scale.view(torch.uint8)
    codes = pad(codes, (0, -codes.shape[1] % 4, 0, -len(codes) % 128))
    blocks = codes.view(len(codes) // 128, 4, 32, codes.shape[1] // 4, 4).permute(0, 3, 2, 1, 4)
    return blocks.reshape(codes.shape).view(scale.dtype)


def multiply_blocks(
    x: Fp4Numbers,
    weight: Fp4Blocks,
    scratch: Scratch,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Multiply quantized activations with a matrix.

    Args:
        x: [T, K], scales swizzled.
        weight: on the same device.
        scratch: likewise; no other product may use it at the same time.
        dtype: of the output, bf16 or fp16.

    Returns:
        [T, N], rounded once.

    Raises:
        ValueError: x has another width, number format, strides or device.
    """
    (num_rows, width), num_tokens = weight.codes.shape, len(x.codes)
    expect_dense("x", x.codes, [num_tokens, width], [torch.uint8])
    expect_beside("x", x.codes, weight.codes)
    output = torch.empty(num_tokens, num_rows, dtype=dtype, device=x.codes.device)
    if output.numel():
        chosen = division_on(output.device, num_tokens, num_rows, 2 * width)
        early = starts_early(output.device)
        launch(x, weight, output, (scratch.sums, scratch.arrived), chosen, early=early)
    return output


def kernels_of(weight: Fp4Blocks, dtype: torch.dtype) -> Kernels:
    """Those that quantize activations of a number format and compute their products."""
    (num_rows, width), device = weight.codes.shape, weight.codes.device

    def chosen(num_tokens: int) -> Division:
        return division_on(device, num_tokens, num_rows, 2 * width)

    x = torch.empty(0, 2 * width, dtype=dtype, device=device)
    return Kernels(product=("nvfp4 blocks", num_rows, width, dtype), chosen=chosen, x=x)


def division_on(device: torch.device, num_tokens: int, num_rows: int, num_columns: int) -> Division:
    """`division`, for a GPU that is there."""
    num_processors = Gpu.of(device).num_processors
    return division(num_tokens, num_rows, num_columns, num_processors)


def division(num_tokens: int, num_rows: int, num_columns: int, num_processors: int) -> Division:
    """A guess, by shape alone."""
    tokens = min(_MOST_TOKENS, tokens_of(num_tokens))
    tiles = -(-num_rows // _ROWS) * -(-num_tokens // tokens)
    if tokens > _MOST_SHARED:
        return Division(tokens, 1)
    most = max(1, min(_MOST_SPLITS, num_columns // (_DEPTH * _LEAST_STEPS)))
    return Division(tokens, splits(tiles, num_processors, most))


def launch(
    x: Fp4Numbers,
    weight: Fp4Blocks,
    output: torch.Tensor,
    shared: tuple[torch.Tensor, torch.Tensor],
    chosen: Division,
    *,
    early: bool,
) -> None:
    """Launch the kernel.

    Args:
        x: [T, K]; T is 1 or more.
        weight: [N, K].
        output: [T, N].
        shared: sums and counts of programs that share rows, see `Scratch`.
        chosen: how it is divided.
        early: whether it may start while the kernel before still runs.
    """
    num_tokens, num_rows = output.shape
    grid = triton.cdiv(num_rows, _ROWS), chosen.splits, triton.cdiv(num_tokens, chosen.tokens)
    multiply[grid](
        x.codes,
        x.scale,
        x.global_scale,
        weight.codes,
        weight.scale,
        weight.factors,
        output,
        *shared,
        num_tokens,
        OUT=num_rows,
        IN=2 * weight.codes.shape[1],
        TOKENS=chosen.tokens,
        DEPTH=_DEPTH,
        SPLITS=chosen.splits,
        EARLY=early,
        num_warps=8 if chosen.tokens == _MOST_TOKENS else 4,
        num_stages=4,
        launch_pdl=early,
    )
