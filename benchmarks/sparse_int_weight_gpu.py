"""Products with 2:4 sparse integers of 4 and 8 bits on a GPU, by cold memory, beside dense ones.

    python -m benchmarks.sparse_int_weight_gpu [--bits 4 8] [--save FILE.md]

bf16 activations, groups of 128. Weights rotate over more than 300 MB; x is in the cache, as what
the operation before has just written. Calls are replayed from CUDA graphs, in turn, after ours gave
the numbers of cuBLAS with the same weights made dense. Beside ours stand our product with integers
of as many bits of which all are kept, and cuBLAS. The floor is the larger of two: bytes of the kept
integers, 2 bits for the place of each, a scale of 16 bits for each group, x and the output ÷ 4.3
TB/s, and the arithmetic of what is kept ÷ 790 TFLOP/s, what copying and cuBLAS reach on an H200.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import linear

from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_kernels import int_weight, sparse_int_weight
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.product import Product
from aweigh_kernels.sparse_int_weight import SparseIntWeight
from benchmarks.int_weight_gpu import FLOPS_PER_S, SHAPES
from benchmarks.replays import (
    MEMORY_BYTES_PER_S,
    Times,
    Way,
    copy_bytes_per_s,
    described,
    interleaved,
    num_sets,
)

TOKENS = (1, 4, 16, 32, 64, 128)
GROUP = 128
LARGE_BYTES = 20_000_000  # of a weight
FEW_TOKENS = 64
WANTED = {4: 1.15, 8: 1.2}  # times as fast as dense integers of as many bits
OF_FLOOR = 0.55
COLUMNS = (
    "out x in, bits, tokens", "us", "p10", "p90", "of the floor", "x dense integers", "x cuBLAS",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, nargs="+", choices=(4, 8), default=(4, 8))
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    rows: list[tuple[Cell, ...]] = []
    bars: list[Bar] = []
    for bits in given.bits:
        for shape in SHAPES:
            for tokens, times in measured(shape, bits, given.tokens):
                ours = times["ours"].median
                share = floor_us(shape, bits, tokens) / ours
                dense, cublas = (times[each].median / ours for each in ("dense", "cuBLAS"))
                name = f"{shape[0]:,} x {shape[1]:,}, {bits}, {tokens}"
                spread = times["ours"].p10, times["ours"].p90
                rows.append((name, ours, *spread, share, dense, cublas))
                bars += bars_of(name, shape, bits, tokens, (share, dense))
                print(*rows[-1], flush=True)
    report = Report(
        title="Products with 2:4 sparse integers on a GPU",
        command=f"python -m benchmarks.sparse_int_weight_gpu {shlex.join(sys.argv[1:])}".strip(),
        model="matrices of Llama 3.1 8B and 70B and one of no model, groups of 128, bf16",
        machine=described(),
        tables=[Table("Cold memory, median of 24 replays", COLUMNS, rows)],
        bars=bars,
        notes=[f"A large copy moves {copy_bytes_per_s() / 1e9:,.0f} GB/s here, read and written."],
    )
    print(report.text())
    for path in given.save:
        report.save(path)


def measured(
    shape: tuple[int, int], bits: int, all_tokens: Sequence[int]
) -> Iterator[tuple[int, dict[str, Times]]]:
    """Times of all ways, for each number of tokens."""
    size = shape[0] * shape[1]
    sparse, narrow, wide = (num_sets(size * each // 16) for each in (bits + 2, 2 * bits, 32))
    first = _random(shape, bits)
    if not sparse_int_weight.has_kernel(first, torch.bfloat16):
        sys.exit("this measures a kernel in CUDA C++, which is not here: see the warning above")
    products = [
        sparse_int_weight.prepare(each, torch.bfloat16)
        for each in (first, *(_random(shape, bits) for _ in range(sparse - 1)))
    ]
    integers = [int_weight.prepare(_dense(shape, bits), torch.bfloat16) for _ in range(narrow)]
    dense = first.dense(torch.bfloat16)
    wholes = [partial(linear, weight=dense.clone()) for _ in range(wide)]
    for tokens in all_tokens:
        x = torch.randn(tokens, shape[1], dtype=torch.bfloat16, device="cuda")
        ways: dict[str, Way] = {
            "ours": partial(_multiply, products, x),
            "dense": partial(_multiply, integers, x),
            "cuBLAS": partial(_multiply, wholes, x),
        }
        # The dense weights were rounded: by 2^-9 of each, of which a sum has the root of K.
        ours, other = ways["ours"](0), ways["cuBLAS"](0)
        torch.testing.assert_close(ours, other, rtol=2e-2, atol=1e-2 * shape[1] ** 0.5)
        found = interleaved(list(ways.values()), max(sparse, narrow, wide))
        yield tokens, dict(zip(ways, found, strict=True))


def _multiply(products: Sequence[Product], x: torch.Tensor, which: int) -> torch.Tensor:
    return products[which % len(products)](x)


def floor_us(shape: tuple[int, int], bits: int, tokens: int) -> float:
    num_weights = shape[0] * shape[1]
    num_bytes = num_weights * ((bits + 2) / 16 + 2 / GROUP) + 2 * tokens * sum(shape)
    return 1e6 * max(num_bytes / MEMORY_BYTES_PER_S, tokens * num_weights / FLOPS_PER_S)


def bars_of(
    name: str, shape: tuple[int, int], bits: int, tokens: int, found: tuple[float, float]
) -> Iterator[Bar]:
    """What this product is held to: to be faster than a dense one, and near its floor."""
    if shape[0] * shape[1] * (bits + 2) // 16 < LARGE_BYTES or tokens > FEW_TOKENS:
        return
    share, dense = found
    yield Bar(name, f"≥ {WANTED[bits]} x dense", f"{dense:.2f}", dense >= WANTED[bits])
    yield Bar(name, f"≥ {OF_FLOOR} of the floor", f"{share:.2f}", share >= OF_FLOOR)


def _random(shape: tuple[int, int], bits: int) -> SparseIntWeight:
    rows, columns = shape
    order = torch.rand(rows, columns // 4, 4, device="cuda").argsort(-1)[..., :2].sort(-1).values
    return SparseIntWeight(
        q=_integers(rows, columns // 2, bits),
        index=order.flatten(1).to(torch.uint8),
        scale=_scales(shape, bits),
        bits=bits,
        group=GROUP,
    )


def _dense(shape: tuple[int, int], bits: int) -> IntWeight:
    q = _integers(*shape, bits)
    return IntWeight(q=q, scale=_scales(shape, bits), bits=bits, group=GROUP)


def _integers(rows: int, columns: int, bits: int) -> torch.Tensor:
    return torch.randint(0, 1 << bits, (rows, columns), dtype=torch.uint8, device="cuda")


def _scales(shape: tuple[int, int], bits: int) -> torch.Tensor:
    scale = torch.rand(shape[0], shape[1] // GROUP, device="cuda") * 2 / (1 << bits)
    return scale.bfloat16()


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
