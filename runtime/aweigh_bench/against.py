"""`aweigh bench throughput --against transformers`: both compute the same prompts, in pairs."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import cast

from aweigh_bench import machine
from aweigh_bench.paired import compare, verdict
from aweigh_bench.peer import Peer
from aweigh_bench.progress import progress
from aweigh_bench.report import Bar, Cell, Report, Table
from aweigh_bench.subject import Setting, Subject, model_files, subject
from aweigh_bench.traffic import Length, random_lengths

BARS = {1: 1.0, 32: 3.0}  # batch size → least ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    setting: Setting
    threads: int
    batches: list[int] = field(default_factory=lambda: [1, 32])
    input_tokens: Length = (32, 512)
    output_tokens: Length = (32, 512)
    pairs: int = 30
    command: str = "aweigh bench throughput --against transformers"


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds that each took for the same prompts and as many tokens of answers."""

    num_tokens: int
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
    prompts, wanted = options.input_tokens, options.output_tokens
    served.expect_fitting(prompts[1] + wanted[1])
    queries = list(random_lengths(served.ids, size, prompts, wanted))
    ids = cast("list[list[int]]", [query.prompt for query in queries])
    num_tokens = sum(query.max_tokens for query in queries)

    def generate() -> None:
        peer.generate(ids, max(query.max_tokens for query in queries))

    if number % 2:
        peer_s = await asyncio.to_thread(_seconds, generate)
        return Pair(num_tokens, (await served.send(queries, size)).duration_s, peer_s)
    ours_s = (await served.send(queries, size)).duration_s
    return Pair(num_tokens, ours_s, await asyncio.to_thread(_seconds, generate))


def _seconds(work: Callable[[], None]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _report(options: Options, dtype: str, found: dict[int, list[Pair]]) -> Report:
    rows: list[tuple[Cell, ...]] = []
    bars: list[Bar] = []
    for size, pairs in found.items():
        compared = compare([pair.peer_s / pair.ours_s for pair in pairs])
        ours = median(pair.num_tokens / pair.ours_s for pair in pairs)
        theirs = median(pair.num_tokens / pair.peer_s for pair in pairs)
        rows.append((str(size), ours, theirs, compared.ratio, compared.low, compared.high))
        if (least := BARS.get(size)) is not None:
            what = f"tokens/s at batch {size}, times transformers'"
            bars.append(Bar(what, f">= {least:g}", str(compared), verdict(compared, least)))
    title = (
        f"Prompts of {_spelled(options.input_tokens)} tokens, answers of "
        f"{_spelled(options.output_tokens)}, {dtype}, {options.threads} threads, median of "
        f"{options.pairs} interleaved pairs"
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
            "sdpa attention in inference mode until the longest answer is whole; ours arrive over "
            "HTTP. Tokens that were asked for count.",
            f"Both hold the weights as {dtype} and compute with {options.threads} threads of torch "
            "where they run on a CPU.",
        ],
        figures={
            "tokens_and_seconds": {
                str(size): [[pair.num_tokens, pair.ours_s, pair.peer_s] for pair in pairs]
                for size, pairs in found.items()
            }
        },
    )


def _spelled(length: Length) -> str:
    low, high = length
    return f"{low}" if low == high else f"{low} to {high}"
