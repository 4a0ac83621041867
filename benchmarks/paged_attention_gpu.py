"""Attention of decodes on a GPU: our kernel beside torch's operations, by cold memory.

    python benchmarks/paged_attention_gpu.py [--save FILE.md]

Layers of Llama 3.1 8B: 32 heads, 8 of keys, of 128 numbers; random keys and values in blocks of 16
that lie anywhere. Operands rotate over more than 320 MB, so that they come from memory and not from
the GPU's caches; calls are replayed from a CUDA graph, A B B A, after both gave the same numbers.
The floor: bytes of keys and values that are seen ÷ 4.3 TB/s, what copying reaches on an H200.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import torch

from aweigh_bench import machine
from aweigh_bench.paired import compare
from aweigh_kernels.paged_attention_gpu import Reads, attend

HEADS, KV_HEADS, SIZE, BLOCK = 32, 8, 128, 16
SCALE = SIZE**-0.5
ROTATED_BYTES = 320_000_000
FLOOR_BYTES_PER_S = 4.3e12
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
CASES = [
    *((batch, length, 1, BF16) for batch, length in ((1, 4096), (1, 32_768), (16, 4096))),
    *((64, 4096, 1, BF16), (256, 2048, 1, BF16), (1, 4096, 5, BF16), (16, 4096, 5, BF16)),
    *((16, 4096, 1, FP8), (64, 4096, 1, FP8)),
]
ROUNDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    facts = " · ".join(f"{key} {value}" for key, value in machine.describe().items())
    lines = ["# Attention of decodes on a GPU", "", facts, "", "    python " + " ".join(sys.argv)]
    lines += [
        "",
        "| requests | tokens each | new | kept as | us | p10 | p90 | TB/s | of the floor | "
        "torch us | times as fast | from | to |",
        "|---:|---:|---:|---|" + 9 * "---:|",
    ]
    for batch, length, new, kept in CASES:
        lines.append(_row(batch, length, new, kept))
        print(lines[-1], flush=True)
    if given.save is not None:
        given.save.write_text("\n".join(lines) + "\n")


def _row(batch: int, length: int, new: int, kept: torch.dtype) -> str:
    generator = torch.Generator(device="cuda").manual_seed(batch)
    each = length // BLOCK
    num_bytes = batch * length * 2 * KV_HEADS * SIZE * kept.itemsize
    count = max(2, -(-ROTATED_BYTES // num_bytes))
    shape = (batch * each, BLOCK, 2 * KV_HEADS, SIZE)
    caches = [
        torch.randn(shape, device="cuda", generator=generator, dtype=BF16).to(kept)
        for _ in range(count)
    ]
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
    graphs = [_graph(each, caches) for each in (ours, by_torch)]
    times: list[list[float]] = [[], []]
    for turn in range(ROUNDS):
        for which in (0, 1, 1, 0) if turn % 2 else (1, 0, 0, 1):
            times[which].append(_replayed_us(graphs[which]) / count)
    own, other = map(median, times)
    ratio = compare([b / a for a, b in zip(*times, strict=True)])
    low, *_, high = quantiles(times[0], n=10)
    floor_us = num_bytes / FLOOR_BYTES_PER_S * 1e6
    name = "fp8" if kept == FP8 else "bf16"
    return (
        f"| {batch} | {length} | {new} | {name} | {own:.1f} | {low:.1f} | {high:.1f} | "
        f"{num_bytes / own / 1e6:.2f} | {floor_us / own:.2f} | {other:.1f} | {ratio.ratio:.2f} | "
        f"{ratio.low:.2f} | {ratio.high:.2f} |"
    )


def _graph(
    call: Callable[[torch.Tensor], torch.Tensor], caches: list[torch.Tensor]
) -> torch.cuda.CUDAGraph:
    for cache in caches:
        call(cache)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for cache in caches:
            call(cache)
    graph.replay()
    return graph


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
