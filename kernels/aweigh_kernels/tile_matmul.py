"""Launches products with weights that are packed in tiles, or makes their rows dense (Triton).

How numbers become what tensor cores take is the kernels' own: see `int_matmul` and `fp4_matmul`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import triton

from aweigh_kernels.dense import is_hopper, starts_early
from aweigh_kernels.int_packing import ROWS
from aweigh_kernels.skinny_matmul import Scratch
from aweigh_kernels.tile_schedule import MOST_COLUMNS, Schedule, Tiled

_DENSE_WEIGHTS = 1 << 26  # that are made dense at once


class Workspace:
    """What the products of one GPU share: no two of them may run at the same time.

    So it is where one stream computes, which linting watches. Its addresses stay, so that graphs
    may hold products. Make it before capturing one.
    """

    def __init__(self, device: torch.device) -> None:
        # `schedule` lets three programs of each multiprocessor share rows; that of sparse integers
        # as many as leave four times so much, that of many tokens on Hopper 16 times.
        times = 16 if is_hopper(device) else 4
        self.scratch = Scratch(device, times * MOST_COLUMNS)
        self.dense = torch.empty(_DENSE_WEIGHTS, dtype=torch.bfloat16, device=device)


@cache
def workspace_of(device: torch.device) -> Workspace:
    """The one of a GPU, from its first product on."""
    return Workspace(device)


def launch(
    multiply: Any,
    x: torch.Tensor,
    packed: Tiled,
    output: torch.Tensor,
    shared: tuple[torch.Tensor, torch.Tensor],
    chosen: Schedule,
    **constants: int,
) -> None:
    """Launch a kernel that multiplies. Tensors on a CPU are for Triton's interpreter.

    Args:
        multiply: of Triton.
        x: [T, K]; T is 1 or more.
        packed: the weight, as the kernel takes it.
        output: [T, N].
        shared: sums and counts of programs that share rows, see `Scratch`.
        chosen: how it is divided.
        constants: what else the kernel is compiled for.
    """
    num_tokens, num_rows = output.shape
    grid = (
        triton.cdiv(num_rows, chosen.rows),
        chosen.splits,
        triton.cdiv(num_tokens, chosen.tokens),
    )
    early = x.is_cuda and starts_early(x.device)
    multiply[grid](
        x,
        *packed.tensors,
        output,
        *shared,
        num_tokens,
        **packed.constants,
        **chosen.constants,
        **constants,
        EARLY=early,
        PAIRS=x.is_cuda,  # by instructions, which an interpreter does not know
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        launch_pdl=early,
    )


def launch_unpack(unpack: Any, packed: Tiled, units: range, output: torch.Tensor) -> None:
    """Launch a kernel that makes some rows dense; see `launch`.

    Args:
        unpack: of Triton.
        packed: the weight, as the kernel takes it.
        units: which, in units of 64 rows.
        output: [those rows at least, K]; each number is rounded once.
    """
    unpack[len(units), packed.words.shape[1]](
        *packed.tensors,
        output,
        units.start,
        **packed.constants,
        PAIRS=output.is_cuda,
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
