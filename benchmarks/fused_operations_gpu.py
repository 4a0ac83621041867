"""Norm, rotary embedding with the write into the cache, and gates on a GPU: ours beside torch's.

    python -m benchmarks.fused_operations_gpu [--save FILE.md] [--save FILE.json]

Layers of Llama 3.1 8B in bf16: rows of 4,096 numbers, 32 heads and 8 of keys of 128, gates of
14,336. Operands rotate over more than 300 MB of cold memory; calls are replayed from CUDA graphs,
in turn, after all ways gave the same numbers. Each of ours starts while the one before it ends, as
in a step. torch.compile gets each number of tokens as a constant.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_kernels import gated, rms_norm, rope_write
from benchmarks.replays import Times, copy_bytes_per_s, described, interleaved, num_sets

NARROW, HEADS, KV_HEADS, HEAD, GATES = 4096, 32, 8, 128, 14_336
BLOCK, EPS = 16, 1e-5
TOKENS = (1, 16, 64, 256, 2048, 8192)
MANY = 2048  # tokens from which the bar holds
LEAST_SHARE = 0.85
FEW = 0.02
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
COLUMNS = (
    "operation, tokens", "us", "p10", "p90", "GB/s", "of copying", "eager us", "x eager",
    "compiled us", "x compiled",
)  # fmt: skip

Operands = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Operation:
    """Ways to do the same with one set of operands."""

    name: str
    tokens: int
    num_bytes: int  # that have to move
    operands: Callable[[], Operands]
    ours: Callable[..., Any]
    by_torch: Callable[..., Any]
    checked: tuple[int, ...]  # operands that are written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    copied = copy_bytes_per_s()
    rows: list[tuple[Cell, ...]] = []
    bars: list[Bar] = []
    for operation in _operations():
        times = _timed(operation)
        rows.append(_row(operation, times, copied))
        if operation.tokens >= MANY:
            bars += _bars(operation, times, copied)
        print(*rows[-1], flush=True)
    report = Report(
        title="Fused operations on a GPU",
        command=f"python -m benchmarks.fused_operations_gpu {shlex.join(sys.argv[1:])}".strip(),
        model="layers of Llama 3.1 8B, bf16",
        machine=described(),
        tables=[Table("Cold memory, median of 24 replays", COLUMNS, rows)],
        bars=bars,
        notes=[f"A large copy moves {copied / 1e9:,.0f} GB/s here, read and written."],
    )
    print(report.text())
    for path in given.save:
        report.save(path)


def _operations() -> Iterator[Operation]:
    for tokens in TOKENS:
        yield _norm(tokens, added=False)
        yield _norm(tokens, added=True)
        yield _rope(tokens, BF16)
        yield _rope(tokens, FP8)
        yield _gates(tokens)


def _norm(tokens: int, *, added: bool) -> Operation:
    def operands() -> Operands:
        x, residual = _normal(tokens, NARROW), _normal(tokens, NARROW)
        return x, residual, _normal(NARROW), torch.empty_like(x)

    def ours(
        x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, output: torch.Tensor
    ) -> None:
        rms_norm.rms_norm(x, weight, EPS, residual=residual if added else None, output=output)

    def by_torch(
        x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, output: torch.Tensor
    ) -> None:
        hidden = residual.add_(x) if added else x
        output.copy_(torch.rms_norm(hidden, weight.shape, weight, EPS))

    name = "add + RMSNorm" if added else "RMSNorm"
    moved = (4 if added else 2) * tokens * NARROW * 2
    return Operation(name, tokens, moved, operands, ours, by_torch, (1, 3))


def _rope(tokens: int, kept: torch.dtype) -> Operation:
    num_blocks = -(-tokens // BLOCK) + 1
    scales = (0.5, 0.25) if kept == FP8 else (1.0, 1.0)

    def operands() -> Operands:
        radians = 50 * torch.randn(tokens, HEAD // 2, device="cuda")
        cos, sin = radians.cos(), radians.sin()
        kv = torch.zeros(num_blocks, BLOCK, 2 * KV_HEADS, HEAD, dtype=BF16, device="cuda")
        return (
            _normal(tokens, HEADS + 2 * KV_HEADS, HEAD),
            torch.cat((cos, cos), -1).to(BF16),
            torch.cat((-sin, sin), -1).to(BF16),
            kv.to(kept),
            torch.randperm(num_blocks * BLOCK, device="cuda")[:tokens],
        )

    def ours(*each: torch.Tensor) -> None:
        heads, cos, sin, kv, slots = each
        rope_write.rope_write(heads, cos, sin, kv, slots, kv_scales=scales)

    scale = torch.tensor(scales, dtype=BF16, device="cuda").repeat_interleave(KV_HEADS)[:, None]

    def by_torch(*each: torch.Tensor) -> None:
        heads, cos, sin, kv, slots = each
        turned = heads[:, : HEADS + KV_HEADS]
        swapped = turned.roll(HEAD // 2, -1)
        turned.mul_(cos[:, None]).addcmul_(swapped, sin[:, None])
        new = heads[:, HEADS:]
        if kept == FP8:
            rounded = (new / scale).clamp(-448, 448).to(FP8)
            kv.view(torch.uint8).flatten(0, 1).index_copy_(0, slots, rounded.view(torch.uint8))
            new.copy_(rounded.to(BF16) * scale)
        else:
            kv.flatten(0, 1).index_copy_(0, slots, new)

    turned = 2 * (HEADS + KV_HEADS) * HEAD * 2
    values = KV_HEADS * HEAD * 2 * (2 if kept == FP8 else 1)
    moved = tokens * (turned + values + 2 * KV_HEADS * HEAD * kept.itemsize + HEAD * 2 + 8)
    name = f"RoPE + write of {'fp8' if kept == FP8 else 'bf16'}"
    return Operation(name, tokens, moved, operands, ours, by_torch, (0, 3))


def _gates(tokens: int) -> Operation:
    def operands() -> Operands:
        gate_up = _normal(tokens, 2 * GATES)
        return gate_up, torch.empty(tokens, GATES, dtype=BF16, device="cuda")

    def ours(gate_up: torch.Tensor, output: torch.Tensor) -> None:
        gated.gated(gate_up, "silu", output=output)

    def by_torch(gate_up: torch.Tensor, output: torch.Tensor) -> None:
        gate, up = gate_up.chunk(2, -1)
        torch.mul(torch.nn.functional.silu(gate), up, out=output)

    return Operation("SiLU x up", tokens, 3 * tokens * GATES * 2, operands, ours, by_torch, (1,))


def _timed(operation: Operation) -> list[Times]:
    torch._dynamo.reset()
    compiled = torch.compile(operation.by_torch, dynamic=False, fullgraph=True)
    ways = (operation.ours, operation.by_torch, compiled)
    _check(operation, ways)
    sets = [operation.operands() for _ in range(num_sets(operation.num_bytes))]
    return interleaved(
        [lambda which, way=way: way(*sets[which]) for way in ways],  # type: ignore[misc]
        len(sets),
    )


def _check(operation: Operation, ways: tuple[Callable[..., Any], ...]) -> None:
    """All but a few numbers are the same: compiled code rounds once where 8 bits round twice."""
    given = operation.operands()
    results = []
    for way in ways:
        own = [each.clone() for each in given]
        way(*own)
        results.append([own[which].float() for which in operation.checked])
    for found in results[1:]:
        for ours, other in zip(results[0], found, strict=True):
            near = torch.isclose(ours, other, rtol=2e-2, atol=2e-2)
            if (~near).float().mean() > FEW:
                raise RuntimeError(f"{operation.name} of {operation.tokens} tokens is another")


def _row(operation: Operation, times: list[Times], copied: float) -> tuple[Cell, ...]:
    ours, eager, compiled = times
    speed = operation.num_bytes / ours.median * 1e6
    return (
        f"{operation.name}, {operation.tokens:,}", ours.median, ours.p10, ours.p90, speed / 1e9,
        speed / copied, eager.median, eager.median / ours.median, compiled.median,
        compiled.median / ours.median,
    )  # fmt: skip


def _bars(operation: Operation, times: list[Times], copied: float) -> list[Bar]:
    ours, _, compiled = times
    share = operation.num_bytes / ours.median * 1e6 / copied
    ratio = compiled.median / ours.median
    what = f"{operation.name}, {operation.tokens:,} tokens"
    return [
        Bar(f"{what}, of copying", f"≥ {LEAST_SHARE}", f"{share:.3f}", share >= LEAST_SHARE),
        Bar(f"{what}, times torch.compile", "≥ 1", f"{ratio:.2f}", ratio >= 1),
    ]


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=BF16, device="cuda")


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
