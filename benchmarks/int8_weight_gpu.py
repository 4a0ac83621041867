"""Products of integers of 8 bits on a GPU: ours beside torch's, cuBLAS in bf16 and vLLM's CUTLASS.

    python -m benchmarks.int8_weight_gpu [--peers FOLDER] [--save FILE.md] [--save FILE.json]

A scale for each token and for each row of the weight. torch's product takes more than 16 tokens and
leaves integers that are not scaled yet. See `byte_products`; vLLM's kernels run where a folder with
its libraries is given.
"""

from functools import partial

import torch

from aweigh_kernels.rounding import ByteRounding, Rounded
from benchmarks import peers
from benchmarks.byte_products import (
    CUTLASS,
    MODEL,
    Kind,
    Operands,
    arguments,
    bar_of,
    measured,
    random_int8,
    table,
)
from benchmarks.product_report import tell
from benchmarks.replays import Way

TORCH = "torch._int_mm, scaled"
TORCH_TAKES = 17  # tokens at least
LEAST = 1.0  # times as fast as the others


def main() -> None:
    given = arguments(__doc__)
    others = partial(_others, given.peers is not None)
    kind = Kind("int8", random_int8, ByteRounding(kind=torch.int8, by="token"), others)
    cells = []
    for cell in measured(kind, given.tokens):
        cells.append(cell)
        print(cell, *(f"{name} {each.median:.2f}" for name, each in cell.times.items()))
    bars = [bar_of(cell, kind.name, LEAST, _takes(cell.tokens)) for cell in cells]
    title = "Products of integers of 8 bits on a GPU"
    tell("int8_weight_gpu", title, MODEL, [table(kind.name, cells)], bars, given.save)


def _takes(tokens: int) -> tuple[str, ...]:
    """Which others multiply so many."""
    return (CUTLASS, TORCH) if tokens >= TORCH_TAKES else (CUTLASS,)


def _others(has_cutlass: bool, operands: Operands) -> dict[str, Way]:
    x, output, matrices = operands.given, operands.output, operands.matrices
    assert isinstance(x, Rounded)
    x_scale = x.scale[:, None]

    def by_torch(which: int) -> torch.Tensor:
        matrix = matrices[which]
        sums = torch._int_mm(x.numbers, matrix.numbers.t())
        return (sums * x_scale).mul_(matrix.scale).to(output.dtype)

    def by_cutlass(which: int) -> torch.Tensor:
        matrix = matrices[which]
        return peers.cutlass(output, x.numbers, matrix.numbers, x_scale, matrix.scale[None])

    ways: dict[str, Way] = {CUTLASS: by_cutlass} if has_cutlass else {}
    if TORCH in _takes(len(x.numbers)):
        ways[TORCH] = by_torch
    return ways


if __name__ == "__main__":
    main()
