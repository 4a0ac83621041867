"""Products with packed integers on a GPU, by cold memory, beside those of others.

    python -m benchmarks.int_weight_gpu [--peers FOLDER] [--bits 2 3 4 8] [--save FILE.md]

bf16 activations, groups of 128. Weights rotate over more than 300 MB; x is in the cache, as what
the operation before has just written. Calls are replayed from CUDA graphs, in turn, after ours gave
the numbers of cuBLAS with the same weights made dense. The floor is the larger of two: bytes of the
weight with a scale of 16 bits for each group, x and the output ÷ 4.3 TB/s, and the arithmetic ÷ 790
TFLOP/s, what copying and cuBLAS reach on an H200. `--peers`: see `benchmarks/peers.py`.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from aweigh_bench.report import Bar, Cell, Table
from aweigh_kernels.int_weight import IntWeight, prepare
from benchmarks import int_peers, peers
from benchmarks.product_report import COLD, beside, tell
from benchmarks.replays import (
    MEMORY_BYTES_PER_S,
    Times,
    Way,
    in_turn,
    interleaved,
    num_sets,
)

SHAPES = (
    (6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336), (57_344, 8192), (10_240, 3072),
)  # fmt: skip
TOKENS = (1, 4, 16, 32, 64, 128, 256, 512, 1024, 4096)
MODEL = "matrices of Llama 3.1 8B and 70B and one of no model, groups of 128, bf16"
FLOPS_PER_S = 790e12  # of bf16, what cuBLAS reaches on an H200
LARGE_BYTES = 25_000_000  # of a weight
FEW_TOKENS = 16
FOUR = "4 bits"  # ours, beside those of fewer bits
FEWER = {2: 1.3, 3: 1.1}  # times as fast as FOUR, of few tokens
FLOOR = "floor"
COLUMNS = (
    "out x in, bits, tokens", "us", "p10", "p90", "of the floor", "x cuBLAS", "x Marlin",
    "x Machete", "x 4 bits",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, metavar="FOLDER")
    parser.add_argument("--bits", type=int, nargs="+", choices=(2, 3, 4, 8), default=(4, 8))
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    if given.peers is not None:
        peers.load(given.peers)
    rows: list[tuple[Cell, ...]] = []
    bars: list[Bar] = []
    for bits in given.bits:
        for shape in SHAPES:
            for tokens, times in measured(shape, bits, given.tokens):
                ours = times["ours"].median
                ratio = {name: each.median / ours for name, each in times.items()}
                name = f"{shape[0]:,} x {shape[1]:,}, {bits}, {tokens}"
                share = floor_us(shape, bits, tokens) / ours
                rows.append(
                    (
                        name, ours, times["ours"].p10, times["ours"].p90,
                        share,
                        *(ratio.get(other) for other in ("cuBLAS", "Marlin", "Machete", FOUR)),
                    )
                )  # fmt: skip
                bars += bars_of(name, shape, bits, tokens, ratio | {FLOOR: share})
                print(*rows[-1], flush=True)
    tables = [Table(COLD.capitalize(), COLUMNS, rows)]
    title = "Products with packed integers on a GPU"
    tell("int_weight_gpu", title, MODEL, tables, bars, given.save)


def measured(
    shape: tuple[int, int], bits: int, all_tokens: Sequence[int]
) -> Iterator[tuple[int, dict[str, Times]]]:
    """Times of all ways, for each number of tokens."""
    num_rows, num_columns = shape
    narrow, wide = (num_sets(num_rows * num_columns * each // 8) for each in (bits, 16))
    weights = [_random(shape, bits) for _ in range(max(2, wide))]
    products = [prepare(weights[which % wide], torch.bfloat16) for which in range(narrow)]
    dense = [weight.dense(torch.bfloat16) for weight in weights]
    del weights
    fours = [prepare(_random(shape, 4), torch.bfloat16) for _ in range(narrow * (bits < 4))]
    for tokens in all_tokens:
        x = torch.randn(tokens, num_columns, dtype=torch.bfloat16, device="cuda")
        ways: dict[str, Way] = {
            "ours": lambda which, x=x: products[which % narrow](x),
            "cuBLAS": lambda which, x=x: torch.nn.functional.linear(x, dense[which % wide]),
        } | int_peers.ways(x, num_rows, bits, narrow)
        if fours:
            ways[FOUR] = in_turn(fours, x)
        # The dense weights were rounded: by 2^-9 of each, of which a sum has the root of K.
        ours, other = ways["ours"](0), ways["cuBLAS"](0)
        torch.testing.assert_close(ours, other, rtol=2e-2, atol=1e-2 * num_columns**0.5)
        yield (
            tokens,
            dict(zip(ways, interleaved(list(ways.values()), max(narrow, wide)), strict=True)),
        )


def floor_us(shape: tuple[int, int], bits: int, tokens: int) -> float:
    num_weights = shape[0] * shape[1]
    num_bytes = num_weights * (bits / 8 + 2 / int_peers.GROUP) + 2 * tokens * sum(shape)
    return 1e6 * max(num_bytes / MEMORY_BYTES_PER_S, 2 * tokens * num_weights / FLOPS_PER_S)


def bars_of(
    name: str, shape: tuple[int, int], bits: int, tokens: int, ratio: Mapping[str, float | None]
) -> Iterator[Bar]:
    """What this product is held to, if to anything."""
    names, least = _against(shape, bits, tokens)
    if names:
        yield beside(name, {each: ratio.get(each) for each in names}, least, ratio[FLOOR] or 0.0)


def _against(shape: tuple[int, int], bits: int, tokens: int) -> tuple[tuple[str, ...], float]:
    """The others that ours is held to, and how many times as fast it should be."""
    if bits < 4:
        return ((FOUR,) if tokens <= FEW_TOKENS else ()), FEWER[bits]
    if bits == 8:
        return (("cuBLAS", "Marlin") if tokens <= 64 else ()), 1.3
    if tokens <= 64:
        large = shape[0] * shape[1] * bits // 8 >= LARGE_BYTES
        few = 1.5 if large else 1.3
        return ("cuBLAS", "Marlin", "Machete"), few if tokens <= FEW_TOKENS else 1.4
    return (("Machete",), 1.0) if tokens <= 512 else (("cuBLAS",), 0.95)


def _random(shape: tuple[int, int], bits: int) -> IntWeight:
    q = torch.randint(0, 1 << bits, shape, dtype=torch.uint8, device="cuda")
    scale = torch.rand(shape[0], shape[1] // int_peers.GROUP, device="cuda") * 2 / (1 << bits)
    return IntWeight(q=q, scale=scale.bfloat16(), bits=bits, group=int_peers.GROUP)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
