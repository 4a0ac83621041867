"""x · weightᵀ for weights of 4 or 8 bits of which two in four are kept (CUDA C++, `csrc/`).

Bound: memory, up to some tens of tokens; N·K·(bits + 2) / 16 bytes of the weight move, and 4 for
each row of 128 columns. Sums are fp32, in an order that depends on shapes alone: the same product
is the same bits again. Of many tokens the weight is made dense in parts, and cuBLAS multiplies.
"""

import ctypes
import logging
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.functional import pad

from aweigh_kernels.cuda_library import library
from aweigh_kernels.dense import NARROW, expect_dense, starts_early
from aweigh_kernels.int_matmul import Workspace, parts
from aweigh_kernels.int_packing import ROWS as PART_ROWS
from aweigh_kernels.sparse_packing import DEPTH, ROWS, Packed

MOST_TOKENS = 256  # of the kernel; with more, making the weight dense costs less than it saves
_TILE = 8  # tokens that a tensor core takes at once
_MOST_TILES = 8  # of a block
_LEAST_STEPS = 4  # of blocks that share rows
_MOST_LEFT = 1 << 17  # bytes of sums that the last of them adds
_ALIGNED = 8  # numbers: copies are of 16 bytes
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How a product is divided."""

    tiles: int  # of 8 tokens, of a block: 1, 2, 4 or 8
    warps: int  # of a block, with 32 rows each: 8, or 4 where tiles are 4 or more
    splits: int  # blocks that share rows, each with a part of their columns

    @property
    def rows(self) -> int:
        """Of the weight, of a block."""
        return self.warps * ROWS

    @property
    def resident(self) -> int:
        """Blocks that have room on a multiprocessor at once."""
        if self.warps == 8:
            return 1 if self.tiles == _MOST_TILES else 2
        return 2 if self.tiles == _MOST_TILES else 3

    def blocks(self, num_tokens: int, num_rows: int) -> int:
        """That share no rows."""
        return -(-num_rows // self.rows) * -(-num_tokens // (self.tiles * _TILE))


class _Arguments(ctypes.Structure):
    """As `Arguments` in csrc/sparse_int_layout.cuh."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in ("x", "packed", "scales", "output", "sums", "arrived")
        ),
        *(
            (name, ctypes.c_int)
            for name in (
                "tokens", "rows", "columns", "pitch", "units", "steps", "scale_pitch", "tiles",
                "warps", "splits", "bits", "wide", "early", "first", "count",
            )
        ),
    )  # fmt: skip


@cache
def is_ready(device: torch.device, bits: int, dtype: torch.dtype) -> bool:
    """Whether the kernels are there and this GPU has what they need; loads them.

    Call it before a graph is captured that holds products.
    """
    kernels = library()
    if kernels is None:
        return False
    with torch.cuda.device(device):
        given = _Arguments(bits=bits, wide=dtype == torch.bfloat16)
        error = kernels.aweigh_sparse_int_make_ready(ctypes.byref(given))
    if error:
        name, said = torch.cuda.get_device_name(device), _meaning(error)
        _log.warning(
            "torch multiplies with 2:4 sparse weights, no kernel of ours: %s, %s", name, said
        )
    return not error


def sparse_int_matmul(x: torch.Tensor, packed: Packed, workspace: Workspace) -> torch.Tensor:
    """Multiply any number of rows with a matrix.

    Args:
        x: [T, K], bf16 or fp16, contiguous; fastest where rows begin at multiples of 16 bytes.
        packed: on the same device, for which `is_ready`.
        workspace: likewise.

    Returns:
        [T, N], as x, rounded once. Of more than MOST_TOKENS rows, weights are rounded, too.

    Raises:
        ValueError: x has another shape, number format, strides or device.
    """
    num_tokens, (num_rows, num_columns) = len(x), packed.shape
    expect_dense("x", x, [num_tokens, num_columns], NARROW)
    if x.device != packed.words.device:
        raise ValueError(f"x is on {x.device}; expected {packed.words.device}, as the weight is")
    output = x.new_empty(num_tokens, num_rows)
    if num_tokens > MOST_TOKENS:
        _multiply_dense(x, packed, workspace, output)
    elif output.numel():
        num_processors = torch.cuda.get_device_properties(x.device).multi_processor_count
        launch(x, packed, output, workspace, schedule(num_tokens, packed, num_processors))
    return output


def schedule(num_tokens: int, packed: Packed, num_processors: int) -> Schedule:
    """A guess for Hopper by shape alone (docs/kernels/sparse-int-weight.md): nothing is timed yet.

    Args:
        num_tokens: T.
        packed: the weight.
        num_processors: multiprocessors of the GPU.
    """
    tiles = min(_MOST_TILES, 1 << (-(-num_tokens // _TILE) - 1).bit_length())
    wide = _shared(Schedule(tiles, 8, 1), num_tokens, packed, num_processors)
    filled = wide.blocks(num_tokens, packed.shape[0]) * wide.splits / num_processors
    if tiles < 4 or filled >= 0.75:
        return wide
    return _shared(Schedule(tiles, 4, 1), num_tokens, packed, num_processors)


def _shared(alone: Schedule, num_tokens: int, packed: Packed, num_processors: int) -> Schedule:
    """With as many blocks for the same rows as fill a GPU, and leave each other not too much."""
    num_rows, num_columns = packed.shape
    wanted = alone.resident * num_processors // alone.blocks(num_tokens, num_rows)
    tokens = min(alone.tiles * _TILE, num_tokens + num_tokens % 2)
    most = min(-(-num_columns // DEPTH) // _LEAST_STEPS, _MOST_LEFT // (4 * alone.rows * tokens))
    return Schedule(alone.tiles, alone.warps, max(1, min(wanted, most)))


def launch(
    x: torch.Tensor, packed: Packed, output: torch.Tensor, workspace: Workspace, chosen: Schedule
) -> None:
    """Launch the kernel.

    Args:
        x: [T, K]; T is 1 or more.
        packed: the weight.
        output: [T, N].
        workspace: has room for what blocks leave to each other.
        chosen: how it is divided.
    """
    if x.shape[1] % _ALIGNED or x.data_ptr() % 16:
        x = pad(x, (0, -x.shape[1] % _ALIGNED)) if x.shape[1] % _ALIGNED else x.clone()
    given = _arguments(packed, output)
    given.x, given.tokens, given.pitch = x.data_ptr(), len(x), x.shape[1]
    scratch = workspace.scratch
    given.sums, given.arrived = scratch.sums.data_ptr(), scratch.arrived.data_ptr()
    given.tiles, given.warps, given.splits = chosen.tiles, chosen.warps, chosen.splits
    given.early = starts_early(x.device)
    _call("aweigh_sparse_int_multiply", given, x.device)


def launch_unpack(packed: Packed, units: range, output: torch.Tensor) -> None:
    """Make some rows dense.

    Args:
        packed: the weight.
        units: which, in units of 32 rows.
        output: [those rows at least, K], bf16 or fp16; each number is rounded once.
    """
    given = _arguments(packed, output)
    given.first, given.count = units.start, len(units)
    _call("aweigh_sparse_int_unpack", given, output.device)


def _arguments(packed: Packed, output: torch.Tensor) -> _Arguments:
    (num_rows, num_columns), (units, steps, _) = packed.shape, packed.words.shape
    return _Arguments(
        packed=packed.words.data_ptr(),
        scales=packed.scales.data_ptr(),
        output=output.data_ptr(),
        rows=num_rows,
        columns=num_columns,
        units=units,
        steps=steps,
        scale_pitch=packed.scales.shape[1] if len(packed.scales) > 1 else 0,
        bits=packed.bits,
        wide=output.dtype == torch.bfloat16,
    )


def _call(name: str, given: _Arguments, device: torch.device) -> None:
    kernels = library()
    assert kernels is not None, "products are made where the library is"
    stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
    error = getattr(kernels, name)(ctypes.byref(given), stream)
    if error:
        raise RuntimeError(f"{name}: {_meaning(error)} on {device}")


def _meaning(error: int) -> str:
    kernels = library()
    assert kernels is not None
    kernels.aweigh_error.restype = ctypes.c_char_p
    return str(kernels.aweigh_error(error).decode())


def _multiply_dense(
    x: torch.Tensor, packed: Packed, workspace: Workspace, output: torch.Tensor
) -> None:
    num_rows, num_columns = packed.shape
    for part in parts(num_rows, num_columns):
        first, end = part.start * PART_ROWS, min(part.stop * PART_ROWS, num_rows)
        size = (end - first) * num_columns
        dense = workspace.dense[:size].view(x.dtype).view(end - first, num_columns)
        launch_unpack(packed, range(first // ROWS, -(-end // ROWS)), dense)
        torch.mm(x, dense.t(), out=output[:, first:end])
