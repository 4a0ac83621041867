"""Products with FP8 weights on a GPU: ours beside torch's, cuBLAS in bf16 and vLLM's CUTLASS.

    python -m benchmarks.fp8_weight_gpu [--peers FOLDER] [--save FILE.md] [--save FILE.json]

Per channel with a scale for each token, blocks of 128 by 128 with a scale for each token and 128
columns, and weights alone. See `byte_products`; vLLM's kernels run where a folder with its
libraries is given.
"""

from collections.abc import Iterator
from functools import partial

import torch

from aweigh_bench.report import Bar
from aweigh_kernels.rounding import ByteRounding, Rounded
from benchmarks import peers
from benchmarks.byte_products import (
    CUTLASS,
    MODEL,
    OURS,
    Kind,
    Measured,
    Operands,
    arguments,
    bar_of,
    measured,
    random_fp8,
    table,
)
from benchmarks.product_report import tell
from benchmarks.replays import Way

E4M3 = torch.float8_e4m3fn
TORCH = "torch._scaled_mm"
FEW = 16  # tokens
LEAST, LEAST_OF_FEW = 1.0, 1.1  # times as fast as the others, per channel
BLOCKS_BESIDE_CUTLASS, BLOCKS_BESIDE_CHANNEL = 1.4, 0.9


def main() -> None:
    given = arguments(__doc__)
    has_cutlass = given.peers is not None
    kinds = (
        Kind(
            "channel",
            partial(random_fp8, blocks=False),
            ByteRounding(kind=E4M3, by="token"),
            partial(_channel, has_cutlass),
        ),
        Kind(
            "blocks",
            partial(random_fp8, blocks=True),
            ByteRounding(kind=E4M3, by="group"),
            partial(_blocks, has_cutlass),
        ),
        Kind("weights alone", partial(random_fp8, blocks=False), None, lambda _: {}),
    )
    found: dict[str, list[Measured]] = {}
    for kind in kinds:
        found[kind.name] = []
        for cell in measured(kind, given.tokens):
            found[kind.name].append(cell)
            print(
                kind.name, cell, *(f"{name} {each.median:.2f}" for name, each in cell.times.items())
            )
    bars: list[Bar] = []
    for blocks, channel in zip(found["blocks"], found["channel"], strict=True):
        least = LEAST_OF_FEW if channel.tokens <= FEW else LEAST
        bars.append(bar_of(channel, "channel", least, (TORCH, CUTLASS)))
        bars += _bars_of_blocks(blocks, channel)
    tables = [table(name, cells) for name, cells in found.items()]
    tell("fp8_weight_gpu", "Products with FP8 weights on a GPU", MODEL, tables, bars, given.save)


def _channel(has_cutlass: bool, operands: Operands) -> dict[str, Way]:
    x, output = operands.given, operands.output
    assert isinstance(x, Rounded)
    x_scale, matrices = x.scale[:, None], operands.matrices

    def by_torch(which: int) -> torch.Tensor:
        matrix = matrices[which]
        return torch._scaled_mm(
            x.numbers,
            matrix.numbers.t(),
            scale_a=x_scale,
            scale_b=matrix.scale[None],
            out_dtype=output.dtype,
        )

    def by_cutlass(which: int) -> torch.Tensor:
        matrix = matrices[which]
        return peers.cutlass(output, x.numbers, matrix.numbers, x_scale, matrix.scale[None])

    ways: dict[str, Way] = {TORCH: by_torch}
    return ways | ({CUTLASS: by_cutlass} if has_cutlass else {})


def _blocks(has_cutlass: bool, operands: Operands) -> dict[str, Way]:
    if not has_cutlass or not _cutlass_takes(len(operands.x)):
        return {}
    x, output, matrices = operands.given, operands.output, operands.matrices
    assert isinstance(x, Rounded)
    scales = [matrix.scale.t().contiguous() for matrix in matrices]

    def by_cutlass(which: int) -> torch.Tensor:
        return peers.cutlass(output, x.numbers, matrices[which].numbers, x.scale.t(), scales[which])

    return {CUTLASS: by_cutlass}


def _cutlass_takes(tokens: int) -> bool:
    """Of blocks; the numbers of 1 token are others."""
    return tokens % 4 == 0


def _bars_of_blocks(blocks: Measured, channel: Measured) -> Iterator[Bar]:
    if not _cutlass_takes(blocks.tokens):
        return
    beside_cutlass = blocks.ratio(CUTLASS)
    beside_channel = channel.times[OURS].median / blocks.times[OURS].median
    met = beside_channel >= BLOCKS_BESIDE_CHANNEL
    yield Bar(
        f"blocks, {blocks}",
        f"≥ {BLOCKS_BESIDE_CUTLASS} x CUTLASS, or {BLOCKS_BESIDE_CHANNEL} x per channel",
        f"{'-' if beside_cutlass is None else f'{beside_cutlass:.3f}'}, {beside_channel:.3f}",
        met or (None if beside_cutlass is None else beside_cutlass >= BLOCKS_BESIDE_CUTLASS),
    )


if __name__ == "__main__":
    main()
