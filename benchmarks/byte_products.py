"""What benchmarks of products with weights of 8 bits have in common: their cells, ways and bars.

Matrices of Llama 3.1 8B and 70B, and one of another family. Weights rotate over more than 300 MB; x
is in the cache, as what the operation before has just written. Calls are replayed from CUDA graphs,
in turn, after all gave the same numbers. Every way but one begins with activations of 8 bits; that
one rounds them, too. The floor: bytes of the weight, x and the output ÷ 4.3 TB/s, or operations ÷
1,580 TFLOP/s, of 16 bits ÷ 790, whichever takes longer on an H200.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from aweigh_bench.report import Bar, Cell, Table
from aweigh_kernels.byte_matmul import ByteMatrix, byte_matmul, pack, scratch_on
from aweigh_kernels.round_rows import round_rows
from aweigh_kernels.rounding import ByteRounding, Rounded
from benchmarks import peers
from benchmarks.product_report import COLD, beside
from benchmarks.replays import MEMORY_BYTES_PER_S, Times, Way, interleaved, num_sets

SHAPES = (
    (6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336), (57_344, 8192), (3584, 18_944),
)  # fmt: skip
MODEL = "matrices of Llama 3.1 8B and 70B and of Qwen 2.5 7B, random numbers"
TOKENS = (1, 4, 16, 32, 64, 128, 256, 512, 1024, 4096)
OPERATIONS_PER_S = {1: 1580e12, 2: 790e12}  # of an H200, by bytes of the activations
OURS, ROUNDED, CUBLAS, CUTLASS = "ours", "ours, rounding", "cuBLAS bf16", "CUTLASS"

Others = Callable[["Operands"], dict[str, Way]]
"""What else multiplies the same."""


@dataclass(frozen=True)
class Operands:
    """Of one cell."""

    x: torch.Tensor  # [T, I], bf16
    given: torch.Tensor | Rounded  # x as ours takes it
    matrices: list[ByteMatrix]  # that rotate

    @property
    def output(self) -> torch.Tensor:
        """New memory."""
        return self.x.new_empty(len(self.x), len(self.matrices[0].numbers))


@dataclass(frozen=True)
class Kind:
    """Of weights and activations."""

    name: str
    matrix: Callable[[int, int], ByteMatrix]  # a random one of this shape
    rounding: ByteRounding | None
    others: Others


@dataclass(frozen=True)
class Measured:
    """Of one cell."""

    shape: tuple[int, int]  # O, I
    tokens: int
    floor_us: float
    times: dict[str, Times]  # of each way

    def __str__(self) -> str:
        return f"{self.shape[0]:,} x {self.shape[1]:,}, {self.tokens}"

    def ratio(self, way: str) -> float | None:
        """How many times as fast ours is; None: that way is not here."""
        other = self.times.get(way)
        return None if other is None else other.median / self.times[OURS].median


def arguments(doc: str) -> argparse.Namespace:
    """Of the command line; loads the peers that it names."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--save", type=Path, action="append", default=[])
    parser.add_argument("--peers", type=Path, help="a folder of vLLM's libraries, *.so.xz")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    if given.peers is not None:
        peers.load(given.peers)
    return given


def measured(kind: Kind, all_tokens: Sequence[int]) -> Iterator[Measured]:
    """Every cell."""
    for shape in SHAPES:
        matrices = [kind.matrix(*shape) for _ in range(num_sets(shape[0] * shape[1]))]
        dense = [_normal(*shape) for _ in range(num_sets(2 * shape[0] * shape[1]))]
        for tokens in all_tokens:
            x = _normal(tokens, shape[1])
            given = x if kind.rounding is None else round_rows(x, kind.rounding)
            operands = Operands(x, given, matrices)
            times = _timed(kind, operands, dense)
            x_bytes = 2 if kind.rounding is None else 1
            yield Measured(shape, tokens, _floor_us(shape, tokens, x_bytes), times)


def _timed(kind: Kind, operands: Operands, dense: list[torch.Tensor]) -> dict[str, Times]:
    x, matrices = operands.x, operands.matrices
    scratch = scratch_on(x.device)

    def ours(which: int) -> torch.Tensor:
        return byte_matmul(operands.given, matrices[which], scratch, x.dtype)

    ways: dict[str, Way] = {OURS: ours}
    if kind.rounding is not None:
        how = kind.rounding
        ways[ROUNDED] = lambda which: byte_matmul(
            round_rows(x, how), matrices[which], scratch, x.dtype
        )
    ways |= kind.others(operands)
    wanted = ours(0)
    for name, way in ways.items():
        found = way(0)
        assert isinstance(found, torch.Tensor)
        largest = float(wanted.abs().max())
        torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2 * largest, msg=name)
    sets = len(matrices)
    ways[CUBLAS] = lambda which: torch.nn.functional.linear(x, dense[which % len(dense)])
    return dict(zip(ways, interleaved(list(ways.values()), sets), strict=True))


def _floor_us(shape: tuple[int, int], tokens: int, x_bytes: int) -> float:
    (out_size, in_size), operations = shape, 2 * tokens * shape[0] * shape[1]
    num_bytes = out_size * in_size + tokens * (x_bytes * in_size + 2 * out_size)
    return 1e6 * max(num_bytes / MEMORY_BYTES_PER_S, operations / OPERATIONS_PER_S[x_bytes])


def table(title: str, cells: list[Measured]) -> Table:
    """A row for each cell: ours, its share of the floor, and beside the others."""
    others = dict.fromkeys(name for cell in cells for name in cell.times if name != OURS)
    columns = ["out x in, tokens", "us", "p10", "p90", "of the floor"]
    columns += [column for name in others for column in (f"{name} us", f"x {name}")]
    rows: list[tuple[Cell, ...]] = []
    for cell in cells:
        ours = cell.times[OURS]
        row: list[Cell] = [str(cell), ours.median, ours.p10, ours.p90]
        row.append(cell.floor_us / ours.median)
        for name in others:
            other = cell.times.get(name)
            row += [None if other is None else other.median, cell.ratio(name)]
        rows.append(tuple(row))
    return Table(f"{title}: {COLD}", tuple(columns), rows)


def bar_of(cell: Measured, kind: str, least: float, ways: tuple[str, ...]) -> Bar:
    """Ours against the fastest of some ways that can multiply this."""
    ratios = {way: cell.ratio(way) for way in ways}
    of_floor = cell.floor_us / cell.times[OURS].median
    return beside(f"{kind}, {cell}", ratios, least, of_floor, " x the others")


def random_scales(*shape: int) -> torch.Tensor:
    """Fp32."""
    return torch.rand(*shape, device="cuda") * 0.05 + 0.001


def random_fp8(out_size: int, in_size: int, *, blocks: bool) -> ByteMatrix:
    """E4M3."""
    numbers = _normal(out_size, in_size).mul_(50).to(torch.float8_e4m3fn)
    shape = (-(-out_size // 128), -(-in_size // 128)) if blocks else (out_size, 1)
    return pack(numbers, random_scales(*shape), blocks=blocks)


def random_int8(out_size: int, in_size: int) -> ByteMatrix:
    """Integers of all values."""
    numbers = torch.randint(-128, 128, (out_size, in_size), dtype=torch.int8, device="cuda")
    return pack(numbers, random_scales(out_size, 1))


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16, device="cuda")
