"""x · weightᵀ for weights of 2, 3, 4 or 8 bits in groups, as fast as they can be read.

Few tokens are multiplied with 4 or 8 bits by a kernel in CUDA C++ where that is there and takes the
groups, all others by Triton.

Bound: memory, up to some tens of tokens; N·K·bits / 8 bytes of the weight move, and 4 for each row
of a group. Sums are fp32, in an order that depends on shapes alone: the same product is the same
bits again. Of many tokens the weight is made dense in parts, and cuBLAS multiplies.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import torch
import triton

from aweigh_kernels import cuda_int_matmul
from aweigh_kernels.dense import NARROW, expect_beside, expect_dense, starts_early
from aweigh_kernels.gpu.int_matmul import multiply, unpack
from aweigh_kernels.int_packing import ROWS, Packed
from aweigh_kernels.product import Kernels
from aweigh_kernels.skinny_matmul import Scratch, splits, tokens_of

MOST_TOKENS = 256  # of the kernel; with more, making the weight dense costs less than it saves
MOST_TOKENS_CUDA = 8  # of the kernel in CUDA C++
_SMALL_CUDA = 1 << 24  # numbers of 4 bits, of which Triton's is as fast
_LEAST_BITS_CUDA = 4
_STEP_BITS_CUDA = 512  # of a row
_DENSE_WEIGHTS = 1 << 26  # that are made dense at once
_WIDE_ROWS = 128  # of the weight, of one program at most
_MOST_COLUMNS = 64  # tokens, of one program
_FEWEST, _FEW, _SOME = 16, 32, 128  # tokens up to which a schedule holds
_LARGE = 50_000_000  # numbers of a weight
_MOST_SPLITS = 8
_MOST_UNROLL = 4
_LEAST_STEPS = 4  # of programs that share rows


class Tiled(Protocol):
    """What a schedule depends on: a matrix that is packed in tiles."""

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


@dataclass(frozen=True)
class Schedule:
    """How a product is divided."""

    rows: int  # of the weight, of one program
    tokens: int  # of one program
    splits: int  # programs that share rows, each with a part of their numbers
    num_stages: int  # tiles on their way, and the one that is multiplied
    num_warps: int
    unroll: int = 1  # tiles that make one stage

    def within(self, num_bytes: int, packed: Tiled) -> "Schedule":
        """With as many stages as so much shared memory has room for."""
        tile_bytes = self.rows * packed.row_bytes + 2 * self.tokens * packed.depth
        stage_bytes = self.unroll * tile_bytes
        return replace(self, num_stages=min(self.num_stages, num_bytes // stage_bytes))


class Workspace:
    """What the products of one GPU share: no two of them may run at the same time.

    So it is where one stream computes, which linting watches. Its addresses stay, so that graphs
    may hold products. Make it before capturing one.
    """

    def __init__(self, device: torch.device) -> None:
        # `schedule` lets three programs of each multiprocessor share rows; that of sparse integers
        # as many as leave four times so much.
        self.scratch = Scratch(device, 4 * _MOST_COLUMNS)
        self.dense = torch.empty(_DENSE_WEIGHTS, dtype=torch.bfloat16, device=device)


@cache
def workspace_of(device: torch.device) -> Workspace:
    """The one of a GPU, from its first product on."""
    return Workspace(device)


def int_matmul(x: torch.Tensor, packed: Packed, workspace: Workspace) -> torch.Tensor:
    """Multiply any number of rows with a matrix.

    Args:
        x: [T, K], bf16 or fp16, contiguous; fastest where rows are a multiple of 16 bytes.
        packed: on the same device.
        workspace: likewise.

    Returns:
        [T, N], as x, rounded once. Of more than MOST_TOKENS rows, weights are rounded, too.

    Raises:
        ValueError: x has another shape, number format, strides or device.
    """
    num_tokens, (num_rows, num_columns) = len(x), packed.shape
    expect_dense("x", x, [num_tokens, num_columns], NARROW)
    expect_beside("x", x, packed.words)
    output = x.new_empty(num_tokens, num_rows)
    if num_tokens > MOST_TOKENS:
        multiply_in_parts(
            x, workspace, output, lambda units, dense: launch_unpack(packed, units, dense)
        )
    elif output.numel():
        scratch = workspace.scratch
        if in_cuda(num_tokens, packed, x.dtype):
            launch_cuda(
                x, packed, output, scratch, schedule_cuda_on(x.device, num_tokens, packed, x.dtype)
            )
        else:
            chosen = schedule_on(x.device, num_tokens, packed)
            launch(x, packed, output, (scratch.sums, scratch.arrived), chosen)
    return output


def in_cuda(num_tokens: int, packed: Packed, dtype: torch.dtype) -> bool:
    """Whether so many tokens are multiplied by the kernel in CUDA C++. Loads it, see `kernels_of`.

    Lanes have columns as warpgroups take them, and a step of it is a tile of one group.
    """
    if num_tokens > MOST_TOKENS_CUDA or packed.fours or packed.bits < _LEAST_BITS_CUDA:
        return False
    if packed.bits == _LEAST_BITS_CUDA and packed.shape[0] * packed.shape[1] <= _SMALL_CUDA:
        return False
    if packed.depth * packed.bits < _STEP_BITS_CUDA:
        return False
    return bool(cuda_int_matmul.ready(packed.words.device, packed.bits, dtype, sparse=False))


def kernels_of(packed: Packed, dtype: torch.dtype) -> Kernels:
    """Those that compute its products with x of a number format: graphs may hold them from now on.

    But for those of Triton, each of which is compiled by the first product that needs it.
    """
    device = packed.words.device
    in_cuda(1, packed, dtype)  # loads what a graph that is being captured cannot

    def chosen(num_tokens: int) -> Schedule | cuda_int_matmul.Schedule | None:
        if in_cuda(num_tokens, packed, dtype):
            return schedule_cuda_on(device, num_tokens, packed, dtype)
        return schedule_if_few(device, packed, num_tokens)

    return Kernels(
        product=(packed.shape, packed.bits, packed.group, packed.fours, dtype),
        chosen=chosen,
        x=torch.empty(0, packed.shape[1], dtype=dtype, device=device),
    )


def schedule_cuda_on(
    device: torch.device, num_tokens: int, packed: Packed, dtype: torch.dtype
) -> cuda_int_matmul.Schedule:
    """How the kernel in CUDA C++ divides a product with x of a number format."""
    num_processors = _processors(device).multi_processor_count
    shapes = cuda_int_matmul.ready(device, packed.bits, dtype, sparse=False)
    return cuda_int_matmul.schedule(num_tokens, packed.shape, packed.depth, num_processors, shapes)


def schedule_if_few(device: torch.device, packed: Tiled, num_tokens: int) -> Schedule | None:
    """None: tokens are so many that the weight is made dense."""
    return None if num_tokens > MOST_TOKENS else schedule_on(device, num_tokens, packed)


def schedule_on(device: torch.device, num_tokens: int, packed: Tiled) -> Schedule:
    """`schedule`, for a GPU that is there."""
    gpu = _processors(device)
    chosen = schedule(num_tokens, packed, gpu.multi_processor_count)
    return chosen.within(gpu.shared_memory_per_block_optin, packed)  # type: ignore[attr-defined]


def schedule(num_tokens: int, packed: Tiled, num_processors: int) -> Schedule:
    """What is fastest on an H200 (docs/kernels/int-weight.md), by shape alone.

    Args:
        num_tokens: T.
        packed: the weight.
        num_processors: multiprocessors of the GPU.
    """
    (num_rows, num_columns), tokens = packed.shape, min(_MOST_COLUMNS, tokens_of(num_tokens))
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


def launch(
    x: torch.Tensor,
    packed: Packed,
    output: torch.Tensor,
    shared: tuple[torch.Tensor, torch.Tensor],
    chosen: Schedule,
    *,
    interpreted: bool = False,
) -> None:
    """Launch the kernel.

    Args:
        x: [T, K]; T is 1 or more.
        packed: the weight.
        output: [T, N].
        shared: sums and counts of programs that share rows, see `Scratch`.
        chosen: how it is divided.
        interpreted: by Triton's interpreter, which knows no instructions.
    """
    (num_rows, num_columns), num_tokens = packed.shape, len(x)
    grid = (
        triton.cdiv(num_rows, chosen.rows),
        chosen.splits,
        triton.cdiv(num_tokens, chosen.tokens),
    )
    early = not interpreted and starts_early(x.device)
    multiply[grid](
        x,
        packed.words,
        packed.factors,
        output,
        *shared,
        num_tokens,
        OUT=num_rows,
        IN=num_columns,
        GROUP=packed.group,
        BITS=packed.bits,
        TOKENS=chosen.tokens,
        ROWS=chosen.rows,
        DEPTH=packed.depth,
        SPLITS=chosen.splits,
        UNROLL=chosen.unroll,
        EARLY=early,
        FOURS=packed.fours,
        PAIRS=not interpreted,
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        launch_pdl=early,
    )


def launch_cuda(
    x: torch.Tensor,
    packed: Packed,
    output: torch.Tensor,
    scratch: Scratch,
    chosen: cuda_int_matmul.Schedule,
) -> None:
    """Launch the kernel in CUDA C++.

    Args:
        x: [T, K]; T is 1 or more.
        packed: with tiles as deep as can be, and columns as warpgroups take them.
        output: [T, N].
        scratch: has room for what blocks leave to each other.
        chosen: how it is divided; of at most 4 tiles.
    """
    units, tiles, _ = packed.words.shape
    groups, pitch = packed.factors.shape
    given = cuda_int_matmul.Arguments(
        packed=packed.words.data_ptr(),
        scales=packed.factors.data_ptr(),
        output=output.data_ptr(),
        rows=packed.shape[0],
        columns=packed.shape[1],
        units=units * (ROWS // cuda_int_matmul.ROWS),
        steps=tiles,
        scale_pitch=pitch if groups > 1 else 0,
        scale_steps=packed.group // packed.depth if groups > 1 else tiles,
        bits=packed.bits,
        wide=output.dtype == torch.bfloat16,
    )
    cuda_int_matmul.launch(x, given, scratch, chosen)


def launch_unpack(
    packed: Packed, units: range, output: torch.Tensor, *, interpreted: bool = False
) -> None:
    """Make some rows dense.

    Args:
        packed: the weight.
        units: which, in units of 64 rows.
        output: [those rows at least, K], bf16 or fp16; each number is rounded once.
        interpreted: see `launch`.
    """
    num_rows, num_columns = packed.shape
    unpack[len(units), packed.words.shape[1]](
        packed.words,
        packed.factors,
        output,
        units.start,
        OUT=num_rows,
        IN=num_columns,
        GROUP=packed.group,
        BITS=packed.bits,
        DEPTH=packed.depth,
        FOURS=packed.fours,
        PAIRS=not interpreted,
        num_warps=4,
    )


def multiply_in_parts(
    x: torch.Tensor,
    workspace: Workspace,
    output: torch.Tensor,
    unpack_to: Callable[[range, torch.Tensor], None],
) -> None:
    """Multiply many tokens with a matrix of which some rows at a time are made dense.

    Args:
        x: [T, K].
        workspace: where dense rows are.
        output: [T, N].
        unpack_to: writes rows, given in units of ROWS, to a dense [rows, K] as x.
    """
    num_columns, num_rows = x.shape[1], output.shape[1]
    for units in parts(num_rows, num_columns):
        first, end = units.start * ROWS, min(units.stop * ROWS, num_rows)
        size = (end - first) * num_columns
        dense = workspace.dense[:size].view(x.dtype).view(end - first, num_columns)
        unpack_to(units, dense)
        torch.mm(x, dense.t(), out=output[:, first:end])


def parts(num_rows: int, num_columns: int) -> list[range]:
    """Units of rows that are made dense together: as equal as can be, none too large."""
    units = -(-num_rows // ROWS)
    most = max(1, _DENSE_WEIGHTS // (ROWS * num_columns))
    each = -(-units // -(-units // most))
    return [range(first, min(first + each, units)) for first in range(0, units, each)]


@cache
def _processors(device: torch.device) -> "torch._C._CudaDeviceProperties":
    return torch.cuda.get_device_properties(device)
