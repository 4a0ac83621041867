"""Products with a weight of 8 bits for many calls, alone or with what follows them in a layer.

See `byte_matmul`. Of few tokens gates meet what goes through them, and halves of heads are turned,
where their sums are, as `paired_matmul` does it.
"""

from dataclasses import dataclass, replace

import torch
import triton

from aweigh_kernels.activation import Activation
from aweigh_kernels.byte_matmul import (
    ByteMatrix,
    byte_matmul,
    divided,
    expect_multiplied,
    launch_few,
    numbers_of,
    scratch_on,
    shape_of,
)
from aweigh_kernels.byte_schedule import Few, Shape
from aweigh_kernels.checks import expect, expect_input
from aweigh_kernels.gpu.byte_paired import multiply_few_gated, multiply_few_turned
from aweigh_kernels.gpus import Gpu
from aweigh_kernels.paired_matmul import expect_heads, expect_tiles
from aweigh_kernels.product import KernelProduct, Kernels, RoundingProduct
from aweigh_kernels.rope_write import FP8
from aweigh_kernels.round_rows import round_by_largest, round_rows
from aweigh_kernels.rounding import ByteRounding, Rounded
from aweigh_kernels.skinny_matmul import MOST_TOKENS, Scratch

Turn = tuple[torch.Tensor, torch.Tensor]
Kept = tuple[Turn, torch.Tensor, torch.Tensor, tuple[float, float]]


def prepared(
    matrix: ByteMatrix, dtype: torch.dtype, rounding: ByteRounding | None
) -> KernelProduct | RoundingProduct:
    """The product for many calls: [T, I] of `dtype` to [T, O]. It may be recorded in a graph.

    Args:
        matrix: on a GPU.
        dtype: bf16 or fp16.
        rounding: of activations; None: they stay as they are.
    """
    scratch = scratch_on(matrix.numbers.device)

    def multiply(x: torch.Tensor | Rounded) -> torch.Tensor:
        return byte_matmul(x, matrix, scratch, dtype)

    def checked(x: torch.Tensor) -> torch.Tensor:
        expect_input(x, matrix.columns)
        expect("x", x, [x.shape], [dtype])
        return x.contiguous()

    kernels = kernels_of(matrix, dtype, rounding)
    paired = PairedBytes(matrix, scratch, dtype)
    if rounding is None:
        return KernelProduct(lambda x: multiply(checked(x)), kernels, paired)
    how = rounding.on(matrix.numbers.device)
    return RoundingProduct(how, lambda x: round_rows(checked(x), how), multiply, kernels, paired)


def kernels_of(matrix: ByteMatrix, dtype: torch.dtype, rounding: ByteRounding | None) -> Kernels:
    """Those that compute its product; arguments are those of `prepared`."""
    numbers = matrix.numbers
    how = None if rounding is None else (rounding.kind, rounding.by, rounding.shifted)
    shape = Shape(
        num_tokens=0,
        out_size=len(numbers),
        width=numbers.shape[1],
        x_bytes=dtype.itemsize if rounding is None else 1,
        integers=numbers.dtype == torch.int8,
        parts=matrix.blocks or (rounding is not None and rounding.by == "group"),
    )
    return Kernels(
        product=(shape, matrix.columns, numbers.dtype, matrix.blocks, how, dtype),
        chosen=lambda num_tokens: divided(replace(shape, num_tokens=num_tokens), matrix, dtype),
        x=torch.empty(0, matrix.columns, dtype=dtype, device=numbers.device),
    )


@dataclass(frozen=True, slots=True)
class PairedBytes:
    """See `PairedProduct`. A matrix with scales of blocks has none: partners lie in two of them."""

    matrix: ByteMatrix
    scratch: Scratch
    dtype: torch.dtype  # of what is found

    def gates(self, x: torch.Tensor | Rounded, rounding: ByteRounding | None) -> bool:
        """See `PairedProduct`: what is rounded in another way than by its largest number is not."""
        by_largest = rounding is None or (rounding.by == "token" and not rounding.shifted)
        return by_largest and len(self.matrix.numbers) % 2 == 0 and self._few(x) is not None

    def gated(
        self, x: torch.Tensor | Rounded, activation: Activation, rounding: ByteRounding | None
    ) -> torch.Tensor | Rounded:
        """See `PairedProduct`."""
        chosen, gpu = self._expected(x), Gpu.of(self.matrix.numbers.device)
        rows = len(self.matrix.numbers)
        if rows % 2:
            raise ValueError(f"the weight has {rows} rows; expected as many gates as they let by")
        output, largest = launch_gated(self, x, activation, chosen, gpu)
        return output if rounding is None else round_by_largest(output, largest, rounding)

    def turns(self, x: torch.Tensor | Rounded, size: int) -> bool:
        """See `PairedProduct`."""
        chosen = self._few(x)
        return chosen is not None and size % chosen.rows == 0

    def turned(
        self,
        x: torch.Tensor | Rounded,
        turn: tuple[torch.Tensor, torch.Tensor],
        kv: torch.Tensor,
        slots: torch.Tensor,
        kv_scales: tuple[float, float],
    ) -> torch.Tensor:
        """See `PairedProduct`."""
        chosen, gpu = self._expected(x), Gpu.of(self.matrix.numbers.device)
        expect_heads((len(numbers_of(x)), len(self.matrix.numbers)), turn, kv, slots, self.dtype)
        expect_tiles(kv.shape[3], chosen.rows)
        return launch_turned(self, x, (turn, kv, slots, kv_scales), chosen, gpu)

    def _expected(self, x: torch.Tensor | Rounded) -> Few:
        expect_multiplied(x, self.matrix)
        chosen = self._few(x)
        if chosen is None:
            raise ValueError(
                f"x has {len(numbers_of(x))} rows; expected 1 to {MOST_TOKENS}, and a weight "
                "without scales of blocks"
            )
        return chosen

    def _few(self, x: torch.Tensor | Rounded) -> Few | None:
        """How it is divided, if it is taken at all."""
        shape = shape_of(x, self.matrix)
        if self.matrix.blocks or not 0 < shape.num_tokens <= MOST_TOKENS:
            return None
        chosen = divided(shape, self.matrix, self.dtype)
        return chosen if isinstance(chosen, Few) and chosen.tokens >= shape.num_tokens else None


def launch_gated(
    paired: PairedBytes, x: torch.Tensor | Rounded, activation: Activation, chosen: Few, gpu: Gpu
) -> tuple[torch.Tensor, torch.Tensor]:
    """`PairedBytes.gated` of tensors that are as they should be; Triton's interpreter, too.

    Returns:
        [T, O / 2], and how large they are: `size_of` each tile, [T, tiles], int32.
    """
    numbers, out_size = numbers_of(x), len(paired.matrix.numbers)
    output = numbers.new_empty(len(numbers), out_size // 2, dtype=paired.dtype)
    tiles = triton.cdiv(out_size, chosen.rows)
    largest = numbers.new_empty(len(numbers), tiles, dtype=torch.int32)
    launch_few(
        multiply_few_gated,
        (x, paired.matrix, output),
        paired.scratch,
        chosen,
        gpu,
        largest,
        GELU=activation == "gelu_pytorch_tanh",
    )
    return output, largest


def launch_turned(
    paired: PairedBytes, x: torch.Tensor | Rounded, kept: Kept, chosen: Few, gpu: Gpu
) -> torch.Tensor:
    """`PairedBytes.turned` of tensors that are as they should be; Triton's interpreter, too.

    Args:
        paired: the weight.
        x: [T, I].
        kept: turn, kv, slots and kv_scales.
        chosen: how it is divided.
        gpu: where it is.
    """
    turn, kv, slots, kv_scales = kept
    kv_rows, size = kv.shape[2:]
    numbers, out_size = numbers_of(x), len(paired.matrix.numbers)
    output = numbers.new_empty(len(numbers), out_size // size, size, dtype=paired.dtype)
    launch_few(
        multiply_few_turned,
        (x, paired.matrix, output),
        paired.scratch,
        chosen,
        gpu,
        *turn,
        kv,
        slots,
        *kv_scales,
        SIZE=size,
        KV_HEADS=kv_rows // 2,
        FP8=kv.dtype == FP8,
    )
    return output
