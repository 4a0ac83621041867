"""x · weightᵀ for weights of 4 or 8 bits of which two in four are kept (CUDA C++, `csrc/`).

Bound: memory, up to some tens of tokens; N·K·(bits + 2) / 16 bytes of the weight move, and 4 for
each row of 128 columns. Sums are fp32, in an order that depends on shapes alone: the same product
is the same bits again. Of many tokens the weight is made dense in parts, and cuBLAS multiplies.
"""

from functools import partial

import torch

from aweigh_kernels import cuda_int_matmul
from aweigh_kernels.cuda_int_matmul import Arguments, Schedule, call
from aweigh_kernels.dense import NARROW, expect_beside, expect_dense
from aweigh_kernels.gpus import Gpu
from aweigh_kernels.int_packing import ROWS as PART_ROWS
from aweigh_kernels.sparse_packing import DEPTH, ROWS, Packed
from aweigh_kernels.tile_matmul import Workspace, multiply_in_parts

MOST_TOKENS = 256  # of the kernel; with more, making the weight dense costs less than it saves


def is_ready(device: torch.device, bits: int, dtype: torch.dtype) -> bool:
    """Whether the kernels are there and this GPU has what they need; loads them.

    Call it before a graph is captured that holds products.
    """
    return bool(cuda_int_matmul.ready(device, bits, dtype, sparse=True))


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
    expect_beside("x", x, packed.words)
    output = x.new_empty(num_tokens, num_rows)
    if num_tokens > MOST_TOKENS:
        multiply_in_parts(x, workspace, output, partial(_unpack_part, packed))
    elif output.numel():
        launch(x, packed, output, workspace, schedule_on(x.device, num_tokens, packed, x.dtype))
    return output


def schedule_on(
    device: torch.device, num_tokens: int, packed: Packed, dtype: torch.dtype
) -> Schedule:
    """How a product with x of a number format is divided on a GPU that is there."""
    num_processors = Gpu.of(device).num_processors
    shapes = cuda_int_matmul.ready(device, packed.bits, dtype, sparse=True)
    return cuda_int_matmul.schedule(num_tokens, packed.shape, DEPTH, num_processors, shapes)


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
    cuda_int_matmul.launch(x, _arguments(packed, output), workspace.scratch, chosen)


def launch_unpack(packed: Packed, units: range, output: torch.Tensor) -> None:
    """Make some rows dense.

    Args:
        packed: the weight.
        units: which, in units of 32 rows.
        output: [those rows at least, K], bf16 or fp16; each number is rounded once.
    """
    given = _arguments(packed, output)
    given.first, given.count = units.start, len(units)
    call("aweigh_sparse_int_unpack", given, output.device)


def _unpack_part(packed: Packed, units: range, output: torch.Tensor) -> None:
    """As `multiply_in_parts` counts units."""
    first = units.start * (PART_ROWS // ROWS)
    launch_unpack(packed, range(first, first + -(-len(output) // ROWS)), output)


def _arguments(packed: Packed, output: torch.Tensor) -> Arguments:
    (num_rows, num_columns), (units, steps, _) = packed.shape, packed.words.shape
    return Arguments(
        packed=packed.words.data_ptr(),
        scales=packed.scales.data_ptr(),
        output=output.data_ptr(),
        rows=num_rows,
        columns=num_columns,
        units=units,
        steps=steps,
        scale_pitch=packed.scales.shape[1] if len(packed.scales) > 1 else 0,
        scale_steps=1,
        bits=packed.bits,
        sparse=True,
        wide=output.dtype == torch.bfloat16,
    )
