"""x · weightᵀ for a few tokens, as fast as the weight can be read (Triton).

Bound: memory; O·I numbers of the weight move, and T·(O + I) of x and the output, which are few.
Sums are fp32, in an order that depends on shapes alone: the same product is the same bits again.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton

from aweigh_kernels.dense import NARROW, expect_dense, starts_early
from aweigh_kernels.gpu.skinny_matmul import multiply
from aweigh_kernels.gpus import Gpu

MOST_TOKENS = 64
_LEAST_TOKENS = 16  # that a tensor core takes
_MOST_SPLITS = 8
_LEAST_STEPS = 4  # of a part
_TILE = 64  # rows of the weight, where programs share them


@dataclass(frozen=True)
class Schedule:
    """How a product is divided."""

    rows: int  # of the weight, of one program
    depth: int  # numbers of each row that are read at once
    splits: int  # programs that share rows, each with a part of their numbers
    num_stages: int  # tiles on their way, and the one that is multiplied
    ahead: int = 256  # numbers of each row that are asked for while the kernel before ends
    num_warps: int = 4

    def stages_within(self, num_bytes: int, num_tokens: int) -> int:
        """As many stages as so much shared memory has room for."""
        stage_bytes = 2 * self.depth * (self.rows + tokens_of(num_tokens))
        return min(self.num_stages, num_bytes // stage_bytes)


class Scratch:
    """Where programs that share rows leave their sums: one for each stream that multiplies.

    Its address stays, so that graphs may hold products that use it. Make it before capturing one.
    """

    def __init__(self, device: torch.device, most_tokens: int = MOST_TOKENS) -> None:
        # `schedule` lets three programs of each multiprocessor share rows, one if tokens are many.
        num_processors = Gpu.of(device).num_processors
        size = num_processors * _TILE * most_tokens
        self.sums = torch.empty(size, dtype=torch.float32, device=device)
        self.arrived = torch.zeros(3 * num_processors, dtype=torch.int32, device=device)


def skinny_matmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    scratch: Scratch,
    *,
    bias: torch.Tensor | None = None,
    output: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply a few rows with a matrix.

    Args:
        x: [T, I], bf16 or fp16, contiguous like all of them; T may be 0, and is MOST_TOKENS at
            most.
        weight: [O, I], as x. Fastest where rows are a multiple of 16 bytes.
        scratch: on the same device; no other product may use it at the same time.
        bias: [O], as x; added before rounding.
        output: [T, O], as x or fp32. None: new memory, as x.

    Returns:
        output: [T, O], rounded once.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    (num_tokens, in_size), out_size = x.shape, weight.shape[0]
    expect_dense("x", x, [num_tokens, in_size], NARROW)
    expect_dense("weight", weight, [out_size, in_size], [x.dtype])
    if bias is not None:
        expect_dense("bias", bias, [out_size], [x.dtype])
    if output is None:
        output = x.new_empty(num_tokens, out_size)
    expect_dense("output", output, [num_tokens, out_size], [x.dtype, torch.float32])
    if num_tokens > MOST_TOKENS:
        raise ValueError(f"x has {num_tokens} rows; expected at most {MOST_TOKENS}")
    if output.numel():
        chosen = schedule_on(x.device, num_tokens, out_size, in_size)
        launch(multiply, (x, weight, bias, output), scratch, chosen)
    return output


def reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The same by torch, on any device."""
    return torch.nn.functional.linear(x, weight, bias)


def schedule(num_tokens: int, out_size: int, in_size: int, num_processors: int) -> Schedule:
    """What is fastest on an H200 (docs/kernels/skinny-matmul.md), by shape alone.

    Args:
        num_tokens: T.
        out_size: O.
        in_size: I.
        num_processors: multiprocessors of the GPU.
    """
    few = num_tokens <= _LEAST_TOKENS
    tiles = -(-out_size // _TILE)
    if few and tiles > 3 * num_processors:
        return Schedule(_TILE, 128, 1, 4, ahead=0)
    if not few and tiles > 2 * num_processors:
        return Schedule(
            128, 64, 1, 5, ahead=0
        )  # each tile needs all of x: the fewer of them the better
    most = max(1, min(_MOST_SPLITS, in_size // (128 * _LEAST_STEPS)))
    alone, three = (splits(tiles, each * num_processors, most) for each in (1, 3))
    # One program of each multiprocessor with many tiles on their way is best. Three with fewer are
    # better where they are needed, or fill the GPU more evenly: unless what many tokens leave to
    # each other costs more than that.
    if tiles > num_processors or (few and three > 3.3 * alone):
        return Schedule(_TILE, 128, three if few else 1, 3)
    return Schedule(_TILE, 128, alone, 6 if few else 5)


def schedule_on(device: torch.device, num_tokens: int, out_size: int, in_size: int) -> Schedule:
    """The same, for a GPU that is there."""
    num_processors = Gpu.of(device).num_processors
    return schedule(num_tokens, out_size, in_size, num_processors)


def splits(tiles: int, programs: int, most: int) -> int:
    """The largest power of two that makes at most so many programs."""
    wanted = max(1, min(most, programs // max(tiles, 1)))
    return 1 << (wanted.bit_length() - 1)


def tokens_of(num_tokens: int) -> int:
    """Columns of the tile that so many tokens need."""
    return max(_LEAST_TOKENS, int(triton.next_power_of_2(num_tokens)))


def launch(
    kernel: Any,
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor],
    scratch: Scratch,
    chosen: Schedule,
    *behind: torch.Tensor | float,
    **constants: int,
) -> None:
    """Launch a kernel that begins as `multiply` does.

    Args:
        kernel: of Triton.
        tensors: x, weight, bias, output.
        scratch: see `skinny_matmul`.
        chosen: how it is divided.
        behind: what else the kernel takes.
        constants: likewise.
    """
    x, weight, bias, output = tensors
    (num_tokens, in_size), out_size = x.shape, len(weight)
    early = starts_early(x.device)
    kernel[(triton.cdiv(out_size, chosen.rows), chosen.splits)](
        x,
        weight,
        x if bias is None else bias,
        output,
        scratch.sums,
        scratch.arrived,
        num_tokens,
        *behind,
        OUT=out_size,
        IN=in_size,
        TOKENS=tokens_of(num_tokens),
        ROWS=chosen.rows,
        DEPTH=chosen.depth,
        SPLITS=chosen.splits,
        AHEAD=chosen.ahead,
        BIAS=bias is not None,
        EARLY=early,
        **constants,
        num_warps=chosen.num_warps,
        num_stages=chosen.stages_within(Gpu.of(x.device).shared_bytes, num_tokens),
        launch_pdl=early,
    )
