"""How products with weights packed in tiles are divided on a GPU. Pure: by shapes alone."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch

from aweigh_kernels.gpus import Gpu
from aweigh_kernels.int_packing import ROWS
from aweigh_kernels.skinny_matmul import splits, tokens_of

MOST_TOKENS = 256  # of the kernels; with more, making the weight dense costs less than it saves
MOST_COLUMNS = 64  # tokens, of one program
_WIDE_ROWS = 128  # of the weight, of one program at most
_FEWEST, _FEW, _SOME = 16, 32, 128  # tokens up to which a schedule holds
_LARGE = 50_000_000  # numbers of a weight
_MOST_SPLITS = 8
_MOST_UNROLL = 4
_LEAST_STEPS = 4  # of programs that share rows


class Tiled(Protocol):
    """A matrix that is packed in tiles, as `int_packing` and `fp4_packing` have them."""

    @property
    def shape(self) -> tuple[int, int]:
        """N, K."""
        ...

    @property
    def bits(self) -> int:
        """Of a number."""
        ...

    @property
    def depth(self) -> int:
        """Columns of a tile."""
        ...

    @property
    def most_depth(self) -> int:
        """Columns of as many tiles as a step should multiply where tokens are few."""
        ...

    @property
    def row_bytes(self) -> int:
        """What a row of a tile has of shared memory."""
        ...

    @property
    def words(self) -> torch.Tensor:
        """[units of 64 rows, tiles of a row, words]."""
        ...

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What kernels read, in their order, words first."""
        ...

    @property
    def constants(self) -> dict[str, int]:
        """What its kernels are compiled for."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How a product is divided."""

    rows: int  # of the weight, of one program
    tokens: int  # of one program
    splits: int  # programs that share rows, each with a part of their numbers
    num_stages: int  # tiles on their way, and the one that is multiplied
    num_warps: int
    unroll: int = 1  # tiles that make one stage

    @property
    def constants(self) -> dict[str, int]:
        """What a kernel is compiled for."""
        return {"TOKENS": self.tokens, "ROWS": self.rows, "SPLITS": self.splits}

    def within(self, num_bytes: int, packed: Tiled) -> "Schedule":
        """With as many stages as so much shared memory has room for."""
        tile_bytes = self.rows * packed.row_bytes + 2 * self.tokens * packed.depth
        stage_bytes = self.unroll * tile_bytes
        return replace(self, num_stages=min(self.num_stages, num_bytes // stage_bytes))


def schedule_if_few(device: torch.device, packed: Tiled, num_tokens: int) -> Schedule | None:
    """None: tokens are so many that the weight is made dense."""
    return None if num_tokens > MOST_TOKENS else schedule_on(device, num_tokens, packed)


def schedule_on(device: torch.device, num_tokens: int, packed: Tiled) -> Schedule:
    """`schedule`, for a GPU that is there."""
    gpu = Gpu.of(device)
    return schedule(num_tokens, packed, gpu.num_processors).within(gpu.shared_bytes, packed)


def schedule(num_tokens: int, packed: Tiled, num_processors: int) -> Schedule:
    """What is fastest on an H200 (docs/kernels/int-weight.md), by shape alone.

    Args:
        num_tokens: T.
        packed: the weight.
        num_processors: multiprocessors of the GPU.
    """
    (num_rows, num_columns), tokens = packed.shape, min(MOST_COLUMNS, tokens_of(num_tokens))
    token_tiles = -(-num_tokens // tokens)
    large = num_rows * num_columns >= _LARGE

    def divided(rows: int, programs: int, stages: int, *, warps: int, wide: int = 1) -> Schedule:
        unroll = min(_MOST_UNROLL, wide * packed.most_depth // packed.depth)
        tiles = -(-num_rows // rows) * token_tiles
        most = -(-num_columns // (packed.depth * unroll)) // _LEAST_STEPS
        parts = splits(tiles, programs * num_processors, min(_MOST_SPLITS, most))
        return Schedule(rows, tokens, parts, stages, warps, unroll)

    if num_tokens <= _FEWEST:
        # Twice as many numbers for what a step costs beside them.
        if -(-num_rows // ROWS) > 3 * num_processors:
            if packed.bits == 8:
                return divided(_WIDE_ROWS, 4, 3, warps=4)
            return divided(_WIDE_ROWS, 1, 4, warps=4, wide=2)
        return divided(ROWS, 2 if packed.bits < 8 else 3, 5, warps=4, wide=2)
    if num_tokens <= _FEW:
        return divided(ROWS, 3, 5, warps=4)
    if not large and num_tokens <= _SOME:
        return divided(ROWS, 3 if token_tiles == 1 else 2, 4, warps=4)
    # Every row tile needs all of x, which the second-level cache brings no faster than that.
    alone = divided(_WIDE_ROWS, 1, 6, warps=8)
    tiles = -(-num_rows // _WIDE_ROWS) * token_tiles
    if tiles <= num_processors:
        return alone
    return replace(alone, num_stages=4 if token_tiles == 1 else 3)
