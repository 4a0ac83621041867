"""x · weightᵀ for weights of 8 bits, with activations of 8 or 16 (Triton).

    y[t, o] = x_scale[t] · scale[o] · sum over i of (x[t, i] - x_zero[t]) · numbers[o, i]

Scales of E4M3 may also be one for each token and 128 columns, and one for each block of the weight
of 128 by 128. Bound: memory up to some hundred tokens, O·I bytes; then arithmetic. The order of
adding depends on shapes alone: the same product is the same bits again.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
from torch.nn.functional import pad
from triton.tools.tensor_descriptor import TensorDescriptor

from aweigh_kernels.byte_schedule import MOST_TOKENS, Few, Many, Shape, fills, schedule
from aweigh_kernels.dense import NARROW, expect_beside, expect_dense
from aweigh_kernels.gpu import byte_matmul as kernels
from aweigh_kernels.gpus import Gpu
from aweigh_kernels.rounding import GROUP, Rounded, padded
from aweigh_kernels.skinny_matmul import Scratch

_TORCH_FROM = 129  # tokens from which its product has proven fast (docs/kernels/fp8-weight.md)
_TORCH_ROWS = 16  # of the weight: it wants a multiple
_MOST_INTEGERS = ((1 << 31) - 1) // (255 * 128)  # of a row: a product is that much at most
_PIECE = 4096  # numbers of a row that one program makes dense


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteMatrix:
    """A matrix [O, I] as the kernels read it."""

    numbers: torch.Tensor  # [O, W], W a multiple of GROUP; behind I there are zeros
    columns: int  # I
    scale: torch.Tensor  # fp32, [O], or with blocks [ceil(O / 128), W / 128]
    blocks: bool = False
    row_sums: torch.Tensor | None = None  # [O], int32, of integers


def pack(
    numbers: torch.Tensor, scale: torch.Tensor, *, blocks: bool = False, summed: bool = False
) -> ByteMatrix:
    """Lay a matrix out for many products; where rows are whole groups, `numbers` are kept as is.

    Args:
        numbers: [O, I], float8_e4m3fn, float8_e5m2 or int8; of integers I is at most 65,793, so
            that no sum of products can overflow.
        scale: [O or 1, 1], or with blocks [ceil(O / 128), ceil(I / 128)].
        blocks: whether scales are those of blocks of 128 by 128.
        summed: whether it is multiplied with integers that have a zero point.

    Raises:
        ValueError: rows of integers are longer, or scales are elsewhere.
    """
    rows, columns = numbers.shape
    expect_beside("the scale of the weight", scale, numbers)
    if numbers.dtype == torch.int8 and columns > _MOST_INTEGERS:
        raise ValueError(
            f"the weight has rows of {columns} integers; expected at most {_MOST_INTEGERS}, "
            "whose products can be added in 32 bits: keep such a matrix dense"
        )
    spare = padded(columns) - columns
    if spare:
        # torch pads no 8-bit floating point numbers; their bytes it does.
        numbers = pad(numbers.view(torch.uint8), (0, spare)).view(numbers.dtype)
    wide = scale.float()
    return ByteMatrix(
        numbers=numbers.contiguous(),
        columns=columns,
        scale=wide.contiguous() if blocks else wide.expand(rows, 1).flatten().contiguous(),
        blocks=blocks,
        row_sums=numbers.sum(1, dtype=torch.int32) if summed else None,
    )


@cache
def scratch_on(device: torch.device) -> Scratch:
    """Where products of a device leave their sums: one stream computes all, as linting watches."""
    return Scratch(device, MOST_TOKENS)


def byte_matmul(
    x: torch.Tensor | Rounded, matrix: ByteMatrix, scratch: Scratch, dtype: torch.dtype
) -> torch.Tensor:
    """Multiply activations with a matrix of 8 bits.

    Args:
        x: [T, I], bf16 or fp16, contiguous, or rounded as the matrix's numbers ask for; on its
            device. T may be 0.
        matrix: of `pack`.
        scratch: of `scratch_on`; no other product may use it at the same time.
        dtype: of the output, bf16 or fp16.

    Returns:
        [T, O], rounded once.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    expect_multiplied(x, matrix)
    shape, device = shape_of(x, matrix), matrix.numbers.device
    chosen = divided(shape, matrix, dtype)
    if chosen is None:
        assert isinstance(x, Rounded)
        return torch._scaled_mm(
            x.numbers,
            matrix.numbers.t(),
            scale_a=x.scale[:, None],
            scale_b=matrix.scale[None],
            out_dtype=dtype,
        )
    output = torch.empty(shape.num_tokens, shape.out_size, dtype=dtype, device=device)
    if output.numel():
        launch(x, matrix, output, scratch, chosen, Gpu.of(device))
    return output


def divided(shape: Shape, matrix: ByteMatrix, dtype: torch.dtype) -> Few | Many | None:
    """How a product is divided; None: torch's, row-wise, is faster.

    Args:
        shape: of the product.
        matrix: of `pack`.
        dtype: of the output.
    """
    gpu = Gpu.of(matrix.numbers.device)
    by_torch = (
        (shape.num_tokens >= _TORCH_FROM or fills(shape, gpu))
        and shape.x_bytes == 1
        and not shape.parts
        and matrix.numbers.dtype == torch.float8_e4m3fn
        and dtype == torch.bfloat16
        and shape.out_size % _TORCH_ROWS == 0
    )
    return None if by_torch else schedule(shape, gpu)


def numbers_of(x: torch.Tensor | Rounded) -> torch.Tensor:
    """[T, I or W]."""
    return x.numbers if isinstance(x, Rounded) else x


def shape_of(x: torch.Tensor | Rounded, matrix: ByteMatrix) -> Shape:
    """Of their product."""
    numbers, (out_size, width) = numbers_of(x), matrix.numbers.shape
    grouped = isinstance(x, Rounded) and x.scale.dim() > 1
    integers = numbers.dtype == torch.int8
    parts = matrix.blocks or grouped
    return Shape(len(numbers), out_size, width, numbers.itemsize, integers, parts)


def launch(
    x: torch.Tensor | Rounded,
    matrix: ByteMatrix,
    output: torch.Tensor,
    scratch: Scratch,
    chosen: Few | Many,
    gpu: Gpu,
) -> None:
    """`byte_matmul` of tensors that are as they should be; Triton's interpreter takes them, too."""
    if isinstance(chosen, Few):
        launch_few(kernels.multiply_few, (x, matrix, output), scratch, chosen, gpu)
        return
    numbers, weight = numbers_of(x), matrix.numbers
    num_tokens, (out_size, width) = len(numbers), weight.shape
    tiles = triton.cdiv(num_tokens, chosen.tokens) * triton.cdiv(out_size, chosen.rows)
    kernels.multiply_many[(tiles,)](
        TensorDescriptor.from_tensor(numbers, [chosen.tokens, chosen.depth]),
        TensorDescriptor.from_tensor(weight, [chosen.rows, chosen.depth]),
        *scales_of(x, matrix),
        output,
        num_tokens,
        OUT=out_size,
        WIDTH=width,
        TOKENS=chosen.tokens,
        ROWS=chosen.rows,
        DEPTH=chosen.depth,
        BAND=chosen.band,
        **kinds_of(x, matrix, gpu),
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        launch_pdl=gpu.early,
    )


def launch_few(
    kernel: Any,
    tensors: tuple[torch.Tensor | Rounded, ByteMatrix, torch.Tensor],
    scratch: Scratch,
    chosen: Few,
    gpu: Gpu,
    *behind: torch.Tensor | float,
    **constants: int,
) -> None:
    """Launch a kernel that begins as `multiply_few` does; see `launch`.

    Args:
        kernel: of Triton.
        tensors: x, of 1 token or more; the matrix; the output.
        scratch: see `byte_matmul`.
        chosen: how it is divided.
        gpu: where it is.
        behind: what else the kernel takes.
        constants: likewise.
    """
    x, matrix, output = tensors
    numbers, weight = numbers_of(x), matrix.numbers
    num_tokens, (out_size, width) = len(numbers), weight.shape
    tiles = triton.cdiv(num_tokens, chosen.tokens) * triton.cdiv(out_size, chosen.rows)
    codes = as_codes(weight, gpu)
    kernel[(tiles, chosen.splits)](
        numbers,
        weight.view(torch.uint8) if codes else weight,
        *scales_of(x, matrix),
        output,
        scratch.sums.view(torch.int32) if numbers.dtype == torch.int8 else scratch.sums,
        scratch.arrived,
        num_tokens,
        *behind,
        OUT=out_size,
        IN=numbers.shape[1],
        WIDTH=width,
        TOKENS=chosen.tokens,
        ROWS=chosen.rows,
        DEPTH=chosen.depth,
        SPLITS=chosen.splits,
        AHEAD=chosen.ahead,
        CODES=codes,
        HALVES=numbers.dtype == torch.int8 and not gpu.int8,
        **kinds_of(x, matrix, gpu),
        **constants,
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        launch_pdl=gpu.early,
    )


def scales_of(x: torch.Tensor | Rounded, matrix: ByteMatrix) -> tuple[torch.Tensor, ...]:
    """As all kernels take them: x_scale, x_zero, scale, row_sums.

    In the place of one that there is not stands another, which they do not read.
    """
    rounded = x if isinstance(x, Rounded) else None
    x_scale = matrix.scale if rounded is None else rounded.scale
    x_zero = x_scale if rounded is None or rounded.zero is None else rounded.zero
    row_sums = matrix.scale if matrix.row_sums is None else matrix.row_sums
    return x_scale, x_zero, matrix.scale, row_sums


def kinds_of(x: torch.Tensor | Rounded, matrix: ByteMatrix, gpu: Gpu) -> dict[str, int]:
    """What all kernels are compiled for, by what there is and by the GPU."""
    rounded = x if isinstance(x, Rounded) else None
    return {
        "SCALED": rounded is not None and rounded.scale.dim() == 1,
        "GROUPED": rounded is not None and rounded.scale.dim() == 2,
        "BLOCKS": matrix.blocks,
        "ZERO": rounded is not None and rounded.zero is not None,
        "SHORT": gpu.short_sums,
        "EARLY": gpu.early,
    }


def widened(matrix: ByteMatrix, rows: slice, dtype: torch.dtype, gpu: Gpu) -> torch.Tensor:
    """Rows of a matrix of 8-bit floating point, [rows, I], rounded once; Triton's interpreter, too.

    Args:
        matrix: of `pack`.
        rows: from a multiple of GROUP on, if scales are those of blocks.
        dtype: bf16 or fp16.
        gpu: where it is.
    """
    weight = matrix.numbers[rows]
    scale = matrix.scale[rows.start // GROUP :] if matrix.blocks else matrix.scale[rows]
    output = torch.empty(len(weight), matrix.columns, dtype=dtype, device=weight.device)
    codes = as_codes(weight, gpu)
    piece = min(_PIECE, int(triton.next_power_of_2(matrix.columns)))
    kernels.widen[(len(weight), triton.cdiv(matrix.columns, piece))](
        weight.view(torch.uint8) if codes else weight,
        scale,
        output,
        SIZE=matrix.columns,
        WIDTH=weight.shape[1],
        PIECE=piece,
        BLOCKS=matrix.blocks,
        CODES=codes,
        EARLY=gpu.early,
        num_warps=8,
        launch_pdl=gpu.early,
    )
    return output


def as_codes(weight: torch.Tensor, gpu: Gpu) -> bool:
    """Whether a kernel gets bytes, as it has no such numbers."""
    return weight.dtype == torch.float8_e4m3fn and not gpu.fp8


def expect_multiplied(x: torch.Tensor | Rounded, matrix: ByteMatrix) -> None:
    """Refuse activations that do not fit a matrix; see `byte_matmul`."""
    width = matrix.numbers.shape[1]
    expect_beside("x", numbers_of(x), matrix.numbers)
    if not isinstance(x, Rounded):
        expect_dense("x", x, [len(x), matrix.columns], NARROW)
        return
    integers = matrix.numbers.dtype == torch.int8
    num_tokens = len(x.numbers)
    kind = torch.int8 if integers else torch.float8_e4m3fn
    expect_dense("x", x.numbers, [num_tokens, width], [kind])
    scales = [num_tokens] if x.scale.dim() == 1 or integers else [width // GROUP, num_tokens]
    expect_dense("the scale of x", x.scale, scales, [torch.float32])
    expect_beside("the scale of x", x.scale, matrix.numbers)
    if x.zero is not None:
        expect_dense("the zero point of x", x.zero, [num_tokens], [torch.int32])
        expect_beside("the zero point of x", x.zero, matrix.numbers)
        if matrix.row_sums is None:
            raise ValueError("x has a zero point; expected none: the matrix is packed without sums")
