"""`aweigh bench throughput`: tokens per second for more and more requests at once."""

from dataclasses import dataclass, field
from statistics import median

from aweigh_bench import machine
from aweigh_bench.measures import Measures
from aweigh_bench.progress import progress
from aweigh_bench.report import Bar, Cell, Curves, Report, Table
from aweigh_bench.subject import Setting, Subject, subject
from aweigh_bench.traffic import Length

BAR_CONCURRENCY, BAR_RATIO = 64, 8.0
# On one H200: prompts and answers of this shape, so many at once,
GPU_SHAPE, GPU_CONCURRENCY, GPU_TOKENS = "llama-3.1-8b", 512, 1000
GPU_RATES: dict[frozenset[str], float] = {  # by the flags that choose number formats.
    frozenset(): 9500.0,
    frozenset({"--quantization=fp8", "--kv-cache-dtype=fp8"}): 17_744.0,
}
NUMBER_FORMATS = ("--dtype=", "--quantization=", "--kv-cache-dtype=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    setting: Setting
    batches: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32, 64])
    input_tokens: Length = (64, 64)
    output_tokens: int = 128
    rounds: int = 3
    command: str = "aweigh bench throughput"


async def run(options: Options) -> Report:
    """Each round measures every concurrency once, so that a slow minute spoils none alone."""
    async with subject(options.setting) as served:
        await _burst(options, served, max(options.batches))  # a first burst warms everything
        found: dict[int, list[Measures]] = {size: [] for size in options.batches}
        with progress("bursts", options.rounds * len(options.batches)) as advance:
            for _ in range(options.rounds):
                for size in options.batches:
                    found[size].append(await _burst(options, served, size))
                    advance(f"{size} at once")
    return _report(options, served.asking.model, found)


async def _burst(options: Options, served: Subject, size: int) -> Measures:
    return await served.random(size, options.input_tokens, options.output_tokens, size)


def _report(options: Options, model: str, found: dict[int, list[Measures]]) -> Report:
    rates = {size: [run.output_throughput for run in runs] for size, runs in found.items()}
    middles = {size: median(values) for size, values in rates.items()}
    smallest = min(middles)
    rows: list[tuple[Cell, ...]] = [
        (
            str(size),
            middle,
            min(rates[size]),
            max(rates[size]),
            middle / middles[smallest],
            median(run.spreads["ttft"].percentiles[50] for run in found[size]),
            median(run.spreads["tpot"].percentiles[50] for run in found[size])
            if "tpot" in found[size][0].spreads
            else None,
        )
        for size, middle in middles.items()
    ]
    columns = ("at once", "tok/s", "least", "most", f"x {smallest}", "TTFT p50 ms", "TPOT p50 ms")
    low, high = options.input_tokens
    prompts = f"{low}" if low == high else f"{low} to {high}"
    title = f"Prompts of {prompts} tokens, answers of {options.output_tokens}"
    return Report(
        title="Throughput by number of requests at once",
        command=options.command,
        model=options.setting.model or options.setting.shape or model,
        machine=machine.describe(),
        tables=[Table(f"{title}, median of {options.rounds} rounds", columns, rows)],
        bars=_bars(middles) + gpu_bars(options, middles, on_gpu=bool(machine.gpus())),
        notes=[f"Threads of torch: {options.setting.threads or 'as the server chooses'}."],
        figures={"output_throughput": {str(size): values for size, values in rates.items()}},
        curves=[
            Curves(title, "requests at once", "tokens/s", {"median": list(middles.items())}),
        ],
    )


def _bars(middles: dict[int, float]) -> list[Bar]:
    if not {1, BAR_CONCURRENCY} <= set(middles):
        return []
    ratio = middles[BAR_CONCURRENCY] / middles[1]
    what = f"tokens/s of {BAR_CONCURRENCY} requests at once, times those of one"
    return [Bar(what, f">= {BAR_RATIO:g}", f"{ratio:.2f}", ratio >= BAR_RATIO)]


def gpu_bars(options: Options, middles: dict[int, float], *, on_gpu: bool) -> list[Bar]:
    """The rate that one H200 is held to, where that very setting was measured."""
    lengths = (options.input_tokens, options.output_tokens)
    same = options.setting.shape == GPU_SHAPE and lengths == ((GPU_TOKENS,) * 2, GPU_TOKENS)
    formats = frozenset(f for f in options.setting.flags if f.startswith(NUMBER_FORMATS))
    if not (on_gpu and same and GPU_CONCURRENCY in middles and formats in GPU_RATES):
        return []
    rate, least = middles[GPU_CONCURRENCY], GPU_RATES[formats]
    what = f"tokens/s of {GPU_CONCURRENCY} requests at once"
    return [Bar(what, f">= {least:,.0f}", f"{rate:,.0f}", rate >= least)]
