"""Products with NVFP4 weights on a GPU, by cold memory; and what rounding to NVFP4 takes.

    python -m benchmarks.fp4_weight_gpu [--save FILE.md]

bf16 activations, which stay as they are (W4A16) or are rounded first (W4A4). Beside them: our own
products with integers of 4 bits in groups of 128, and cuBLAS. Weights rotate over more than 300 MB;
x is in the cache. The floor is the larger of two: bytes of codes and scales, x and the output ÷ 4.3
TB/s, and the arithmetic ÷ 790 TFLOP/s. Rounding reads x from cold memory, and is held to a share of
what copying moves, products to a share of the speed of those with integers.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import linear

from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_kernels import int_weight
from aweigh_kernels.fp4_rounding import quantize_rows, round_numbers
from aweigh_kernels.fp4_weight import Fp4Weight, prepare
from aweigh_kernels.int_weight import IntWeight
from benchmarks.replays import (
    MEMORY_BYTES_PER_S,
    Times,
    Way,
    copy_bytes_per_s,
    described,
    in_turn,
    interleaved,
    num_sets,
)

SHAPES = ((6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336), (57_344, 8192))
TOKENS = (1, 4, 16, 32, 64, 128, 256, 512, 1024, 4096)
ROWS, WIDTHS = (1, 16, 256, 2048, 8192), (4096, 14_336)
FLOPS_PER_S = 790e12  # of bf16, what cuBLAS reaches on an H200
BYTES = 0.5625  # of a weight, with its share of a scale
ACTIVATION_SCALE = 0.002
SHARE = 0.8  # of copying, that rounding is held to
OF_INTS = 0.9  # of the speed of integers of 4 bits, that products are held to
COLUMNS = (
    "out x in, tokens", "us", "p10", "p90", "of the floor", "x cuBLAS", "x int4 g128", "W4A4, us",
)  # fmt: skip
ROUNDING_COLUMNS = ("tokens x columns", "to", "us", "GB/s", "of copying")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    products = list(products_measured(given.tokens))
    bars = [bar_beside_ints(row) for row in products]
    copying = copy_bytes_per_s()
    rounding = list(rounding_measured(copying))
    report = Report(
        title="Products with NVFP4 weights on a GPU",
        command=f"python -m benchmarks.fp4_weight_gpu {shlex.join(sys.argv[1:])}".strip(),
        model="matrices of Llama 3.1 8B and one of 70B, bf16",
        machine=described(),
        tables=[
            Table("Cold memory, median of 24 replays", COLUMNS, products),
            Table("Rounding", ROUNDING_COLUMNS, [row for row, _ in rounding]),
        ],
        bars=bars + [bar for _, bar in rounding if bar is not None],
        notes=[f"A large copy moves {copying / 1e9:,.0f} GB/s here, read and written."],
    )
    print(report.text())
    for path in given.save:
        report.save(path)


def products_measured(all_tokens: Sequence[int]) -> Iterator[tuple[Cell, ...]]:
    for shape in SHAPES:
        for tokens, times in of_shape(shape, all_tokens):
            ours = times["ours"].median
            row = (
                f"{shape[0]:,} x {shape[1]:,}, {tokens}", ours, times["ours"].p10,
                times["ours"].p90, floor_us(shape, tokens) / ours,
                times["cuBLAS"].median / ours, times["int4"].median / ours, times["W4A4"].median,
            )  # fmt: skip
            print(*row, flush=True)
            yield row


def bar_beside_ints(row: Sequence[Cell]) -> Bar:
    """Of a product with activations of 16 bits."""
    times = dict(zip(COLUMNS, row, strict=True))["x int4 g128"]
    assert isinstance(times, float)
    return Bar(f"{row[0]}", f"≥ {OF_INTS} x int4 g128", f"{times:.2f}", times >= OF_INTS)


def of_shape(
    shape: tuple[int, int], all_tokens: Sequence[int]
) -> Iterator[tuple[int, dict[str, Times]]]:
    """Times of all ways, for each number of tokens."""
    num_rows, num_columns = shape
    size = num_rows * num_columns
    narrow, wide = num_sets(int(size * BYTES)), num_sets(2 * size)
    weights = [_random(shape) for _ in range(wide)]
    products = [prepare(weights[which % wide], torch.bfloat16) for which in range(narrow)]
    scale = torch.tensor(ACTIVATION_SCALE, dtype=torch.float64, device="cuda")
    rounding = [
        prepare(replace(weights[which % wide], activation_scale=scale), torch.bfloat16)
        for which in range(narrow)
    ]
    ints = [int_weight.prepare(_random_ints(shape), torch.bfloat16) for _ in range(narrow)]
    dense = [weight.dense(torch.bfloat16) for weight in weights]
    del weights
    for tokens in all_tokens:
        x = torch.randn(tokens, num_columns, dtype=torch.bfloat16, device="cuda")
        ways: dict[str, Way] = {
            "ours": in_turn(products, x),
            "W4A4": in_turn(rounding, x),
            "int4": in_turn(ints, x),
            "cuBLAS": in_turn([partial(linear, weight=weight) for weight in dense], x),
        }
        # The dense weights were rounded: by 2^-9 of each, of which a sum has the root of K.
        atol = 1e-2 * float(dense[0].float().std()) * num_columns**0.5
        torch.testing.assert_close(ways["ours"](0), ways["cuBLAS"](0), rtol=2e-2, atol=atol)
        times = interleaved(list(ways.values()), max(narrow, wide))
        yield tokens, dict(zip(ways, times, strict=True))


def rounding_measured(copying: float) -> Iterator[tuple[tuple[Cell, ...], Bar | None]]:
    """What rounding takes, and whether it is as fast as it should be where tokens are many."""
    scale = torch.tensor(ACTIVATION_SCALE, dtype=torch.float64, device="cuda")
    for width in WIDTHS:
        for rows in ROWS:
            sets = num_sets(2 * rows * width)
            x = torch.randn(sets, rows, width, dtype=torch.bfloat16, device="cuda")
            blocks = partial(quantize_rows, swizzled=True)
            ways: dict[str, Way] = {
                "codes": in_turn([partial(quantize_rows, each) for each in x], scale),
                "codes, scales in blocks": in_turn([partial(blocks, each) for each in x], scale),
                "16 bits": in_turn([partial(round_numbers, each) for each in x], scale),
            }
            times = interleaved(list(ways.values()), sets)
            for name, time in zip(ways, times, strict=True):
                moved = 2 + (2 if name == "16 bits" else BYTES)  # bytes, for each number
                rate = rows * width * moved / time.median * 1e6
                shape, share = f"{rows:,} x {width:,}", rate / copying
                bar = Bar(f"{shape}, {name}", f"≥ {SHARE}", f"{share:.2f}", share >= SHARE)
                row = (shape, name, time.median, rate / 1e9, share)
                print(*row, flush=True)
                yield row, bar if rows >= 2048 else None


def floor_us(shape: tuple[int, int], tokens: int) -> float:
    num_weights = shape[0] * shape[1]
    num_bytes = num_weights * BYTES + 2 * tokens * sum(shape)
    return 1e6 * max(num_bytes / MEMORY_BYTES_PER_S, 2 * tokens * num_weights / FLOPS_PER_S)


def _random(shape: tuple[int, int]) -> Fp4Weight:
    rows, columns = shape
    scale = torch.rand(rows, columns // 16, device="cuda") * 40 + 1
    return Fp4Weight(
        q=torch.randint(0, 16, shape, dtype=torch.uint8, device="cuda"),
        scale=scale.to(torch.float8_e4m3fn),
        global_scale=torch.full((1, 1), 1e-4, dtype=torch.float64, device="cuda"),
    )


def _random_ints(shape: tuple[int, int]) -> IntWeight:
    q = torch.randint(0, 16, shape, dtype=torch.uint8, device="cuda")
    scale = torch.rand(shape[0], shape[1] // 128, device="cuda").bfloat16()
    return IntWeight(q=q, scale=scale, bits=4, group=128)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
