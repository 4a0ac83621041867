"""x · weightᵀ for NVFP4 weights and activations of 16 bits, as fast as they can be read (Triton).

Bound: memory, up to some tens of tokens; 0.5625 · N·K bytes of the weight move. Numbers are exact
until fp32 sums meet the global scale, in an order that depends on shapes alone: the same product is
the same bits again. Of many tokens the weight is made dense in parts, and cuBLAS multiplies.
"""

from functools import partial

import torch

from aweigh_kernels.dense import expect_beside, expect_dense
from aweigh_kernels.fp4_packing import Fp4Packed
from aweigh_kernels.gpu.fp4_matmul import multiply, unpack
from aweigh_kernels.product import Kernels
from aweigh_kernels.tile_matmul import Workspace, launch, launch_unpack, multiply_in_parts
from aweigh_kernels.tile_schedule import MOST_TOKENS, schedule_if_few, schedule_on


def fp4_matmul(x: torch.Tensor, packed: Fp4Packed, workspace: Workspace) -> torch.Tensor:
    """Multiply any number of rows with a matrix.

    Args:
        x: [T, K], contiguous, of the number format that the matrix is packed for.
        packed: on the same device.
        workspace: of `tile_matmul.workspace_of`; no other product may use it at the same time.

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
        multiply_in_parts(x, workspace, output, partial(launch_unpack, unpack, packed))
    elif output.numel():
        scratch = workspace.scratch
        chosen = schedule_on(x.device, num_tokens, packed)
        launch(multiply, x, packed, output, (scratch.sums, scratch.arrived), chosen)
    return output


def kernels_of(packed: Fp4Packed, *, rounded: bool) -> Kernels:
    """Those that compute its products, with activations that are rounded first or not."""
    device = packed.words.device
    return Kernels(
        product=("nvfp4", packed.shape, packed.fours, packed.dtype, rounded),
        chosen=partial(schedule_if_few, device, packed),
        x=torch.empty(0, packed.shape[1], dtype=packed.dtype, device=device),
    )
