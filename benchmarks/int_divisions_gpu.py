"""How products of many tokens with packed integers are divided on Hopper, each division timed.

    python -m benchmarks.int_divisions_gpu [--save FILE.md]

bf16 activations, groups of 128, cold memory. Divisions are timed that should take at most 1.35
times as long as the best one. What `hopper_int_matmul.schedule` estimates them by was fitted to
these times; what it chooses is held to the best of them.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from aweigh_bench.report import Bar, Cell, Table
from aweigh_kernels import hopper_int_matmul
from aweigh_kernels.hopper_int_matmul import Schedule
from aweigh_kernels.int_packing import ROWS, Packed
from aweigh_kernels.tile_matmul import Workspace, workspace_of
from benchmarks.int_peers import GROUP
from benchmarks.int_weight_gpu import MODEL, SHAPES
from benchmarks.product_report import tell
from benchmarks.replays import interleaved, num_sets

TOKENS = (64, 128, 256, 512, 1024)
LONGEST = 1.35  # times what the best should take
ROUNDS = 4
OF_BEST = 0.97  # of the best one's speed
COLUMNS = (
    "out", "in", "bits", "tokens", "a block's rows", "tokens of it", "whole tiles", "shared",
    "by clusters", "us",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    device = torch.device("cuda", 0)
    workspace = workspace_of(device)
    rows: list[tuple[Cell, ...]] = []
    bars: list[Bar] = []
    for bits in hopper_int_matmul.BITS:
        if not hopper_int_matmul.is_ready(device, bits, torch.bfloat16):
            sys.exit("these are kernels for Hopper GPUs")
        for shape in SHAPES:
            for tokens, times in measured(shape, bits, workspace):
                rows += (
                    (*shape, bits, tokens, each.rows, each.tokens, each.whole, each.shared,
                     each.sharers, us) for each, us in times.items()
                )  # fmt: skip
                chosen, *_ = times
                share = min(times.values()) / times[chosen]
                name = f"{shape[0]:,} x {shape[1]:,}, {bits}, {tokens}"
                bars.append(Bar(name, f"≥ {OF_BEST}", f"{share:.3f}", share >= OF_BEST))
                print(name, f"{share:.3f}", flush=True)
    tables = [Table("The chosen one first, cold memory, median of 8 replays", COLUMNS, rows)]
    title = "Divisions of products with packed integers on Hopper"
    tell("int_divisions_gpu", title, MODEL, tables, bars, given.save)


def measured(
    shape: tuple[int, int], bits: int, workspace: Workspace
) -> Iterator[tuple[int, dict[Schedule, float]]]:
    """The us of divisions, the one chosen first, for each number of tokens."""
    num_sets_ = num_sets(shape[0] * shape[1] * bits // 8)
    weights = [_random(shape, bits) for _ in range(num_sets_)]
    for tokens in TOKENS:
        x = torch.randn(tokens, shape[1], dtype=torch.bfloat16, device="cuda")
        output = x.new_empty(tokens, shape[0])

        def multiply(
            which: int, chosen: Schedule, x: torch.Tensor = x, output: torch.Tensor = output
        ) -> None:
            hopper_int_matmul.launch(x, weights[which], output, workspace.scratch, chosen)

        tried = _tried(tokens, weights)
        ways = [lambda which, each=each, run=multiply: run(which, each) for each in tried]
        times = interleaved(ways, num_sets_, ROUNDS)
        yield tokens, dict(zip(tried, (each.median for each in times), strict=True))


def _tried(tokens: int, weights: Sequence[Packed]) -> list[Schedule]:
    device, packed = weights[0].words.device, weights[0]
    estimates = hopper_int_matmul.estimates_on(device, tokens, packed)
    best, longest = min(estimates, key=estimates.__getitem__), LONGEST * min(estimates.values())
    others = (each for each, time in estimates.items() if time <= longest and each != best)
    return [best, *others]


def _random(shape: tuple[int, int], bits: int) -> Packed:
    rows, columns = shape
    depth = 512 // bits
    words = torch.randint(
        -(1 << 31), 1 << 31, (rows // ROWS, columns // depth, 1024), device="cuda"
    ).int()
    scales = torch.rand(columns // GROUP, rows, device="cuda").view(torch.int32)
    factors = scales & -512 | 1 << (bits - 1)
    return Packed(words, factors, shape, bits, GROUP, fours=False)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
