"""`aweigh bench latency`: one request at a time, for longer and longer prompts."""

from dataclasses import dataclass, field

from aweigh_bench import machine
from aweigh_bench.measures import Measures
from aweigh_bench.progress import progress
from aweigh_bench.report import Cell, Curves, Report, Table
from aweigh_bench.subject import Setting, subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    setting: Setting
    lengths: list[int] = field(default_factory=lambda: [16, 64, 256, 1024])
    output_tokens: int = 32
    iterations: int = 20
    command: str = "aweigh bench latency"


async def run(options: Options) -> Report:
    """Each length is warmed up with one request, then measured."""
    found: dict[int, Measures] = {}
    async with subject(options.setting) as served:
        with progress("lengths", len(options.lengths)) as advance:
            for length in options.lengths:
                await served.random(1, (length, length), options.output_tokens, 1)
                found[length] = await served.random(
                    options.iterations, (length, length), options.output_tokens, 1
                )
                advance(f"{length} tokens")
    return _report(options, served.asking.model, found)


def _report(options: Options, model: str, found: dict[int, Measures]) -> Report:
    title = f"Answers of {options.output_tokens} tokens, {options.iterations} requests each, in ms"
    columns = (
        *("prompt tokens", "TTFT p50", "p90", "p99", "ITL p50", "p99"),
        *("end to end p50", "p99", "prompt tok/s"),
    )
    first = {length: run.spreads["ttft"].percentiles[50] for length, run in found.items()}
    return Report(
        title="Latency by prompt length",
        command=options.command,
        model=options.setting.model or options.setting.shape or model,
        machine=machine.describe(),
        tables=[Table(title, columns, [_row(length, run) for length, run in found.items()])],
        notes=["One request at a time; prompts are random, so nothing is cached."],
        figures={str(length): run.to_json() for length, run in found.items()},
        curves=[Curves("Time to first token", "prompt tokens", "ms", {"p50": list(first.items())})],
    )


def _row(length: int, run: Measures) -> tuple[Cell, ...]:
    first, whole, gaps = (run.spreads.get(name) for name in ("ttft", "e2el", "itl"))
    assert first is not None
    assert whole is not None
    times = first.percentiles
    return (
        str(length),
        *(times[rank] for rank in (50, 90, 99)),
        *(gaps.percentiles[rank] if gaps else None for rank in (50, 99)),
        *(whole.percentiles[rank] for rank in (50, 99)),
        1e3 * length / times[50],
    )
