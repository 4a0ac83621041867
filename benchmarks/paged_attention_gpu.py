"""Attention of decodes on a GPU: our kernel beside torch's operations, by cold memory.

    python benchmarks/paged_attention_gpu.py [--common] [--save FILE.md]

Layers of Llama 3.1 8B: 32 heads, 8 of keys, of 128 numbers; random keys and values in blocks of 16
that lie anywhere. Operands rotate over more than 320 MB, so that they come from memory and not from
the GPU's caches; calls are replayed from a CUDA graph, A B B A, after both gave the same numbers.
Times are of calls in a row, each of which starts while the one before it ends; `apart` has another,
tiny kernel between them that lets none start early, whose own time is subtracted.
The floor: bytes of keys and values that are seen ÷ 4.3 TB/s, what copying reaches on an H200. Where
requests begin alike (`--common`: these alone), what they have in common counts once, and the same
call that reads it for each of them stands beside.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import torch

from aweigh_bench import machine
from aweigh_bench.paired import compare
from aweigh_kernels.common_attention_gpu import unit_members
from aweigh_kernels.common_reads import CommonReads, Group, pack
from aweigh_kernels.paged_attention_gpu import Reads, attend

TITLE = "# Attention of decodes on a GPU"
HEADS, KV_HEADS, SIZE, BLOCK = 32, 8, 128, 16
SCALE = SIZE**-0.5
_TOKEN_NUMBERS = 2 * KV_HEADS * SIZE  # keys and values
ROTATED_BYTES = 320_000_000
FLOOR_BYTES_PER_S = 4.3e12
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
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
LEAST_CALLS = 24  # of one replay, which takes 10 to 20 us to start
ROUNDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--common", action="store_true", help="of requests that begin alike")
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    facts = " · ".join(f"{key} {value}" for key, value in machine.describe().items())
    title = "# Attention of decodes that begin alike, on a GPU" if given.common else TITLE
    command = f"python -m benchmarks.paged_attention_gpu {shlex.join(sys.argv[1:])}".strip()
    lines = [title, "", facts, "", f"    {command}"]
    for line in _common_lines() if given.common else _lines():
        lines.append(line)
        print(line, flush=True)
    if given.save is not None:
        given.save.write_text("\n".join(lines) + "\n")


def _lines() -> Iterator[str]:
    yield ""
    yield (
        "| requests | tokens each | new | kept as | us | p10 | p90 | TB/s | of the floor | "
        "apart us | torch us | times as fast | from | to |"
    )
    yield "|---:|---:|---:|---|" + 10 * "---:|"
    yield from (_row(*case) for case in CASES)
    yield from ("", _mixed(), "", _nothing())


def _common_lines() -> Iterator[str]:
    yield ""
    yield (
        "| requests | in common | own | kept as | us | p10 | p90 | of the floor | apart us | "
        "each by itself us | times as fast | from | to |"
    )
    yield "|---:|---:|---:|---|" + 9 * "---:|"
    yield from (_common(*case) for case in COMMON)


def _row(batch: int, length: int, new: int, kept: torch.dtype) -> str:
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
    times = _times_us(ours, by_torch, caches)
    own, other = map(median, times)
    ratio = compare([b / a for a, b in zip(*times, strict=True)])
    low, *_, high = quantiles(times[0], n=10)
    num_bytes = batch * length * _TOKEN_NUMBERS * kept.itemsize
    name = "fp8" if kept == FP8 else "bf16"
    return (
        f"| {batch} | {length} | {new} | {name} | {own:.1f} | {low:.1f} | {high:.1f} | "
        f"{num_bytes / own / 1e6:.2f} | {_floor_us(num_bytes) / own:.2f} | "
        f"{_apart_us(ours, caches):.1f} | {other:.1f} | {ratio.ratio:.2f} | "
        f"{ratio.low:.2f} | {ratio.high:.2f} |"
    )


def _common(batch: int, common: int, behind: int, kept: torch.dtype) -> str:
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
    times = _times_us(ours, by_itself, caches)
    ratio = compare([b / a for a, b in zip(*times, strict=True)])
    low, *_, high = quantiles(times[0], n=10)
    us, other = map(median, times)
    num_bytes = (common + batch * behind) * _TOKEN_NUMBERS * kept.itemsize
    name = "fp8" if kept == FP8 else "bf16"
    return (
        f"| {batch} | {common} | {behind} | {name} | {us:.1f} | {low:.1f} | {high:.1f} | "
        f"{_floor_us(num_bytes) / us:.2f} | {_apart_us(ours, caches):.1f} | {other:.1f} | "
        f"{ratio.ratio:.2f} | {ratio.low:.2f} | {ratio.high:.2f} |"
    )


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

    graph = _graph(ours, caches)
    own = median(_replayed_us(graph) for _ in range(ROUNDS)) / _num_calls(caches)
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

    graph = _graph(ours, [cache])
    own = median(_replayed_us(graph) for _ in range(ROUNDS)) / _num_calls([cache])
    apart = _apart_us(ours, [cache])
    return f"A launch that finds nothing to read: {own:.1f} us in a row, {apart:.1f} us apart."


def _caches(num_blocks: int, kept: torch.dtype, generator: torch.Generator) -> list[torch.Tensor]:
    """As many as make up the bytes that calls rotate over, two at least."""
    num_bytes = num_blocks * BLOCK * _TOKEN_NUMBERS * kept.itemsize
    shape = (num_blocks, BLOCK, 2 * KV_HEADS, SIZE)
    return [
        torch.randn(shape, device="cuda", generator=generator, dtype=BF16).to(kept)
        for _ in range(max(2, -(-ROTATED_BYTES // num_bytes)))
    ]


def _floor_us(num_bytes: int) -> float:
    return num_bytes / FLOOR_BYTES_PER_S * 1e6


def _num_calls(caches: list[torch.Tensor]) -> int:
    return max(LEAST_CALLS, len(caches))


def _graph(
    call: Callable[[torch.Tensor], object], caches: list[torch.Tensor]
) -> torch.cuda.CUDAGraph:
    for cache in caches[:2]:
        call(cache)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(_num_calls(caches)):
            call(caches[number % len(caches)])
    graph.replay()
    return graph


def _times_us(
    one: Callable[[torch.Tensor], object],
    other: Callable[[torch.Tensor], object],
    caches: list[torch.Tensor],
) -> tuple[list[float], list[float]]:
    """Of calls of the one and of the other, A B B A."""
    graphs = _graph(one, caches), _graph(other, caches)
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(ROUNDS):
        for which in (0, 1, 1, 0) if turn % 2 else (1, 0, 0, 1):
            times[which].append(_replayed_us(graphs[which]) / _num_calls(caches))
    return times


def _apart_us(call: Callable[[torch.Tensor], object], caches: list[torch.Tensor]) -> float:
    tiny = torch.zeros(64, device="cuda")

    def both(cache: torch.Tensor) -> None:
        tiny.zero_()
        call(cache)

    graphs = _graph(both, caches), _graph(lambda _: tiny.zero_(), caches)
    with_it, without = (
        median(_replayed_us(graph) for _ in range(ROUNDS)) / _num_calls(caches) for graph in graphs
    )
    return with_it - without


def _replayed_us(graph: torch.cuda.CUDAGraph) -> float:
    first, last = _event(), _event()
    first.record()
    graph.replay()
    last.record()
    last.synchronize()
    return 1000 * float(first.elapsed_time(last))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
