"""Products of many tokens with weights of 4 or 8 bits by Hopper's warpgroups (`csrc/`).

Bound: arithmetic. Each weight is rounded to x's number format, as a dense one would be, and its
scale before it. Sums are fp32, in an order that depends on shapes alone: the same product is the
same bits again.
"""

import ctypes
from dataclasses import dataclass, replace
from functools import cache

import torch

from aweigh_kernels.cuda_int_matmul import Arguments, aligned, arguments_of, call, warn
from aweigh_kernels.cuda_library import library
from aweigh_kernels.dense import is_hopper, starts_early
from aweigh_kernels.gpus import Gpu
from aweigh_kernels.int_packing import Packed
from aweigh_kernels.skinny_matmul import Scratch

CLUSTER = 2  # blocks with the same tokens and other rows
# Rows and tokens of a block, and the ns of a step of so many bits: fitted to what each division of
# 60 products took on an H200 (benchmarks/results/int-divisions-gpu.md).
_STEP_NS = {
    4: {(128, 64): 638, (128, 128): 793, (128, 256): 1413, (256, 64): 1073, (256, 128): 1537},
    8: {(128, 64): 446, (128, 128): 531, (128, 256): 764, (256, 64): 759, (256, 128): 995},
}
# What it takes beside that to write a tile, to share one, and to leave a sum to another cluster or
# take it from there.
_WRITTEN_NS, _SHARED_NS, _LEFT_NS = 191, 1870, 0.041
BITS = tuple(_STEP_NS)
TILES = tuple(_STEP_NS[4])
_STEP_BITS = 512  # of a row
_LEAST_STEPS = 2  # of a cluster that shares tiles
_WARPGROUPS = 2  # of a block


@dataclass(frozen=True)
class Schedule:
    """How a product is divided into tiles, of which a cluster has one after the other.

    Each has as many whole ones as any other, and then an equal part of the steps of what is left.
    """

    rows: int  # of a block, and
    tokens: int  # one of TILES
    whole: int  # tiles, each of CLUSTER blocks with rows of their own
    shared: int  # other tiles
    sharers: int  # clusters that have parts of these: as many, or more

    @classmethod
    def of(cls, tile: tuple[int, int], num_tokens: int, num_rows: int, clusters: int) -> "Schedule":
        """For a product; of what is left each cluster has a tile.

        Args:
            tile: one of TILES.
            num_tokens: T.
            num_rows: N.
            clusters: that run at once.
        """
        rows, tokens = tile
        count = -(-num_rows // (CLUSTER * rows)) * -(-num_tokens // tokens)
        shared = count % clusters
        return cls(rows, tokens, count - shared, shared, shared)

    @property
    def sums(self) -> int:
        """That clusters leave to each other, at most."""
        if self.sharers == self.shared:
            return 0
        return (self.sharers + self.shared) * CLUSTER * self.rows * self.tokens


@cache
def is_ready(device: torch.device, bits: int, dtype: torch.dtype) -> bool:
    """Whether the kernels are there and this is a Hopper GPU; loads them.

    Call it before a graph is captured that holds products.
    """
    kernels = library()
    if kernels is None or not is_hopper(device):
        return False
    given = Arguments(bits=bits, wide=dtype == torch.bfloat16)
    with torch.cuda.device(device):
        error = kernels.aweigh_hopper_int_make_ready(ctypes.byref(given))
    if error:
        warn(f"many tokens with {bits}-bit weights", device, error)
    return not error


def takes(packed: Packed) -> bool:
    """Whether a weight is packed as the kernel reads it."""
    return packed.bits in BITS and packed.depth * packed.bits == _STEP_BITS and not packed.fours


@cache
def schedule(num_tokens: int, shape: tuple[int, int], bits: int, num_processors: int) -> Schedule:
    """What should end first, by shape alone; see `estimates`."""
    found = estimates(num_tokens, shape, bits, num_processors)
    return min(found, key=found.__getitem__)


def estimates(
    num_tokens: int, shape: tuple[int, int], bits: int, num_processors: int
) -> dict[Schedule, float]:
    """Each way to divide a product, and the ns that it should take (docs/kernels/int-weight.md).

    Args:
        num_tokens: T.
        shape: N, K.
        bits: of a weight.
        num_processors: multiprocessors of the GPU.
    """
    steps, clusters = -(-shape[1] * bits // _STEP_BITS), num_processors // CLUSTER
    every = (
        replace(whole, sharers=sharers)
        for tile in TILES
        for whole in [Schedule.of(tile, num_tokens, shape[0], clusters)]
        for sharers in _sharers(whole.shared, clusters, steps)
    )
    return {each: _ns(each, bits, steps, clusters) for each in every}


def _sharers(shared: int, clusters: int, steps: int) -> set[int]:
    """How many clusters may share tiles: some with equal parts of one, or as many as can."""
    if not shared:
        return {0}
    most = max(shared, min(clusters, shared * steps // _LEAST_STEPS))
    return {*range(shared, most + 1, shared), most}


def _ns(chosen: Schedule, bits: int, steps: int, clusters: int) -> float:
    """What a product should take, but for its start."""
    step, numbers = _STEP_NS[bits][chosen.rows, chosen.tokens], chosen.rows * chosen.tokens
    time = chosen.whole // clusters * (steps * step + _WRITTEN_NS)
    if not chosen.shared:
        return time
    time += -(-chosen.shared * steps // chosen.sharers) * step + _WRITTEN_NS
    if chosen.sharers == chosen.shared:
        return time
    pieces = 2 if chosen.sharers % chosen.shared else 1  # of a cluster
    parts = chosen.sharers // chosen.shared + pieces  # of a tile
    return time + pieces * _SHARED_NS + (pieces + parts) * numbers * _LEFT_NS


def schedule_on(device: torch.device, num_tokens: int, packed: Packed) -> Schedule:
    """`schedule`, for a GPU that is there."""
    return schedule(num_tokens, packed.shape, packed.bits, _blocks(device))


def estimates_on(device: torch.device, num_tokens: int, packed: Packed) -> dict[Schedule, float]:
    """`estimates`, likewise."""
    return estimates(num_tokens, packed.shape, packed.bits, _blocks(device))


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
    assert chosen.shared * CLUSTER * _WARPGROUPS <= scratch.arrived.numel()
    assert chosen.sums <= scratch.sums.numel()
    given = arguments_of(packed, output)
    given.x, given.tokens, given.pitch = x.data_ptr(), len(x), x.shape[1]
    given.sums, given.arrived = scratch.sums.data_ptr(), scratch.arrived.data_ptr()
    given.early = starts_early(x.device)
    given.tiles, given.block_rows = chosen.tokens // 8, chosen.rows
    given.blocks = _blocks(x.device) if chosen.whole else chosen.sharers * CLUSTER
    given.whole, given.sharers = chosen.whole, chosen.sharers
    call("aweigh_hopper_int_multiply", given, x.device)


def _blocks(device: torch.device) -> int:
    """That run at once."""
    return Gpu.of(device).num_processors // CLUSTER * CLUSTER
