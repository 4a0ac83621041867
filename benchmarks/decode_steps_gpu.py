"""Decode steps of a whole model on a GPU, replayed from graphs, beside what memory allows.

    python -m benchmarks.decode_steps_gpu [--shape llama-3.1-8b] [--starts 2] [--common]
        [--save FILE.md]

A shape with random weights, greedy, 1,024 tokens in and 256 out: the mean step sees 1,152. A step
writes its inputs, replays its graph and takes the likeliest tokens, which stay on the device; the
host runs ahead. The graph alone is replayed back to back; what a step takes longer is idle. The
floor: weights, and keys and values of all requests, once, ÷ 4.3 TB/s, what copying reaches on an
H200, or their operations ÷ 790 TFLOP/s, whichever is longer. With `--common` all requests have the
1,024 tokens in common, which the floor counts once.
"""

import argparse
import asyncio
import shlex
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

from aweigh_bench.own_server import own_server
from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_bench.shapes import SHAPES, shape_directory
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.common_blocks import LEAST_MEMBERS
from aweigh_runtime.model.decode_graphs import DecodeGraphs, recordable
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.footprint import bytes_per_token
from aweigh_runtime.model.graph_sizes import graph_sizes, smallest
from aweigh_runtime.model.load import Wish
from aweigh_runtime.model.random_weights import make_up
from benchmarks.replays import MEMORY_BYTES_PER_S, described

BATCHES = (1, 64, 256)
PROMPT, ANSWER = 1024, 256
BLOCK_TOKENS = 16
FLOP_PER_S = 790e12
BARS_MS = {1: 4.2, 64: 6.9, 256: 17.0}  # of llama-3.1-8b
COLUMNS = ("requests", "step ms", "graph alone ms", "idle", "floor ms", "of the floor", "tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--common", action="store_true", help="all requests begin alike")
    parser.add_argument("--profile", action="store_true", help="print the kernels of each step")
    parser.add_argument("--starts", type=int, default=0, help="of `aweigh serve`, timed first")
    parser.add_argument("--save", type=Path, action="append", default=[])
    given = parser.parse_args()
    starts_s = [asyncio.run(_start_s(given.shape)) for _ in range(given.starts)]
    device = torch.device("cuda")
    with shape_directory(given.shape) as directory:
        decoder = make_up(directory, Wish(max_model_len=PROMPT + ANSWER), device).decoder
    most = max(given.batches)
    blocks_each = -(-(PROMPT + ANSWER) // BLOCK_TOKENS)
    kept = CacheFormat(decoder.dtype, decoder.dtype)
    cache = KVCache(decoder.config, most * blocks_each, BLOCK_TOKENS, kept, device)
    cache.layers.normal_()
    graphs, seconds = _recorded(decoder, cache, most)
    rows: list[tuple[Cell, ...]] = []
    bars = []
    for batch in given.batches:
        tables = _tables(batch, blocks_each, common=given.common)
        step_ms, graph_ms = _timed(graphs, tables, profile=given.profile, common=given.common)
        floor_ms = _floor_ms(decoder, batch, common=given.common)
        rows.append(
            (
                batch, step_ms, graph_ms, max(0.0, 1 - graph_ms / step_ms), floor_ms,
                floor_ms / step_ms, 1e3 * batch / step_ms,
            )
        )  # fmt: skip
        print(*rows[-1], flush=True)
        if given.shape == "llama-3.1-8b" and batch in BARS_MS and not given.common:
            bar = BARS_MS[batch]
            name = f"ms of a step of {batch}"
            bars.append(Bar(name, f"<= {bar}", f"{step_ms:.2f}", step_ms <= bar))
    report = Report(
        title="Decode steps on a GPU",
        command=f"python -m benchmarks.decode_steps_gpu {shlex.join(sys.argv[1:])}".strip(),
        model=f"{given.shape}, random weights, {decoder.dtype}",
        machine=described(),
        tables=[Table("Median of the steps from 1,024 to 1,280 tokens", COLUMNS, rows)],
        bars=bars,
        notes=[
            *(f"Start {index + 1} of a server took {s:.1f} s." for index, s in enumerate(starts_s)),
            f"Recording {seconds[1]:.1f} s, of which the first time, with compiled kernels missing "
            f"or on disk, {seconds[0]:.1f} s more.",
        ],
    )
    print(report.text())
    for path in given.save:
        report.save(path)


async def _start_s(shape: str) -> float:
    """Seconds until `aweigh serve` is ready, with kernels compiled or on disk as they are."""
    with shape_directory(shape) as directory:
        began_s = time.monotonic()
        async with own_server(f"file://{directory}", ["--random-weights"]):
            return time.monotonic() - began_s


def _recorded(decoder: Decoder, cache: KVCache, most: int) -> tuple[DecodeGraphs, list[float]]:
    """The graphs, recorded twice; what the first time took longer, and what the second one took."""
    sizes = recordable(decoder, cache, graph_sizes(most, 0))
    took = []
    for _ in range(2):
        began_s = time.monotonic()
        graphs = DecodeGraphs(decoder, cache, sizes)
        torch.cuda.synchronize()
        took.append(time.monotonic() - began_s)
    return graphs, [took[0] - took[1], took[1]]


def _tables(batch: int, blocks_each: int, *, common: bool) -> list[list[int]]:
    num_common = PROMPT // BLOCK_TOKENS if common else 0
    return [
        [*range(num_common), *range(each * blocks_each + num_common, (each + 1) * blocks_each)]
        for each in range(batch)
    ]


def _timed(
    graphs: DecodeGraphs, tables: list[list[int]], *, profile: bool, common: bool
) -> tuple[float, float]:
    """Milliseconds of a step, and of its graph alone."""
    tokens = torch.zeros(len(tables), dtype=torch.int64, device="cuda")

    def step(position: int) -> None:
        nonlocal tokens
        logits = graphs.forward(tokens, [Chunk(position, 1, table) for table in tables])
        assert logits is not None
        tokens = logits.argmax(-1)

    for position in range(PROMPT, PROMPT + 8):
        step(position)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(ANSWER + 1)]  # type: ignore[no-untyped-call]
    events[0].record()
    for ahead in range(ANSWER):
        step(PROMPT + ahead)
        events[ahead + 1].record()
    torch.cuda.synchronize()
    times = [one.elapsed_time(other) for one, other in pairwise(events)]
    step(PROMPT + ANSWER // 2)
    chunks = [Chunk(PROMPT, 1, table) for table in tables]
    size = smallest(graphs.sizes, chunks)
    assert size is not None
    replay = graphs.replay_of(size, common=common and len(tables) >= LEAST_MEMBERS)
    alone_ms = _back_to_back_ms(replay)
    if profile:
        _print_kernels(replay)
    return median(times), alone_ms


def _back_to_back_ms(replay: Callable[[], None]) -> float:
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    count = 50
    for _ in range(count):
        replay()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / count


def _print_kernels(replay: Callable[[], None]) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        for _ in range(5):
            replay()
        torch.cuda.synchronize()
    print(
        found.key_averages().table(
            sort_by="cuda_time_total", row_limit=30, max_name_column_width=60
        )
    )


def _floor_ms(decoder: Decoder, batch: int, *, common: bool) -> float:
    embedding = (
        0 if decoder.config.tie_word_embeddings else decoder.weights["embedding.weight"].nbytes
    )
    weights = sum(weight.nbytes for weight in decoder.weights.values()) - embedding
    prompts = 1 if common else batch
    tokens = prompts * PROMPT + batch * ANSWER / 2
    seen = tokens * bytes_per_token(decoder.config, decoder.dtype.itemsize)
    by_memory = (weights + seen) / MEMORY_BYTES_PER_S
    by_arithmetic = weights * batch / FLOP_PER_S  # two operations for each weight of two bytes
    return 1e3 * max(by_memory, by_arithmetic)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
