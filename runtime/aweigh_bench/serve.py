"""`aweigh bench serve`: an endpoint under traffic like that of its users."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aweigh_bench import machine, traffic
from aweigh_bench.endpoint import PROBE_WORDS, Asking, Endpoint, Route
from aweigh_bench.failures import BenchFailure, Impossible
from aweigh_bench.load import Load, at_arrivals
from aweigh_bench.measures import Answer, Measures, Spread, measure
from aweigh_bench.progress import progress
from aweigh_bench.report import Cell, Curves, Report, Table
from aweigh_bench.traffic import Ids, Length, Query, Words

Kind = Literal["random", "shared-prefix", "sharegpt"]
BUSY_PERCENT = 80.0  # of a processor: a client above this may be what is measured
CURVE_POINTS = 200
NAMES = {
    "ttft": "time to first token",
    "itl": "inter-token latency",
    "tpot": "time per output token",
    "e2el": "end to end",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What is asked."""

    kind: Kind = "random"
    num_requests: int = 200
    num_warmups: int = 2
    input_tokens: Length = (128, 512)
    output_tokens: Length = (64, 128)
    num_prefixes: int = 10
    prefix_tokens: int = 256
    suffix_tokens: int = 64
    file: Path | None = None  # of ShareGPT
    as_text: bool = False
    vocabulary: int = 8000
    seed: int = 0

    def queries(self, count: int, seed: int, words: Words, longest: int | None) -> list[Query]:
        """So many requests; another seed gives others that share nothing with them."""
        if self.kind == "sharegpt" and self.file is not None:
            return traffic.sharegpt(self.file, seed, count)
        made = self._made(Ids(seed, self.vocabulary), count, longest)
        return list(traffic.as_text(made, words) if self.as_text else made)

    def _made(self, ids: Ids, count: int, longest: int | None) -> Iterator[Query]:
        if self.kind == "random":
            return traffic.random_lengths(ids, count, self.input_tokens, self.output_tokens)
        if self.kind == "sharegpt":
            return traffic.sharegpt_like(ids, count, longest)
        sizes = (self.num_prefixes, self.prefix_tokens, self.suffix_tokens)
        return traffic.shared_prefix(ids, count, *sizes, self.output_tokens)

    def __str__(self) -> str:
        form = "text" if self.as_text or self.file else "token ids"
        output = f"answers of {_range(self.output_tokens)} tokens"
        described = {
            "random": f"random prompts of {_range(self.input_tokens)} tokens, {output}",
            "shared-prefix": f"{self.num_prefixes} shared prefixes of {self.prefix_tokens} tokens, "
            f"each followed by {self.suffix_tokens} own ones, {output}",
            "sharegpt": f"first turns of {self.file}"
            if self.file
            else f"lengths like ShareGPT's: log-normal, prompts of median "
            f"{traffic.PROMPT_MEDIAN:.0f} (sigma {traffic.PROMPT_SIGMA}), answers of median "
            f"{traffic.ANSWER_MEDIAN:.0f} (sigma {traffic.ANSWER_SIGMA}), cut at "
            f"{traffic.LONGEST} tokens",
        }
        return f"{described[self.kind]}; sent as {form}, seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is measured."""

    base_url: str
    api_key: str | None = None
    model: str | None = None
    route: Route = "completions"
    temperature: float = 0.0
    ignore_eos: bool = False
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When it is asked: at a rate, so many at a time, or both; with neither all at once."""

    request_rate: float | None = None
    burstiness: float = 1.0
    concurrency: int | None = None

    def __str__(self) -> str:
        rate = "all at once" if self.request_rate is None else f"{self.request_rate:g} per second"
        if self.request_rate is not None:
            rate += " (Poisson)" if self.burstiness == 1 else f" (burstiness {self.burstiness:g})"
        return rate if self.concurrency is None else f"{rate}, at most {self.concurrency} open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    target: Target
    traffic: Traffic = field(default_factory=Traffic)
    pace: Pace = field(default_factory=Pace)
    limits_ms: dict[str, float] = field(default_factory=dict)
    detailed: bool = False
    command: str = "aweigh bench serve"


async def run(options: Options) -> Report:
    """Send the traffic and report what came back.

    Raises:
        BenchFailure: the endpoint cannot be used, or no request succeeded.
    """
    target, asked = options.target, options.traffic
    _expect_sendable(target, asked)
    async with Endpoint(target.base_url, target.api_key, target.timeout_s) as endpoint:
        model, longest = await endpoint.first_model(target.model)
        probe = Ids(asked.seed - 1, asked.vocabulary).draw(min(PROBE_WORDS, (longest or 512) // 2))
        asking, words = await endpoint.prepared(_asking(target, model, asked.seed), probe)
        warmups = asked.queries(asked.num_warmups, asked.seed - 2, words, longest)
        await at_arrivals(endpoint, asking, warmups, [0.0] * len(warmups), concurrency=8)
        queries = asked.queries(asked.num_requests, asked.seed, words, longest)
        with progress("requests", len(queries)) as advance:
            load = await at_arrivals(
                endpoint,
                asking,
                queries,
                _arrivals(options, len(queries)),
                concurrency=options.pace.concurrency,
                tick=lambda answer: advance(answer.error or ""),
            )
    measures = measure(load.answers, options.limits_ms)
    if not measures.completed:
        reason = next(iter(measures.errors))
        raise BenchFailure(f"all {measures.failed} requests failed; the first one with: {reason}")
    return _report(options, model, load, measures)


def _asking(target: Target, model: str, seed: int) -> Asking:
    return Asking(
        route=target.route,
        model=model,
        temperature=target.temperature,
        ignore_eos=target.ignore_eos,
        seed=seed if target.temperature else None,
    )


def _arrivals(options: Options, count: int) -> Iterator[float]:
    pace = options.pace
    return traffic.arrivals(options.traffic.seed, count, pace.request_rate, pace.burstiness)


def _expect_sendable(target: Target, asked: Traffic) -> None:
    if target.route == "chat" and not asked.as_text:
        raise Impossible("--prompts is ids, but a chat takes text only; use --prompts text")
    if asked.file is not None and asked.kind != "sharegpt":
        raise Impossible(
            f"--sharegpt-file is {asked.file}, but --traffic is {asked.kind}; use --traffic "
            "sharegpt"
        )


def _report(options: Options, model: str, load: Load, measures: Measures) -> Report:
    figures = measures.to_json()
    if options.detailed:
        figures |= _detailed(load.answers)
    return Report(
        title=f"Serving: {options.pace}",
        command=options.command,
        model=model,
        machine=machine.describe(),
        tables=[_totals(measures, options), _latencies(measures)],
        notes=_notes(options, load, measures),
        figures=figures,
        curves=_curves(load.answers),
    )


def _totals(measures: Measures, options: Options) -> Table:
    total = measures.prompt_tokens + measures.output_tokens
    rows: list[tuple[Cell, ...]] = [
        ("Successful requests", measures.completed),
        ("Failed requests", measures.failed),
        ("Benchmark duration (s)", measures.duration_s),
        ("Total input tokens", measures.prompt_tokens),
        ("Total generated tokens", measures.output_tokens),
        ("Request throughput (req/s)", measures.completed / measures.duration_s),
        ("Output token throughput (tok/s)", measures.output_throughput),
        ("Peak output token throughput (tok/s)", measures.peak_output_tokens_per_s),
        ("Total token throughput (tok/s)", total / measures.duration_s),
        ("Peak concurrent requests", measures.peak_concurrency),
        ("Cached input tokens", measures.cached_tokens),
        ("Prefix cache hit rate (%)", measures.hit_percent),
    ]
    if measures.good is not None:
        limits = ", ".join(f"{name} {limit:g} ms" for name, limit in options.limits_ms.items())
        rows.append((f"Goodput (req/s) at {limits}", measures.good / measures.duration_s))
    return Table("Totals", ("figure", "value"), rows)


def _latencies(measures: Measures) -> Table:
    rows = [
        (f"{description} ({name.upper()})", *_statistics(measures.spreads.get(name)))
        for name, description in NAMES.items()
    ]
    return Table("Latency in ms", ("", "mean", "p50", "p90", "p99"), rows)


def _statistics(spread: Spread | None) -> tuple[float | None, ...]:
    """Answers of one token have neither gaps nor a time per token."""
    if spread is None:
        return (None,) * 4
    return (spread.mean, *(spread.percentiles[rank] for rank in (50, 90, 99)))


def _notes(options: Options, load: Load, measures: Measures) -> list[str]:
    notes = [f"Traffic: {options.traffic}."]
    notes += [f"{count} requests failed: {error}" for error, count in measures.errors.items()]
    busy = f"The load client took {load.client_busy_percent:.0f} % of one processor"
    if load.client_busy_percent > BUSY_PERCENT:
        busy += ": it may be what limits these figures; lower the load"
    return [*notes, f"{busy}."]


def _detailed(answers: list[Answer]) -> dict[str, list[object]]:
    done = [answer for answer in answers if answer.error is None]
    return {
        "ttfts": [answer.ttft_s for answer in done],
        "itls": [answer.itls_s for answer in done],
        "input_lens": [answer.prompt_tokens for answer in done],
        "output_lens": [answer.output_tokens for answer in done],
    }


def _curves(answers: list[Answer]) -> list[Curves]:
    done = [answer for answer in answers if answer.error is None]
    times = {
        "first token": sorted(1e3 * answer.ttft_s for answer in done),
        "end to end": sorted(1e3 * answer.e2el_s for answer in done),
    }
    gaps = sorted(1e3 * gap_s for answer in done for gap_s in answer.itls_s)
    share = "% of requests"
    curves = [Curves("Requests", "ms", share, {name: _shares(ms) for name, ms in times.items()})]
    if gaps:
        curves.append(Curves("Tokens", "ms", "% of gaps", {"inter-token": _shares(gaps)}))
    return curves


def _shares(ordered: list[float]) -> list[tuple[float, float]]:
    """How many percent are at most so long, at no more points than a diagram shows."""
    step = max(1, len(ordered) // CURVE_POINTS)
    places = itertools.chain(range(0, len(ordered), step), [len(ordered) - 1])
    return [(ordered[place], 100 * (place + 1) / len(ordered)) for place in places]


def _range(length: Length) -> str:
    low, high = length
    return str(low) if low == high else f"{low} to {high}"
