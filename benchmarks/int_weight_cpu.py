"""Products with weights of 4 and 8 bits on a CPU, beside dense ones, by the number of tokens.

    python -m benchmarks.int_weight_cpu [--threads 1] [--rounds 15] [--save FILE.md]

Matrices of 2,048 x 2,048: 4 bits in groups of 128, 8 bits with a scale for each row. A server
multiplies few tokens by torch's product with packed integers, and makes the weight dense for more:
both ways are measured, beside the one that it takes and a matrix that was dense before. They take
turns, and times are medians.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import linear

from aweigh_bench import machine
from aweigh_bench.report import Cell, Report, Table
from aweigh_kernels.int_weight import IntWeight, cpu_ways, prepare
from aweigh_kernels.product import Product

SIZE = 2048
GROUPS = {4: 128, 8: SIZE}  # by bits
TOKENS = {  # of each call; torch takes seconds for many in the other number formats
    torch.bfloat16: (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 256),
    torch.float32: (1, 2, 4, 8, 16),
    torch.float16: (1, 2, 4, 8, 16),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tables = [_table(bits, dtype, given.rounds) for dtype in TOKENS for bits in GROUPS]
    report = Report(
        title="Products with packed integers on a CPU",
        command=f"python -m benchmarks.int_weight_cpu {shlex.join(sys.argv[1:])}".strip(),
        model=f"matrices of {SIZE:,} x {SIZE:,}",
        machine=machine.describe(),
        tables=tables,
        notes=[f"Milliseconds, medians of {given.rounds}; {given.threads} thread of torch."],
    )
    print(report.text())
    for path in given.save:
        report.save(path)


def _table(bits: int, dtype: torch.dtype, rounds: int) -> Table:
    generator = torch.Generator().manual_seed(bits)
    weight = _random(bits, generator)
    ways = cpu_ways(weight, dtype)
    if ways is None:
        raise SystemExit(f"torch has no product with {bits} bits on this processor")
    dense = weight.dense(dtype)
    products: list[Product] = [prepare(weight, dtype), *ways, lambda x: linear(x, dense)]
    rows: list[tuple[Cell, ...]] = []
    for count in TOKENS[dtype]:
        x = torch.randn(count, SIZE, generator=generator).to(dtype)
        ours, packed, unpacked, before = _times_ms(products, x, rounds)
        rows.append((count, ours, packed, unpacked, before, ours / before))
    columns = ("tokens", "server's", "packed", "made dense", "dense before", "times dense")
    return Table(f"{bits} bits, {str(dtype).removeprefix('torch.')}", columns, rows)


def _random(bits: int, generator: torch.Generator) -> IntWeight:
    return IntWeight(
        q=torch.randint(1 << bits, (SIZE, SIZE), generator=generator).to(torch.uint8),
        scale=torch.rand(SIZE, SIZE // GROUPS[bits], generator=generator).half() / 100,
        bits=bits,
        group=GROUPS[bits],
    )


def _times_ms(products: list[Product], x: torch.Tensor, rounds: int) -> list[float]:
    times: list[list[float]] = [[] for _ in products]
    for number in range(rounds):  # nobody is always the first
        for product, each in list(zip(products, times, strict=True))[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            product(x)
            each.append(1e3 * (time.perf_counter() - started))
    return [median(each) for each in times]


if __name__ == "__main__":
    main()
