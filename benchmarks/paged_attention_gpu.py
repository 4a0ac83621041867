"""Attention of decodes on a GPU: our kernel beside torch's operations, by cold memory.

    python -m benchmarks.paged_attention_gpu [--common] [--save FILE.md] [--save FILE.json]

Layers of Llama 3.1 8B: 32 heads, 8 of keys, of 128 numbers; random keys and values in blocks of 16
that lie anywhere. They rotate, so that they come from memory and not from the GPU's caches; calls
are replayed from a CUDA graph, A B B A, after both gave the same numbers.
Times are of calls in a row, each of which starts while the one before it ends; `apart` has another,
tiny kernel between them that lets none start early, whose own time is subtracted.
The floor: bytes of keys and values that are seen ÷ 4.3 TB/s, what copying reaches on an H200. Where
requests begin alike (`--common`: these alone), what they have in common counts once, and the same
call that reads it for each of them stands beside.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from aweigh_bench.paired import compare
from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_kernels.common_attention_gpu import unit_members
from aweigh_kernels.common_reads import CommonReads, Group, pack
from aweigh_kernels.paged_attention_gpu import Reads, attend
from benchmarks.replays import MEMORY_BYTES_PER_S, described, interleaved, num_sets

HEADS, KV_HEADS, SIZE, BLOCK = 32, 8, 128, 16
SCALE = SIZE**-0.5
_TOKEN_NUMBERS = 2 * KV_HEADS * SIZE  # keys and values
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
NAMES = {BF16: "bf16", FP8: "fp8"}
CASES = [
    *((batch, length, 1, BF16) for batch, length in ((1, 4096), (1, 32_768), (1, 131_072))),
    *((16, 4096, 1, BF16), (64, 4096, 1, BF16), (256, 2048, 1, BF16)),
    *((1, 4096, 5, BF16), (16, 4096, 5, BF16)),
    *((1, 32_768, 1, FP8), (16, 4096, 1, FP8), (64, 4096, 1, FP8)),
]
COMMON = [
    *((64, 4096, 512, BF16), (256, 2048, 256, BF16), (8, 1024, 256, BF16), (16, 16_384, 512, BF16)),
    *((64, 4096, 512, FP8), (256, 2048, 256, FP8)),
]
MIXED = [131_072] + 15 * [2048]  # tokens of requests, one of them long
OF_FLOOR = {(1, 4096): 0.4, (1, 32_768): 0.8, (16, 4096): 0.9, (64, 4096): 0.97}  # in bf16
OF_BF16 = 1.4  # times as fast, in fp8
COLUMNS = (
    "requests, tokens each, new, kept as", "us", "p10", "p90", "of the floor", "apart us",
    "torch us", "x torch", "from", "to",
)  # fmt: skip
COMMON_COLUMNS = (
    "requests, tokens in common, own, kept as", "us", "p10", "p90", "of the floor", "apart us",
    "each by itself us", "x each by itself", "from", "to",
)  # fmt: skip

Call = Callable[[torch.Tensor], object]
"""Attends to one of the rotating caches."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--common", action="store_true", help="of requests that begin alike")
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    rows = list(_shown(_common(*case) for case in COMMON) if given.common else _shown(_each()))
    report = Report(
        title=f"Attention of decodes{' that begin alike,' if given.common else ''} on a GPU",
        command=f"python -m benchmarks.paged_attention_gpu {shlex.join(sys.argv[1:])}".strip(),
        model="layers of Llama 3.1 8B, random numbers",
        machine=described(),
        tables=[
            Table(
                "Cold memory, median of 24 replays",
                COMMON_COLUMNS if given.common else COLUMNS,
                rows,
            )
        ],
        bars=[] if given.common else list(bars_of(rows)),
        notes=[] if given.common else [_mixed(), _nothing()],
    )
    print(report.text())
    for path in given.save:
        report.save(path)


def bars_of(rows: Sequence[Sequence[Cell]]) -> Iterator[Bar]:
    """What one new token of each request is held to."""
    found = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows}
    for (batch, length), least in OF_FLOOR.items():
        name = _name(batch, length, 1, BF16)
        share = _number(found[name]["of the floor"])
        yield Bar(name, f"≥ {least} of the floor", f"{share:.2f}", share >= least)
    for batch, length, new, kept in CASES:
        if kept == FP8:
            name = _name(batch, length, new, FP8)
            wide = _number(found[_name(batch, length, new, BF16)]["us"])
            times = wide / _number(found[name]["us"])
            yield Bar(name, f"≥ {OF_BF16} x bf16", f"{times:.2f}", times >= OF_BF16)


def _name(batch: int, length: int, new: int, kept: torch.dtype) -> str:
    return f"{batch}, {length:,}, {new:,}, {NAMES[kept]}"


def _number(cell: Cell) -> float:
    assert isinstance(cell, float)
    return cell


def _shown(rows: Iterator[tuple[Cell, ...]]) -> Iterator[tuple[Cell, ...]]:
    for row in rows:
        print(*row, flush=True)
        yield row


def _each() -> Iterator[tuple[Cell, ...]]:
    yield from (_row(*case) for case in CASES)


def _row(batch: int, length: int, new: int, kept: torch.dtype) -> tuple[Cell, ...]:
    generator = torch.Generator(device="cuda").manual_seed(batch)
    each = length // BLOCK
    caches = _caches(batch * each, kept, generator)
    query = torch.randn(batch * new, HEADS, SIZE, device="cuda", generator=generator, dtype=BF16)
    table = torch.randperm(batch * each).view(batch, each)
    rows = ([place * new for place in range(batch)], [new] * batch, [length - new + 1] * batch)
    reads = Reads.of(rows, table, None, query.device)
    output = torch.empty_like(query)
    blocks = table.cuda()
    ends = torch.arange(length - new + 1, length + 1, device="cuda")
    hidden = torch.arange(length, device="cuda") >= ends[:, None]
    mask = torch.zeros(new, length, device="cuda", dtype=BF16).masked_fill_(hidden, float("-inf"))

    def ours(cache: torch.Tensor) -> torch.Tensor:
        attend(query, cache, reads, SCALE, output)
        return output

    def by_torch(cache: torch.Tensor) -> torch.Tensor:
        """As the runtime does without the kernel: copy what is seen out of its blocks, attend."""
        seen = cache.view(torch.uint8) if kept == FP8 else cache
        seen = seen.index_select(0, blocks.flatten())
        seen = (seen.view(FP8).to(BF16) if kept == FP8 else seen).view(batch, length, -1, SIZE)
        keys, values = seen.transpose(1, 2).chunk(2, 1)
        sharing = HEADS // KV_HEADS
        grouped = query.view(batch, new, KV_HEADS, sharing, SIZE).permute(0, 2, 3, 1, 4)
        found = torch.nn.functional.scaled_dot_product_attention(
            grouped.flatten(2, 3), keys, values, attn_mask=mask.repeat(sharing, 1), scale=SCALE
        )
        by_token = found.view(batch, KV_HEADS, sharing, new, SIZE).permute(0, 3, 1, 2, 4)
        return by_token.reshape(query.shape)

    torch.testing.assert_close(ours(caches[0]), by_torch(caches[0]), atol=2e-2, rtol=2e-2)
    num_bytes = batch * length * _TOKEN_NUMBERS * kept.itemsize
    return (_name(batch, length, new, kept), *_compared(ours, by_torch, caches, num_bytes))


def _common(batch: int, common: int, behind: int, kept: torch.dtype) -> tuple[Cell, ...]:
    """Requests that begin with the same blocks, beside the same ones read each by itself."""
    generator = torch.Generator(device="cuda").manual_seed(batch)
    num_common, each = common // BLOCK, behind // BLOCK
    caches = _caches(num_common + batch * each, kept, generator)
    query = torch.randn(batch, HEADS, SIZE, device="cuda", generator=generator, dtype=BF16)
    blocks = torch.randperm(num_common + batch * each)
    own = blocks[num_common:].view(batch, each)
    table = torch.cat([blocks[:num_common].expand(batch, -1), own], 1)
    rows = (list(range(batch)), [1] * batch, [common + behind] * batch)
    apart = Reads.of(rows, table, None, query.device)
    members = unit_members((HEADS, KV_HEADS), SIZE, 1)
    packed = torch.from_numpy(pack([Group(np.arange(batch), common)], batch, members)).cuda()
    together = replace(apart, common=CommonReads.over(packed, batch, members))
    outputs = torch.empty_like(query), torch.empty_like(query)

    def ours(cache: torch.Tensor) -> None:
        attend(query, cache, together, SCALE, outputs[0])

    def by_itself(cache: torch.Tensor) -> None:
        attend(query, cache, apart, SCALE, outputs[1])

    ours(caches[0])
    by_itself(caches[0])
    torch.testing.assert_close(*outputs, atol=2e-2, rtol=2e-2)
    num_bytes = (common + batch * behind) * _TOKEN_NUMBERS * kept.itemsize
    return (_name(batch, common, behind, kept), *_compared(ours, by_itself, caches, num_bytes))


def _compared(ours: Call, other: Call, caches: list[torch.Tensor], num_bytes: int) -> list[float]:
    """All columns but the first."""

    def way(call: Call) -> Callable[[int], object]:
        return lambda which: call(caches[which])

    own, beside = interleaved([way(ours), way(other)], len(caches))
    ratio = compare([b / a for a, b in zip(own.each, beside.each, strict=True)])
    return [
        own.median, own.p10, own.p90, _floor_us(num_bytes) / own.median, _apart_us(ours, caches),
        beside.median, ratio.ratio, ratio.low, ratio.high,
    ]  # fmt: skip


def _mixed() -> str:
    """One long request among short ones; its blocks are as many as all the others' together."""
    generator = torch.Generator(device="cuda").manual_seed(1)
    caches = _caches(sum(MIXED) // BLOCK, BF16, generator)
    blocks = torch.randperm(sum(MIXED) // BLOCK)
    table = torch.zeros(len(MIXED), max(MIXED) // BLOCK, dtype=torch.int64)
    first = 0
    for request, length in enumerate(MIXED):
        num_blocks = length // BLOCK
        table[request, :num_blocks] = blocks[first : first + num_blocks]
        first += num_blocks
    query = torch.randn(len(MIXED), HEADS, SIZE, device="cuda", generator=generator, dtype=BF16)
    reads = Reads.of((list(range(len(MIXED))), [1] * len(MIXED), MIXED), table, None, query.device)
    output = torch.empty_like(query)

    def ours(cache: torch.Tensor) -> None:
        attend(query, cache, reads, SCALE, output)

    own = _us(ours, caches)
    share = _floor_us(sum(MIXED) * _TOKEN_NUMBERS * BF16.itemsize) / own
    sizes = f"One request of {MIXED[0]} tokens and {len(MIXED) - 1} of {MIXED[-1]}"
    return f"{sizes}: {own:.1f} us, {share:.2f} of the floor."


def _nothing() -> str:
    """What both kernels cost that find nothing to read."""
    cache = torch.zeros(1, BLOCK, 2 * KV_HEADS, SIZE, device="cuda", dtype=BF16)
    query = torch.zeros(1, HEADS, SIZE, device="cuda", dtype=BF16)
    reads = Reads.of(([0], [1], [0]), torch.zeros(1, 1), None, query.device)
    output = torch.empty_like(query)

    def ours(cache: torch.Tensor) -> None:
        attend(query, cache, reads, SCALE, output)

    own = _us(ours, [cache])
    apart = _apart_us(ours, [cache])
    return f"A launch that finds nothing to read: {own:.1f} us in a row, {apart:.1f} us apart."


def _caches(num_blocks: int, kept: torch.dtype, generator: torch.Generator) -> list[torch.Tensor]:
    """Those that calls rotate over."""
    num_bytes = num_blocks * BLOCK * _TOKEN_NUMBERS * kept.itemsize
    shape = (num_blocks, BLOCK, 2 * KV_HEADS, SIZE)
    return [
        torch.randn(shape, device="cuda", generator=generator, dtype=BF16).to(kept)
        for _ in range(num_sets(num_bytes))
    ]


def _floor_us(num_bytes: int) -> float:
    return num_bytes / MEMORY_BYTES_PER_S * 1e6


def _us(call: Call, caches: list[torch.Tensor]) -> float:
    (times,) = interleaved([lambda which: call(caches[which])], len(caches))
    return times.median


def _apart_us(call: Call, caches: list[torch.Tensor]) -> float:
    tiny = torch.zeros(64, device="cuda")

    def both(which: int) -> None:
        tiny.zero_()
        call(caches[which])

    with_it, without = interleaved([both, lambda _: tiny.zero_()], len(caches))
    return with_it.median - without.median


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
