"""Layers of experts on a GPU, by cold memory: share of the floor, and beside one after the other.

    python -m benchmarks.experts_gpu [--shapes NAME …] [--kinds KIND …] [--tokens N …] [--save FILE]

From router logits to the sum of what a token's experts find: routing, the product of gates, SiLU,
the product down, weights. bf16 activations; matrices of bf16, 4 bits in groups of 128, FP8 per
channel with tokens rounded, or FP8 in blocks. Tokens go wherever random logits send them, others
in each set of operands. The other way multiplies dense bf16 matrices by cuBLAS, one expert after
the other; it is told beforehand who has which tokens, where a model would wait for the device.
Both are replayed from CUDA graphs, in turn, after they gave the same. The floor is the larger of
two: bytes of the matrices that somebody needs and of the activations that have to move ÷ 4.3 TB/s,
and the arithmetic ÷ 790 TFLOP/s (1,580 of 8 bits), what copying and cuBLAS reach on an H200.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn.functional import linear, silu

from aweigh_bench.report import Bar, Cell, Table
from aweigh_kernels.expert_stack import DenseStack, Stack, stack_of
from aweigh_kernels.fp8_weight import BLOCK, Fp8Activation, Fp8Weight
from aweigh_kernels.gated import gated
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.round_rows import round_gated
from aweigh_kernels.rounding import Rounded
from aweigh_kernels.routing import Routed, add_weighted, reference, route
from aweigh_kernels.weight import Weight
from benchmarks.product_report import tell
from benchmarks.replays import MEMORY_BYTES_PER_S, Times, Way, interleaved, num_sets

FLOPS_PER_S = {2: 790e12, 1: 1580e12}  # by bytes of an activation
DTYPE = torch.bfloat16
GROUP = 128
DISTINCT = 4  # matrices, which experts have in turn, each in memory of its own
TOKENS = (1, 2, 4, 8, 16, 32, 64, 512, 4096)
PARTS_OF = (1, 16, 64)  # tokens
LEAST_SHARE = 0.6
COLUMNS = (
    "tokens, experts met", "us", "p10", "p90", "floor us", "of the floor", "one by one us",
    "x one by one",
)  # fmt: skip
PARTS = ("route", "gates", "SiLU", "down", "sum")


@dataclass(frozen=True)
class Layer:
    """The shape of a model's experts."""

    count: int  # E
    each: int  # k
    hidden: int  # N
    inner: int  # M

    @property
    def matrices(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of gates and down, [O, I]."""
        return (2 * self.inner, self.hidden), (self.hidden, self.inner)


SHAPES = {"mixtral-8x7b": Layer(8, 2, 4096, 14_336), "qwen3-30b-a3b": Layer(128, 8, 2048, 768)}


@dataclass(frozen=True)
class Kind:
    """Of a matrix."""

    bytes_each: float  # of one of its numbers, with its part of the scales
    made: Callable[[tuple[int, int]], Weight] | None  # None: it is dense
    x_bytes: int = 2


def _ints(shape: tuple[int, int]) -> IntWeight:
    q = torch.randint(0, 16, shape, dtype=torch.uint8, device="cuda")
    scale = torch.rand(shape[0], shape[1] // GROUP, device="cuda") / 100
    return IntWeight(q=q, scale=scale.to(DTYPE), bits=4, group=GROUP)


def _eights(shape: tuple[int, int], *, blocks: bool) -> Fp8Weight:
    q = torch.randn(shape, device="cuda").mul_(50).to(torch.float8_e4m3fn)
    rows, columns = shape
    size = (rows // BLOCK, columns // BLOCK) if blocks else (rows, 1)
    activation = Fp8Activation(rounding="group" if blocks else "token")
    scale = torch.rand(size, device="cuda") / 1000
    return Fp8Weight(q=q, scale=scale, blocks=blocks, activation=activation)


KINDS = {
    "bf16": Kind(2, None),
    "int4": Kind(0.5 + 2 / GROUP, _ints),
    "fp8": Kind(1, lambda shape: _eights(shape, blocks=False), 1),
    "fp8-blocks": Kind(1, lambda shape: _eights(shape, blocks=True), 1),
}


@dataclass
class Experts:
    """Operands of one layer."""

    layer: Layer
    dense: list[list[torch.Tensor]] = field(default_factory=list)  # of gates and down: DISTINCT
    stacks: list[list[Stack]] = field(default_factory=list)  # sets of both
    apart: list[list[torch.Tensor]] = field(default_factory=list)  # sets of both, [E, O, I]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=tuple(SHAPES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=tuple(KINDS))
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    tables: list[Table] = []
    bars: list[Bar] = []
    for name in given.shapes:
        for kind in given.kinds:
            rows, parts = measured(SHAPES[name], KINDS[kind], given.tokens)
            tables.append(Table(f"{name}, {kind}", COLUMNS, rows))
            if parts:
                tables.append(Table(f"{name}, {kind}: parts, us", ("tokens", *PARTS), parts))
            if (name, kind) == ("mixtral-8x7b", "int4"):
                bars += [bar_of(row) for row in rows if int(str(row[0]).split(",")[0]) <= 64]
            torch.cuda.empty_cache()
    model = "experts of Mixtral 8x7B and Qwen3 30B-A3B, random weights, bf16 activations"
    tell("experts_gpu", "Layers of experts on a GPU", model, tables, bars, given.save)


def measured(
    layer: Layer, kind: Kind, tokens: list[int]
) -> tuple[list[tuple[Cell, ...]], list[tuple[Cell, ...]]]:
    """Rows of the table, and of that of parts."""
    experts = _made(layer, kind, sets_of(layer, kind, min(tokens)))
    rows: list[tuple[Cell, ...]] = []
    parts: list[tuple[Cell, ...]] = []
    for count in tokens:
        sets = min(len(experts.stacks), sets_of(layer, kind, count))
        inputs = _inputs(layer, count, sets)
        ours, other = _timed(experts, inputs, sets)
        met = sum(_met(layer, logits) for _, logits in inputs) / len(inputs)
        floor = floor_us(layer, kind, count, met)
        rows.append(
            (
                f"{count}, {met:.1f}", ours.median, ours.p10, ours.p90, floor,
                floor / ours.median, other.median, other.median / ours.median,
            )
        )  # fmt: skip
        print(*rows[-1], flush=True)
        if count in PARTS_OF:
            times = interleaved(list(_parts(experts, inputs)), sets, rounds=4)
            parts.append((count, *(each.median for each in times)))
            print("parts:", *parts[-1], flush=True)
    return rows, parts


def sets_of(layer: Layer, kind: Kind, tokens: int) -> int:
    """Sets of operands, so that no matrix is met again while it is in the cache."""
    (gates, down), pairs = layer.matrices, tokens * layer.each
    of_one = kind.bytes_each * (gates[0] * gates[1] + down[0] * down[1])
    return num_sets(int(of_one * min(layer.count, pairs)))


def floor_us(layer: Layer, kind: Kind, tokens: int, met: float) -> float:
    (gates, down), pairs = layer.matrices, tokens * layer.each
    weights = gates[0] * gates[1] + down[0] * down[1]
    moved = 2 * 2 * tokens * layer.hidden  # x and the output: all else may stay in a cache
    by_memory = (met * weights * kind.bytes_each + moved) / MEMORY_BYTES_PER_S
    return 1e6 * max(by_memory, 2 * pairs * weights / FLOPS_PER_S[kind.x_bytes])


def bar_of(row: tuple[Cell, ...]) -> Bar:
    share = float(str(row[5]))
    name = f"mixtral-8x7b, int4, {row[0]}"
    return Bar(name, f"≥ {LEAST_SHARE}", f"{share:.2f}", share >= LEAST_SHARE)


def _made(layer: Layer, kind: Kind, sets: int) -> Experts:
    """Stacks of all sets, and dense matrices of as many as are 300 MB or more."""
    experts = Experts(layer)
    weights: list[list[Weight]] = []
    for shape in layer.matrices:
        if kind.made is None:
            dense = [
                torch.randn(shape, device="cuda").mul_(0.02).to(DTYPE) for _ in range(DISTINCT)
            ]
        else:
            weights.append([kind.made(shape) for _ in range(DISTINCT)])
            dense = [weight.dense(DTYPE) for weight in weights[-1]]
        experts.dense.append(dense)
    for _ in range(min(sets, sets_of(layer, KINDS["bf16"], 1))):
        experts.apart.append([_stacked(each, layer.count) for each in experts.dense])
    for which in range(min(sets, len(experts.apart)) if kind.made is None else sets):
        if kind.made is None:
            experts.stacks.append([DenseStack(each) for each in experts.apart[which]])
        else:
            experts.stacks.append([_stack(each, layer.count) for each in weights])
    return experts


def _stacked(matrices: list[torch.Tensor], count: int) -> torch.Tensor:
    return torch.stack([matrices[place % DISTINCT] for place in range(count)])


def _stack(weights: list[Weight], count: int) -> Stack:
    stack = stack_of(weights[0], count, DTYPE)
    assert stack is not None
    assert all(stack.put(place, weights[place % DISTINCT]) for place in range(count))
    return stack


def _inputs(layer: Layer, tokens: int, sets: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Activations and logits of each set."""
    found = []
    for _ in range(sets):
        x = torch.randn(tokens, layer.hidden, device="cuda").to(DTYPE)
        found.append((x, torch.randn(tokens, layer.count, device="cuda").to(DTYPE)))
    return found


def _met(layer: Layer, logits: torch.Tensor) -> int:
    """Experts that some token has."""
    _, chosen = reference(logits, layer.each, normalized=True)
    return int((chosen.flatten().bincount() > 0).sum())


def _timed(
    experts: Experts, inputs: list[tuple[torch.Tensor, torch.Tensor]], sets: int
) -> list[Times]:
    layer = experts.layer
    known = [_sorted(layer, logits) for _, logits in inputs]

    def ours(which: int) -> torch.Tensor:
        x, logits = inputs[which]
        routed = route(logits, layer.each, normalized=True)
        return _computed(experts.stacks[which], x, routed)

    def one_by_one(which: int) -> torch.Tensor:
        x, apart = inputs[which][0], experts.apart[which % len(experts.apart)]
        weights, order, counts = known[which]
        rows, first = x[order // layer.each], 0
        found = torch.empty(len(order), layer.hidden, dtype=DTYPE, device="cuda")
        for expert, count in enumerate(counts):
            if count:
                gate, up = linear(rows[first : first + count], apart[0][expert]).chunk(2, -1)
                found[first : first + count] = linear(silu(gate).mul_(up), apart[1][expert])
                first += count
        pairs = torch.empty_like(found).index_copy_(0, order, found)
        return (pairs.view(len(x), layer.each, -1) * weights[..., None]).sum(1).to(DTYPE)

    found, wanted = ours(0).float(), one_by_one(0).float()
    # 8 bits of activations are worth a few percent; an expert that is wrong would be all.
    assert float((found - wanted).norm() / wanted.norm()) < 0.1
    return interleaved([ours, one_by_one], sets)


def _sorted(layer: Layer, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Weights, pairs by experts, and how many each has."""
    weights, chosen = reference(logits, layer.each, normalized=True)
    by_expert, order = chosen.flatten().sort(stable=True)
    return weights, order, by_expert.bincount(minlength=layer.count).tolist()


def _computed(stacks: list[Stack], x: torch.Tensor, routed: Routed) -> torch.Tensor:
    gates, down = stacks
    return add_weighted(down(_let_by(gates(x, routed), down), routed), routed.weights)


def _let_by(gate_up: torch.Tensor, down: Stack) -> torch.Tensor | Rounded:
    if down.rounding is None:
        return gated(gate_up, "silu")
    return round_gated(gate_up, "silu", down.rounding)


def _parts(experts: Experts, inputs: list[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[Way]:
    """Each step of ours alone, with what the one before has found."""
    layer, stacks = experts.layer, experts.stacks
    routed = [route(logits, layer.each, normalized=True) for _, logits in inputs]
    x = [each for each, _ in inputs]
    gate_up = [stacks[which][0](x[which], routed[which]) for which in range(len(x))]
    let_by = [_let_by(each, stacks[which][1]) for which, each in enumerate(gate_up)]
    rows = [stacks[which][1](each, routed[which]) for which, each in enumerate(let_by)]
    yield lambda which: route(inputs[which][1], layer.each, normalized=True)
    yield lambda which: stacks[which][0](x[which], routed[which])
    yield lambda which: _let_by(gate_up[which], stacks[which][1])
    yield lambda which: stacks[which][1](let_by[which], routed[which])
    yield lambda which: add_weighted(rows[which], routed[which].weights)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
