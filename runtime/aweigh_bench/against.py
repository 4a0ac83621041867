"""`aweigh bench throughput --against transformers`: both compute the same prompts, in pairs."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from aweigh_bench import machine
from aweigh_bench.paired import compare, verdict
from aweigh_bench.peer import Peer
from aweigh_bench.progress import progress
from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_bench.subject import Setting, Subject, model_files, subject
from aweigh_bench.traffic import Length, Query

BARS = {1: 1.0, 32: 3.0}  # batch size → least ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    setting: Setting
    threads: int
    batches: list[int] = field(default_factory=lambda: [1, 32])
    input_tokens: Length = (32, 512)
    output_tokens: int = 32
    pairs: int = 30
    command: str = "aweigh bench throughput --against transformers"


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds that each took for the same prompts."""

    ours_s: float
    peer_s: float


async def run(options: Options) -> Report:
    """Measure pair after pair; who goes first alternates."""
    async with subject(options.setting) as served:
        dtype = (await served.own.state())["model"]["dtype"]
        directory = model_files(options.setting)
        peer = await asyncio.to_thread(Peer, directory, dtype, options.threads)
        found: dict[int, list[Pair]] = {}
        with progress("pairs", len(options.batches) * (options.pairs + 1)) as advance:
            for size in options.batches:
                pairs = []
                for number in range(options.pairs + 1):
                    pairs.append(await _pair(options, served, peer, size, number))
                    advance(f"{size} at once")
                found[size] = pairs[1:]  # the first one warms both
    return _report(options, dtype, found)


async def _pair(options: Options, served: Subject, peer: Peer, size: int, number: int) -> Pair:
    low, high = options.input_tokens
    prompts = [served.ids.draw(served.ids.random.randint(low, high)) for _ in range(size)]
    queries = [Query(prompt, options.output_tokens) for prompt in prompts]
    served.expect_fitting(high + options.output_tokens)

    def generate() -> None:
        peer.generate(prompts, options.output_tokens)

    if number % 2:
        peer_s = await asyncio.to_thread(_seconds, generate)
        return Pair((await served.send(queries, size)).duration_s, peer_s)
    ours_s = (await served.send(queries, size)).duration_s
    return Pair(ours_s, await asyncio.to_thread(_seconds, generate))


def _seconds(work: Callable[[], None]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _report(options: Options, dtype: str, found: dict[int, list[Pair]]) -> Report:
    rows: list[tuple[Cell, ...]] = []
    bars: list[Bar] = []
    for size, pairs in found.items():
        compared = compare([pair.peer_s / pair.ours_s for pair in pairs])
        tokens = size * options.output_tokens
        ours, theirs = (
            tokens / median(seconds)
            for seconds in ([pair.ours_s for pair in pairs], [pair.peer_s for pair in pairs])
        )
        rows.append((str(size), ours, theirs, compared.ratio, compared.low, compared.high))
        if (least := BARS.get(size)) is not None:
            what = f"tokens/s at batch {size}, times transformers'"
            bars.append(Bar(what, f">= {least:g}", str(compared), verdict(compared, least)))
    low, high = options.input_tokens
    title = (
        f"Prompts of {low} to {high} tokens, answers of {options.output_tokens}, {dtype}, "
        f"{options.threads} threads, median of {options.pairs} interleaved pairs"
    )
    columns = ("batch", "aweigh tok/s", "transformers tok/s", "ratio", "low", "high")
    return Report(
        title="Throughput beside transformers' generate",
        command=options.command,
        model=str(options.setting.model),
        machine=machine.describe(),
        tables=[Table(title, columns, rows)],
        bars=bars,
        notes=[
            "Both get the same new prompts as token ids and compute greedily past every end token. "
            "transformers gets them as one batch, padded on the left, and runs with its cache and "
            "sdpa attention in inference mode; ours arrive over HTTP.",
            f"Both hold the weights as {dtype} and compute with {options.threads} threads of torch "
            "where they run on a CPU.",
        ],
        figures={
            "seconds": {
                str(size): [[pair.ours_s, pair.peer_s] for pair in pairs]
                for size, pairs in found.items()
            }
        },
    )
