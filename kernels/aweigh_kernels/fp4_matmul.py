"""x · weightᵀ for NVFP4 weights and activations of 16 bits, as fast as they can be read (Triton).

Bound: memory, up to some tens of tokens; 0.5625 · N·K bytes of the weight move. Numbers are exact
until fp32 sums meet the global scale, in an order that depends on shapes alone: the same product is
the same bits again. Of many tokens the weight is made dense in parts, and cuBLAS multiplies.
"""

from functools import partial

import torch
import triton

from aweigh_kernels.dense import expect_beside, expect_dense, starts_early
from aweigh_kernels.fp4_packing import Fp4Packed
from aweigh_kernels.gpu.fp4_matmul import multiply, unpack
from aweigh_kernels.int_matmul import (
    MOST_TOKENS,
    Schedule,
    Workspace,
    multiply_in_parts,
    schedule_if_few,
    schedule_on,
)
from aweigh_kernels.product import Kernels


def fp4_matmul(x: torch.Tensor, packed: Fp4Packed, workspace: Workspace) -> torch.Tensor:
    """Multiply any number of rows with a matrix.

    Args:
        x: [T, K], contiguous, of the number format that the matrix is packed for.
        packed: on the same device.
        workspace: of `int_matmul.workspace_of`; no other product may use it at the same time.

    Returns:
        [T, N], as x, rounded once. Of more than MOST_TOKENS rows, weights are rounded, too.

    Raises:
        ValueError: x has another shape, number format, strides or device.
    """
    num_tokens, (num_rows, num_columns) = len(x), packed.shape
    expect_dense("x", x, [num_tokens, num_columns], [packed.dtype])
    expect_beside("x", x, packed.words)
    output = x.new_empty(num_tokens, num_rows)
    if num_tokens > MOST_TOKENS:
        multiply_in_parts(
            x, workspace, output, lambda units, dense: launch_unpack(packed, units, dense)
        )
    elif output.numel():
        scratch = workspace.scratch
        chosen = schedule_on(x.device, num_tokens, packed)
        launch(x, packed, output, (scratch.sums, scratch.arrived), chosen)
    return output


def kernels_of(packed: Fp4Packed, *, rounded: bool) -> Kernels:
    """Those that compute its products, with activations that are rounded first or not."""
    device = packed.words.device
    return Kernels(
        product=("nvfp4", packed.shape, packed.fours, packed.dtype, rounded),
        chosen=partial(schedule_if_few, device, packed),
        x=torch.empty(0, packed.shape[1], dtype=packed.dtype, device=device),
    )


def launch(
    x: torch.Tensor,
    packed: Fp4Packed,
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
        packed.scales,
        packed.factors,
        output,
        *shared,
        num_tokens,
        OUT=num_rows,
        IN=num_columns,
        TOKENS=chosen.tokens,
        ROWS=chosen.rows,
        SPLITS=chosen.splits,
        EARLY=early,
        FOURS=packed.fours,
        PAIRS=not interpreted,
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        launch_pdl=early,
    )


def launch_unpack(
    packed: Fp4Packed, units: range, output: torch.Tensor, *, interpreted: bool = False
) -> None:
    """Make some rows dense.

    Args:
        packed: the weight.
        units: which, in units of 64 rows.
        output: [those rows at least, K], as x; each number is rounded once.
        interpreted: see `launch`.
    """
    num_rows, num_columns = packed.shape
    unpack[len(units), packed.words.shape[1]](
        packed.words,
        packed.scales,
        packed.factors,
        output,
        units.start,
        OUT=num_rows,
        IN=num_columns,
        FOURS=packed.fours,
        PAIRS=not interpreted,
        num_warps=4,
    )
