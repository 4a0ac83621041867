"""x · weightᵀ where each token has the weight of its own expert (Triton).

    y[p, o] = sum over i of x[p or its token, i] · weight[expert of p][o, i]        for each pair p

Weights are dense, integers in groups, or 8 bits, as `skinny_matmul`, `int_matmul` and `byte_matmul`
have them, stacked. Bound: memory up to some tens of tokens, the bytes of the matrices that somebody
needs. The order of adding depends on shapes alone: the same product is the same bits again.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import triton

from aweigh_kernels import byte_schedule, skinny_matmul, tile_schedule
from aweigh_kernels.byte_matmul import ByteMatrix, as_codes, kinds_of, numbers_of, scales_of
from aweigh_kernels.gpu import grouped_matmul as kernels
from aweigh_kernels.gpus import Gpu
from aweigh_kernels.int_packing import Packed
from aweigh_kernels.rounding import Rounded
from aweigh_kernels.routing import Routed

_MOST_NUMBERS = 64 * 512  # of sums that programs leave, for each multiprocessor
_MOST_TILES = 8  # that they share, likewise


class Shared:
    """Where programs that share rows leave their sums: no two products may run at the same time.

    Its addresses stay, so that graphs may hold products. Make it before capturing one.
    """

    def __init__(self, num_processors: int, device: torch.device) -> None:
        self.sums = torch.empty(num_processors * _MOST_NUMBERS, device=device)
        self.arrived = torch.zeros(num_processors * _MOST_TILES, dtype=torch.int32, device=device)


@cache
def shared_on(device: torch.device) -> Shared:
    """That of a GPU, from its first product on."""
    return Shared(Gpu.of(device).num_processors, device)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a product is divided, whatever its numbers are."""

    routed: Routed
    out_size: int  # rows of each matrix
    rows: int  # of a program
    splits: int  # programs that share rows, each with a part of their numbers
    num_stages: int
    num_warps: int

    @property
    def grid(self) -> tuple[int, int]:
        """A program for each tile that there can be."""
        tiles = triton.cdiv(self.out_size, self.rows) * len(self.routed.experts)
        return tiles, self.splits

    def within(self, shared: Shared) -> "Tiling":
        """With as many programs that share rows as have room for what they leave."""
        tiles, splits = self.grid
        left_by_one = tiles * self.rows * self.routed.pairs.shape[1]
        if tiles > len(shared.arrived):
            splits = 1
        while splits > 1 and splits * left_by_one > len(shared.sums):
            splits //= 2
        return replace(self, splits=splits)


def likely_rows(routed: Routed, out_size: int) -> int:
    """Of all matrices that somebody needs, one above the other, if all are as likely.

    Products are divided as those of a tile's tokens with one matrix of so many rows.
    """
    num_tokens, each = routed.weights.shape
    num_pairs = each * int(triton.next_power_of_2(num_tokens))
    met = routed.count * (1 - (1 - 1 / routed.count) ** num_pairs)
    return out_size * max(1, round(max(met, num_pairs / routed.pairs.shape[1])))


def launch_dense(
    x: torch.Tensor, weight: torch.Tensor, routed: Routed, shared: Shared, gpu: Gpu
) -> torch.Tensor:
    """Multiply with dense matrices; Triton's interpreter takes all of these, too.

    Args:
        x: [T, I], or of each pair, [T·k, I]; bf16 or fp16, contiguous.
        weight: [E, O, I], as x.
        routed: T may be 0.
        shared: of `shared_on`.
        gpu: where all of it is.

    Returns:
        [T·k, O], as x, rounded once.
    """
    _, out_size, in_size = weight.shape
    tokens, tall = routed.pairs.shape[1], likely_rows(routed, out_size)
    chosen = skinny_matmul.schedule(tokens, tall, in_size, gpu.num_processors)
    stages = chosen.stages_within(gpu.shared_bytes, tokens)
    tiling = Tiling(routed, out_size, chosen.rows, chosen.splits, stages, chosen.num_warps)
    output = x.new_empty(routed.num_pairs, out_size)
    constants = {"IN": in_size, "DEPTH": chosen.depth}
    _launch(kernels.multiply_dense, (x, weight), output, tiling, shared, gpu, **constants)
    return output


def launch_ints(
    x: torch.Tensor, packed: Packed, routed: Routed, shared: Shared, gpu: Gpu
) -> torch.Tensor:
    """Multiply with packed integers; see `launch_dense`.

    Args:
        x: as there.
        packed: its words and factors are those of E matrices, [E, …], its shape that of one.
        routed, shared, gpu: as there.
    """
    out_size, in_size = packed.shape
    tall = replace(packed, shape=(likely_rows(routed, out_size), in_size))
    chosen = tile_schedule.schedule(routed.pairs.shape[1], tall, gpu.num_processors)
    chosen = chosen.within(gpu.shared_bytes, packed)
    tiling = Tiling(
        routed, out_size, chosen.rows, chosen.splits, chosen.num_stages, chosen.num_warps
    )
    output = x.new_empty(routed.num_pairs, out_size)
    _launch(
        kernels.multiply_ints,
        (x, *packed.tensors),
        output,
        tiling,
        shared,
        gpu,
        **packed.constants,
        WORDS=packed.words[0].numel(),
        FACTORS=packed.factors[0].numel(),
        UNROLL=chosen.unroll,
        PAIRS=x.is_cuda,  # see `tile_matmul.launch`
    )
    return output


def launch_bytes(
    x: torch.Tensor | Rounded,
    matrix: ByteMatrix,
    routed: Routed,
    dtype: torch.dtype,
    shared: Shared,
    gpu: Gpu,
) -> torch.Tensor:
    """Multiply with 8 bits; see `launch_dense`.

    Args:
        x: as there, or rounded as the matrices' numbers ask for.
        matrix: its tensors are those of E matrices, [E, …].
        routed, shared, gpu: as there.
        dtype: of the output.
    """
    numbers, weight = numbers_of(x), matrix.numbers
    _, out_size, width = weight.shape
    integers, tokens = numbers.dtype == torch.int8, routed.pairs.shape[1]
    kinds = kinds_of(x, matrix, gpu)
    shape = byte_schedule.Shape(
        num_tokens=tokens,
        out_size=likely_rows(routed, out_size),
        width=width,
        x_bytes=numbers.itemsize,
        integers=integers,
        parts=bool(kinds["BLOCKS"] or kinds["GROUPED"]),
    )
    chosen = byte_schedule.few(shape, gpu, tokens)
    tiling = Tiling(
        routed, out_size, chosen.rows, chosen.splits, chosen.num_stages, chosen.num_warps
    )
    output = torch.empty(routed.num_pairs, out_size, dtype=dtype, device=weight.device)
    codes = as_codes(weight, gpu)
    _launch(
        kernels.multiply_bytes,
        (numbers, weight.view(torch.uint8) if codes else weight, *scales_of(x, matrix)),
        output,
        tiling,
        shared,
        gpu,
        **kinds,
        IN=numbers.shape[1],
        WIDTH=width,
        SCALES=matrix.scale[0].numel(),
        DEPTH=chosen.depth,
        CODES=codes,
        HALVES=integers and not gpu.int8,
    )
    return output


def _launch(
    multiply: Any,
    given: tuple[torch.Tensor, ...],
    output: torch.Tensor,
    tiling: Tiling,
    shared: Shared,
    gpu: Gpu,
    **constants: int,
) -> None:
    """Launch a kernel, unless there is nothing to do.

    Args:
        multiply: of Triton.
        given: x, and what else it takes before the output.
        output: [T·k, O].
        tiling: how it is divided, were there room for all that programs leave.
        shared: of `shared_on`.
        gpu: where all of it is.
        constants: what it is compiled for because of its numbers.
    """
    if not output.numel():
        return
    x, routed, tiling = given[0], tiling.routed, tiling.within(shared)
    common = {
        "OUT": tiling.out_size,
        "EACH": _pairs_of_row(x, routed),
        "TOKENS": routed.pairs.shape[1],
        "ROWS": tiling.rows,
        "SPLITS": tiling.splits,
        "EARLY": gpu.early,
    }
    multiply[tiling.grid](
        *given,
        output,
        shared.sums.view(torch.int32) if x.dtype == torch.int8 else shared.sums,
        shared.arrived,
        routed.experts,
        routed.pairs,
        routed.num_pairs,
        len(routed.experts),
        **common | constants,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
        launch_pdl=gpu.early,
    )


def _pairs_of_row(x: torch.Tensor, routed: Routed) -> int:
    """How many pairs have a row of x in common: those of a token, or none."""
    return 1 if len(x) == routed.num_pairs else routed.weights.shape[1]
