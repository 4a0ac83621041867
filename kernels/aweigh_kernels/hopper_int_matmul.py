"""Products of many tokens with weights of 4 bits by Hopper's warpgroups (`csrc/`).

Bound: arithmetic. Each weight is rounded to x's number format, as a dense one would be, and its
scale before it. Sums are fp32, in an order that depends on shapes alone: the same product is the
same bits again.
"""

import ctypes
from dataclasses import dataclass
from functools import cache

import torch

from aweigh_kernels.cuda_int_matmul import Arguments, aligned, call, warn
from aweigh_kernels.cuda_library import library
from aweigh_kernels.dense import is_hopper, starts_early
from aweigh_kernels.gpus import Gpu
from aweigh_kernels.int_packing import ROWS, Packed
from aweigh_kernels.skinny_matmul import Scratch

BITS = 4
DEPTH = 128  # columns of a step
CLUSTER = 2  # blocks with the same tokens and other rows
TILES = ((128, 64), (128, 128), (128, 256), (256, 64), (256, 96), (256, 128))  # of a block
_WARPGROUPS = 2  # of a block
_UNPACKED = 34  # weights that a multiprocessor unpacks in a cycle,
_READ = 20  # bytes that the second-level cache gives it,
_MULTIPLIED = 2048  # products that its tensor cores add,
_LEFT, _ROUNDED = 15, 20  # sums that it leaves to others or takes from them, and that it writes
_WAITED, _WRITTEN = 100, 2000  # cycles of each step, and of a tile, for what cannot be overlapped
_UNIT = 32  # rows, as csrc/arguments.cuh counts them


@dataclass(frozen=True)
class Schedule:
    """How a product is divided."""

    rows: int  # of a block, and
    tokens: int  # one of TILES
    splits: int  # blocks that share rows and tokens, each with a part of their columns

    def tiles(self, num_tokens: int, num_rows: int) -> int:
        """Rows and tokens of a cluster each."""
        return -(-num_rows // (CLUSTER * self.rows)) * -(-num_tokens // self.tokens)


@cache
def is_ready(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels are there and this is a Hopper GPU; loads them.

    Call it before a graph is captured that holds products.
    """
    kernels = library()
    if kernels is None or not is_hopper(device):
        return False
    given = Arguments(bits=BITS, wide=dtype == torch.bfloat16)
    with torch.cuda.device(device):
        error = kernels.aweigh_hopper_int_make_ready(ctypes.byref(given))
    if error:
        warn(BITS, device, error)
    return not error


def takes(packed: Packed) -> bool:
    """Whether a weight is packed as the kernel reads it."""
    return packed.bits == BITS and packed.depth == DEPTH and not packed.fours


@cache
def schedule(num_tokens: int, shape: tuple[int, int], num_processors: int) -> Schedule:
    """What should end first (docs/kernels/int-weight.md), by shape alone.

    Args:
        num_tokens: T.
        shape: N, K.
        num_processors: multiprocessors of the GPU.
    """
    steps, clusters = -(-shape[1] // DEPTH), num_processors // CLUSTER

    def splits(rows: int, tokens: int) -> list[int]:
        most = clusters // Schedule(rows, tokens, 1).tiles(num_tokens, shape[0])
        return [*range(1, min(most, steps // 2) + 1)] or [1]

    def cost(chosen: Schedule) -> float:
        rounds = -(-chosen.tiles(num_tokens, shape[0]) * chosen.splits // clusters)
        return rounds * _cycles(chosen, -(-steps // chosen.splits))

    every = (Schedule(*tile, parts) for tile in TILES for parts in splits(*tile))
    return min(every, key=cost)


def _cycles(chosen: Schedule, steps: int) -> float:
    """What a block takes for some steps: by the unit of its multiprocessor that is busiest."""
    numbers = chosen.rows * chosen.tokens
    unpacked = chosen.rows * DEPTH / _UNPACKED
    read = (chosen.rows * DEPTH * BITS / 8 + 2 * chosen.tokens * DEPTH / CLUSTER) / _READ
    step = max(unpacked, read, numbers * DEPTH / _MULTIPLIED) + _WAITED
    joined = _WRITTEN + numbers * (chosen.splits + 1) / _LEFT if chosen.splits > 1 else 0
    return steps * step + _WRITTEN + numbers / _ROUNDED + joined


def schedule_on(device: torch.device, num_tokens: int, shape: tuple[int, int]) -> Schedule:
    """`schedule`, for a GPU that is there."""
    return schedule(num_tokens, shape, _blocks(device))


def launch(
    x: torch.Tensor, packed: Packed, output: torch.Tensor, scratch: Scratch, chosen: Schedule
) -> None:
    """Launch the kernel.

    Args:
        x: [T, K]; T is 1 or more.
        packed: see `takes`.
        output: [T, N].
        scratch: has room for what blocks leave to each other.
        chosen: how it is divided.
    """
    x = aligned(x)
    units, steps, _ = packed.words.shape
    groups, pitch = packed.factors.shape
    num_rows, num_columns = packed.shape
    tiles = chosen.tiles(len(x), num_rows) * CLUSTER
    if chosen.splits > 1:
        assert tiles * _WARPGROUPS <= scratch.arrived.numel()
        assert tiles * chosen.splits * chosen.rows * chosen.tokens <= scratch.sums.numel()
    given = Arguments(
        x=x.data_ptr(),
        packed=packed.words.data_ptr(),
        scales=packed.factors.data_ptr(),
        output=output.data_ptr(),
        sums=scratch.sums.data_ptr(),
        arrived=scratch.arrived.data_ptr(),
        tokens=len(x),
        rows=num_rows,
        columns=num_columns,
        pitch=x.shape[1],
        units=units * (ROWS // _UNIT),
        steps=steps,
        scale_pitch=pitch if groups > 1 else 0,
        scale_steps=packed.group // DEPTH if groups > 1 else steps,
        tiles=chosen.tokens // 8,
        splits=chosen.splits,
        bits=BITS,
        wide=x.dtype == torch.bfloat16,
        early=starts_early(x.device),
        block_rows=chosen.rows,
        blocks=min(tiles * chosen.splits, _blocks(x.device)),
    )
    call("aweigh_hopper_int_multiply", given, x.device)


def _blocks(device: torch.device) -> int:
    """That run at once."""
    return Gpu.of(device).num_processors // CLUSTER * CLUSTER
