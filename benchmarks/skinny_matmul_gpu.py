"""Products of a few rows on a GPU: our kernel beside cuBLAS, by cold memory.

    python -m benchmarks.skinny_matmul_gpu [--save FILE.md] [--save FILE.json]

The matrices of a layer of Llama 3.1 8B and its vocabulary, bf16. Weights rotate over more than 300
MB; x is in the cache, as what the operation before has just written. Calls are replayed from CUDA
graphs, in turn, after both gave the same numbers. Each of ours starts while the one before it ends,
as in a step. The floor: bytes of the weight, x and the output ÷ 4.3 TB/s, what copying reaches on
an H200.
"""

import argparse
import sys
from pathlib import Path

import torch

from aweigh_bench.report import Bar, Cell, Table
from aweigh_kernels.skinny_matmul import Scratch, skinny_matmul
from benchmarks.product_report import COLD, tell
from benchmarks.replays import MEMORY_BYTES_PER_S, Times, interleaved, num_sets

SHAPES = ((6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336), (128_256, 4096))
TOKENS = (1, 4, 16, 64)
LEAST_SHARE = 0.95
COLUMNS = (
    "out x in, tokens", "us", "p10", "p90", "GB/s", "of the floor", "cuBLAS us", "x cuBLAS",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    scratch = Scratch(torch.device("cuda"))
    rows: list[tuple[Cell, ...]] = []
    bars: list[Bar] = []
    for out_size, in_size in SHAPES:
        for tokens in TOKENS:
            num_bytes = 2 * (out_size * in_size + tokens * (out_size + in_size))
            ours, other = _timed(tokens, out_size, in_size, scratch)
            share = num_bytes / MEMORY_BYTES_PER_S * 1e6 / ours.median
            name = f"{out_size:,} x {in_size:,}, {tokens}"
            rows.append(
                (
                    name, ours.median, ours.p10, ours.p90, num_bytes / ours.median / 1e3, share,
                    other.median, other.median / ours.median,
                )
            )  # fmt: skip
            bars.append(Bar(name, f"≥ {LEAST_SHARE}", f"{share:.3f}", share >= LEAST_SHARE))
            print(*rows[-1], flush=True)
    tables = [Table(COLD.capitalize(), COLUMNS, rows)]
    title, model = "Skinny products on a GPU", "matrices of Llama 3.1 8B, bf16"
    tell("skinny_matmul_gpu", title, model, tables, bars, given.save)


def _timed(tokens: int, out_size: int, in_size: int, scratch: Scratch) -> list[Times]:
    count = num_sets(2 * out_size * in_size)
    weights = [_normal(out_size, in_size) for _ in range(count)]
    x, output = _normal(tokens, in_size), _normal(tokens, out_size)

    def ours(which: int) -> torch.Tensor:
        return skinny_matmul(x, weights[which], scratch, output=output)

    def by_cublas(which: int) -> torch.Tensor:
        return torch.nn.functional.linear(x, weights[which])

    torch.testing.assert_close(ours(0), by_cublas(0), rtol=2e-2, atol=1e-2 * in_size**0.5)
    return interleaved([ours, by_cublas], count)


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16, device="cuda")


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
