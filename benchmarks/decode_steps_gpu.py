"""Decode steps of a whole model on a GPU, replayed from graphs, beside what memory allows.

    python -m benchmarks.decode_steps_gpu [--shape llama-3.1-8b] [--starts 2] [--common]
        [--quantization fp8|int8|int4] [--kv-cache-dtype fp8] [--save FILE.md]

A shape with random weights, greedy, 1,024 tokens in and 256 out: the mean step sees 1,152. A step
writes its inputs, replays its graph and takes the likeliest tokens, which stay on the device; the
host runs ahead. The graph alone is replayed back to back; what a step takes longer is idle. The
floor: weights, and keys and values of all requests, as they are stored, once, ÷ 4.3 TB/s, what
copying reaches on an H200, or their operations ÷ 790 TFLOP/s (1,580 of 8 bits), whichever is
longer. With `--common` all requests have the 1,024 tokens in common, which the floor counts once.

Then the graphs of steps that verify four drafted tokens of every request, beside plain steps of as
many requests, replayed in turns: what drafts cost where they are wrong.
"""

import argparse
import asyncio
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

from aweigh_bench.bars import at_most
from aweigh_bench.own_server import own_server
from aweigh_bench.paired import compare
from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_bench.shapes import SHAPES, shape_directory
from aweigh_kernels.sampling_gpu import MOST_TOKENS, Choice, Settings, sample
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.common_blocks import LEAST_SAVED
from aweigh_runtime.model.decode_graphs import DecodeGraphs, recordable
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.footprint import bytes_per_token
from aweigh_runtime.model.graph_sizes import Size, graph_sizes, smallest
from aweigh_runtime.model.load import Loaded, Wish
from aweigh_runtime.model.placement import places
from aweigh_runtime.model.random_weights import SCHEMES, make_up
from benchmarks.layer_kernels import added, ends_of
from benchmarks.replays import MEMORY_BYTES_PER_S, described

BATCHES = (1, 64, 256)
PROMPT, ANSWER = 1024, 256
BLOCK_TOKENS = 16
FLOP_PER_S = 790e12
ROUNDED_FLOP_PER_S = 1580e12  # where activations are rounded to 8 bits, too
ROUNDED = ("fp8", "int8")
BARS_MS = {  # of llama-3.1-8b, by scheme and requests
    "none": {1: 4.2, 64: 6.9, 256: 17.0},
    "fp8": {1: 2.5},
    "int4": {1: 1.9},
}
VERIFIED = (1, 16, 64)  # requests; a server records no more than 256 rows of such steps
DRAFTED = 4  # tokens behind each request's own
ROUNDS = 6  # of two turns each
BAR_START_S = 20.0
BAR_VERIFYING = 1.06  # times a plain step, for one request of llama-3.1-8b
VERIFYING = ("requests", "plain ms", "verifying ms", "times", "low", "high")
COLUMNS = ("requests", "step ms", "graph alone ms", "idle", "floor ms", "of the floor", "tokens/s")


def main() -> None:
    given = _arguments()
    flags = [f"--quantization={given.quantization}", f"--kv-cache-dtype={given.kv_cache_dtype}"]
    starts_s = [asyncio.run(_start_s(given.shape, flags)) for _ in range(given.starts)]
    wish = Wish(max_model_len=PROMPT + ANSWER, scheme=given.quantization)
    with shape_directory(given.shape) as directory:
        loaded = make_up(directory, wish, torch.device("cuda"))
    decoder = loaded.decoder
    blocks_each = -(-(PROMPT + ANSWER) // BLOCK_TOKENS)
    kept = CacheFormat.of(decoder.dtype, given.kv_cache_dtype, None)
    num_blocks = max(*given.batches, *VERIFIED) * blocks_each
    cache = KVCache(decoder.config, num_blocks, BLOCK_TOKENS, kept, decoder.device)
    for layer in cache.by_layer:
        layer.kept.copy_(torch.randn_like(layer.kept, dtype=decoder.dtype))
    graphs, seconds = _recorded(decoder, cache, max(given.batches))
    least_ms = partial(floor_ms, loaded, cache, common=given.common)
    steps, steps_ms = _decoding(
        graphs, least_ms, given.batches, blocks_each, profile=given.profile, common=given.common
    )
    verifying, verifying_bars = _verifying(decoder, cache, blocks_each)
    bars = start_bars(starts_s)
    bars += [] if given.common else _bars(given.quantization, steps_ms)
    if given.quantization == "none":
        bars += verifying_bars
    report = Report(
        title="Decode steps on a GPU",
        command=f"python -m benchmarks.decode_steps_gpu {shlex.join(sys.argv[1:])}".strip(),
        model=", ".join([given.shape, "random weights", str(decoder.dtype), *flags]),
        machine=described(),
        tables=[steps, verifying],
        bars=bars if given.shape == "llama-3.1-8b" else [],
        notes=[
            *(f"Start {index + 1} of a server took {s:.1f} s." for index, s in enumerate(starts_s)),
            f"Recording {seconds[1]:.1f} s, of which the first time, with compiled kernels missing "
            f"or on disk, {seconds[0]:.1f} s more.",
        ],
    )
    print(report.text())
    for path in given.save:
        report.save(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--quantization", choices=("none", *SCHEMES), default="none")
    parser.add_argument("--kv-cache-dtype", choices=("auto", "fp8"), default="auto")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--common", action="store_true", help="all requests begin alike")
    parser.add_argument("--profile", action="store_true", help="print what kernels add")
    parser.add_argument("--starts", type=int, default=0, help="of `aweigh serve`, timed first")
    parser.add_argument("--save", type=Path, action="append", default=[])
    return parser.parse_args()


async def _start_s(shape: str, flags: Sequence[str]) -> float:
    """Seconds until `aweigh serve` is ready, with kernels compiled or on disk as they are."""
    with shape_directory(shape) as directory:
        began_s = time.monotonic()
        async with own_server(f"file://{directory}", ["--random-weights", *flags]):
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


def _decoding(
    graphs: DecodeGraphs,
    least_ms: Callable[[int], float],
    batches: Sequence[int],
    blocks_each: int,
    *,
    profile: bool,
    common: bool,
) -> tuple[Table, dict[int, float]]:
    """Steps of so many requests, each decoding one token, and the milliseconds of each."""
    rows: list[tuple[Cell, ...]] = []
    steps_ms = {}
    for batch in batches:
        tables = _tables(batch, blocks_each, common=common)
        once = common and (batch - 1) * PROMPT >= LEAST_SAVED
        step_ms, graph_ms = _timed(graphs, tables, profile=profile, common=once)
        floor = least_ms(batch)
        rows.append(
            (
                batch, step_ms, graph_ms, max(0.0, 1 - graph_ms / step_ms), floor,
                floor / step_ms, 1e3 * batch / step_ms,
            )
        )  # fmt: skip
        print(*rows[-1], flush=True)
        steps_ms[batch] = step_ms
    return Table("Median of the steps from 1,024 to 1,280 tokens", COLUMNS, rows), steps_ms


def start_bars(starts_s: Sequence[float]) -> list[Bar]:
    """The slowest start counts, if any was timed."""
    if not starts_s:
        return []
    what = f"s until a server is ready, the slowest of {len(starts_s)} starts"
    slowest = max(starts_s)
    return [Bar(what, f"<= {BAR_START_S:g}", f"{slowest:.1f}", slowest <= BAR_START_S)]


def _bars(scheme: str, steps_ms: Mapping[int, float]) -> list[Bar]:
    return [
        Bar(
            f"ms of a step of {batch}",
            f"<= {bar}",
            f"{steps_ms[batch]:.2f}",
            steps_ms[batch] <= bar,
        )
        for batch, bar in BARS_MS.get(scheme, {}).items()
        if batch in steps_ms
    ]


def _verifying(decoder: Decoder, cache: KVCache, blocks_each: int) -> tuple[Table, list[Bar]]:
    """Graphs of steps in which every request has drafts, beside those of plain ones."""
    wanted = [Size(batch, each) for batch in VERIFIED for each in (1, DRAFTED + 1)]
    wanted.sort(key=lambda size: -size.rows)
    graphs = DecodeGraphs(decoder, cache, recordable(decoder, cache, wanted))
    rows: list[tuple[Cell, ...]] = []
    bars = []
    for batch in VERIFIED:
        plain, verifying = _in_turns_ms(graphs, batch, blocks_each)
        found = compare([slow / fast for slow, fast in zip(verifying, plain, strict=True)])
        times = (f"{value:.3f}" for value in (found.ratio, found.low, found.high))
        rows.append((batch, median(plain), median(verifying), *times))
        print(*rows[-1], flush=True)
        if batch == 1:
            met = at_most(found.low, found.high, BAR_VERIFYING)
            name = (
                f"ms of a step that verifies {DRAFTED} drafted tokens, times those of a plain one"
            )
            bars.append(Bar(name, f"<= {BAR_VERIFYING}", str(found), met))
    title = f"Graphs of verify steps, {DRAFTED} tokens drafted for each request, 1,152 seen"
    return Table(title, VERIFYING, rows), bars


def _in_turns_ms(
    graphs: DecodeGraphs, batch: int, blocks_each: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of a plain step's graph and of one with drafts: A B B A, and so on."""
    tables = [range(each * blocks_each, (each + 1) * blocks_each) for each in range(batch)]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for which in (0, 1, 1, 0):
            each = 1 + which * DRAFTED
            chunks = [Chunk(PROMPT + ANSWER // 2, each, table, each) for table in tables]
            # Both read their inputs from the same place, where those of this one must be.
            logits = graphs.forward([0] * (batch * each), chunks)
            assert logits is not None
            times[which].append(_back_to_back_ms(graphs.replay_of(Size(batch, each))))
    return times


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
    likeliest = [Choice(temperature=1.0, top_k=1)] * len(tables)
    greedy = Settings.of(likeliest, MOST_TOKENS).at([0] * len(tables), tokens.device)

    def step(position: int) -> None:
        nonlocal tokens
        logits = graphs.forward(tokens, [Chunk(position, 1, table) for table in tables])
        assert logits is not None
        tokens, _ = sample(logits, greedy, races=False, weighs=False)

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
    replay = graphs.replay_of(size, common=common)
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
    kernels = added(ends_of(replay))
    print(f"{len(kernels)} kernels of a layer, {sum(us for _, us in kernels):.2f} us:")
    for name, us in kernels:
        print(f"  {name[:60]:60} {us:6.2f}", flush=True)


def floor_ms(loaded: Loaded, cache: KVCache, batch: int, *, common: bool) -> float:
    """Of a mean step of so many requests, by memory or by arithmetic."""
    decoder, config = loaded.decoder, loaded.decoder.config
    embedding = 0 if config.tie_word_embeddings else decoder.weights["embedding.weight"].nbytes
    prompts = 1 if common else batch
    tokens = prompts * PROMPT + batch * ANSWER / 2
    seen = tokens * bytes_per_token(config, cache.by_layer[0].kept.itemsize)
    by_memory = (loaded.weight_bytes - embedding + seen) / MEMORY_BYTES_PER_S
    dense = sum(weight.numel() for weight in decoder.weights.values())
    dense -= embedding // decoder.dtype.itemsize
    quantized = sum(
        place.num_values for place in places(config) if place.weight in decoder.matrices
    )
    rounded = loaded.quantization is not None and loaded.quantization.scheme in ROUNDED
    per_s = ROUNDED_FLOP_PER_S if rounded else FLOP_PER_S
    by_arithmetic = 2 * batch * (dense / FLOP_PER_S + quantized / per_s)
    return 1e3 * max(by_memory, by_arithmetic)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this measures a GPU, and none is visible")
    main()
