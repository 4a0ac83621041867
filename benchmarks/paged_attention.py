"""Attention of decodes on a CPU: the C kernel beside torch's operations, in interleaved pairs.

    python benchmarks/paged_attention.py [--threads 1] [--pairs 30]

Layers of helmsman-8m: 4 heads, 2 of keys, of 64 numbers, bf16; random keys and values in blocks of
16 that lie anywhere in a cache of 512 MB, so that what is read comes from memory. That both give
the same numbers is checked first. GB/s: of keys and values that are seen, by the kernel's time.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median

import torch

from aweigh_bench import machine
from aweigh_bench.paired import compare
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.attention import AttentionShape, attend
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.step_plan import plan
from aweigh_runtime.sources.local import builtin

BATCHES = (1, 4, 16, 64)
LENGTHS = (128, 1024, 4096)
NEW = (1, 5, 9)  # tokens of each request: 1, or drafts that are verified
BLOCK = 16
CACHE_BYTES = 512 << 20
BF16 = torch.bfloat16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=30)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(" · ".join(f"{key} {value}" for key, value in machine.describe().items()))
    print(f"python {' '.join(sys.argv)}\n")
    print(
        "| requests | tokens each | new | kernel us | torch us | times as fast | from | to | GB/s |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    cache, shape = _cache(builtin("helmsman-8m"))
    for batch, length, new in product(BATCHES, LENGTHS, NEW):
        if batch * length // BLOCK < cache.num_blocks:
            print(_row(cache, shape, (batch, length, new), given.pairs), flush=True)


def _cache(directory: Path) -> tuple[KVCache, AttentionShape]:
    """One layer of it, full of random numbers."""
    config = read_config(directory)
    token_bytes = 2 * config.num_kv_heads * config.head_dim * BF16.itemsize
    num_blocks = CACHE_BYTES // (config.num_layers * BLOCK * token_bytes)
    cache = KVCache(config, num_blocks, BLOCK, CacheFormat(BF16, BF16), torch.device("cpu"))
    cache.layers.normal_(generator=torch.Generator().manual_seed(0))
    return cache, AttentionShape(config.num_heads, config.head_dim**-0.5)


def _row(cache: KVCache, shape: AttentionShape, size: tuple[int, int, int], pairs: int) -> str:
    batch, length, new = size
    generator = torch.Generator().manual_seed(batch)
    each = length // BLOCK
    blocks = torch.randperm(cache.num_blocks, generator=generator)[: batch * each].view(batch, -1)
    chunks = [Chunk(length - new, new, row.tolist()) for row in blocks]
    step = plan(chunks, cache)
    num_kv_heads, head_dim = cache.layers.shape[3] // 2, cache.layers.shape[4]
    heads = torch.randn(
        batch * new, shape.num_heads + 2 * num_kv_heads, head_dim, generator=generator
    ).to(BF16)
    layers = iter(range(1 << 30))

    def once() -> torch.Tensor:
        """Every call reads another layer: none is in the processor's caches."""
        return attend(heads, cache.by_layer[next(layers) % len(cache.by_layer)], step, shape)

    def by_torch() -> torch.Tensor:
        layer = cache.by_layer[next(layers) % len(cache.by_layer)]
        return attend(heads, layer, step, shape, by_torch=True)

    layer = cache.by_layer[0]
    found = attend(heads, layer, step, shape)
    same = attend(heads, layer, step, shape, by_torch=True)
    torch.testing.assert_close(found, same, atol=1e-2, rtol=1e-2)
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(pairs):  # who goes first alternates
        for kept, work in ((ours, once), (theirs, by_torch))[:: 1 if number % 2 else -1]:
            kept.append(_seconds(work))
    ratio = compare([theirs / ours for ours, theirs in zip(ours, theirs, strict=True)])
    seen = batch * length * 2 * num_kv_heads * head_dim * BF16.itemsize
    return (
        f"| {batch} | {length} | {new} | {1e6 * median(ours):.0f} | {1e6 * median(theirs):.0f} | "
        f"{ratio.ratio:.2f} | {ratio.low:.2f} | {ratio.high:.2f} | "
        f"{seen / median(ours) / 1e9:.1f} |"
    )


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(8):
        work()
    return (time.perf_counter() - started) / 8


if __name__ == "__main__":
    main()
