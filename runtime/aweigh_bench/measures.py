"""What the answers of a run say about a server. Pure: times are arguments, no clock is read.

Names and keys are those of `vllm bench serve`, so that results can be laid side by side.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Any

PERCENTILES = (50, 90, 99)


@dataclass(slots=True)
class Answer:
    """One request as the client saw it. Times are seconds of one clock."""

    sent_s: float
    ended_s: float = 0.0
    arrivals_s: list[float] = field(default_factory=list)  # of events that brought tokens
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int | None = None  # None: the server does not tell
    error: str | None = None

    @property
    def ttft_s(self) -> float:
        """From sending to the first token."""
        return self.arrivals_s[0] - self.sent_s

    @property
    def e2el_s(self) -> float:
        """From sending to the end of the answer."""
        return self.ended_s - self.sent_s

    @property
    def itls_s(self) -> list[float]:
        """Gaps between events that brought tokens."""
        return [after - before for before, after in pairwise(self.arrivals_s)]

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first; None for an answer of one token."""
        if self.output_tokens < 2:
            return None
        return (self.arrivals_s[-1] - self.arrivals_s[0]) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Spread:
    """How one figure is distributed, in milliseconds."""

    mean: float
    std: float
    percentiles: dict[int, float]


@dataclass(frozen=True, slots=True)
class Measures:
    """The figures of a run."""

    completed: int
    failed: int
    errors: dict[str, int]  # sentence → how often
    duration_s: float
    prompt_tokens: int
    output_tokens: int
    peak_output_tokens_per_s: int  # in the best second
    peak_concurrency: int
    cached_tokens: int | None
    good: int | None  # answers within all limits; None: no limits were given
    spreads: dict[str, Spread]  # ttft, tpot, itl, e2el

    @property
    def output_throughput(self) -> float:
        """Tokens of answers per second."""
        return self.output_tokens / self.duration_s

    @property
    def hit_percent(self) -> float | None:
        """Share of prompt tokens that came from the server's prefix cache."""
        if self.cached_tokens is None or not self.prompt_tokens:
            return None
        return 100 * self.cached_tokens / self.prompt_tokens

    def to_json(self) -> dict[str, Any]:
        """Flat, under the keys of `vllm bench serve`."""
        total = self.prompt_tokens + self.output_tokens
        figures: dict[str, Any] = {
            "duration": self.duration_s,
            "completed": self.completed,
            "failed": self.failed,
            "errors": self.errors,
            "total_input_tokens": self.prompt_tokens,
            "total_output_tokens": self.output_tokens,
            "request_throughput": self.completed / self.duration_s,
            "request_goodput": None if self.good is None else self.good / self.duration_s,
            "output_throughput": self.output_throughput,
            "total_token_throughput": total / self.duration_s,
            "max_output_tokens_per_s": self.peak_output_tokens_per_s,
            "max_concurrent_requests": self.peak_concurrency,
            "total_cached_tokens": self.cached_tokens,
            "prefix_cache_hit_percent": self.hit_percent,
        }
        for name, spread in self.spreads.items():
            figures |= {f"mean_{name}_ms": spread.mean, f"std_{name}_ms": spread.std}
            figures |= {f"p{rank}_{name}_ms": value for rank, value in spread.percentiles.items()}
            figures[f"median_{name}_ms"] = spread.percentiles[50]
        return figures


def measure(answers: Sequence[Answer], limits_ms: dict[str, float] | None = None) -> Measures:
    """The figures of all answers of one run.

    Args:
        answers: at least one.
        limits_ms: upper bounds by `ttft`, `tpot`, `itl`, `e2el`; an answer within all counts as
            good. `itl` bounds the mean gap of an answer.
    """
    done = [answer for answer in answers if answer.error is None]
    ended_s, sent_s = max(a.ended_s for a in answers), min(a.sent_s for a in answers)
    cached = [answer.cached_tokens for answer in done if answer.cached_tokens is not None]
    figures = {
        "ttft": [answer.ttft_s for answer in done],
        "tpot": [answer.tpot_s for answer in done if answer.tpot_s is not None],
        "itl": [gap_s for answer in done for gap_s in answer.itls_s],
        "e2el": [answer.e2el_s for answer in done],
    }
    return Measures(
        completed=len(done),
        failed=len(answers) - len(done),
        errors=_counted(answer.error for answer in answers if answer.error is not None),
        duration_s=max(ended_s - sent_s, 1e-9),
        prompt_tokens=sum(answer.prompt_tokens for answer in done),
        output_tokens=sum(answer.output_tokens for answer in done),
        peak_output_tokens_per_s=_peak_rate(done, sent_s),
        peak_concurrency=_peak_concurrency(answers),
        cached_tokens=sum(cached) if cached else None,
        good=None if not limits_ms else sum(_within(answer, limits_ms) for answer in done),
        spreads={name: spread(values) for name, values in figures.items() if values},
    )


def spread(seconds: Sequence[float]) -> Spread:
    """How some durations are distributed."""
    ordered = sorted(1e3 * value for value in seconds)
    ranks = {rank: percentile(ordered, rank) for rank in PERCENTILES}
    return Spread(fmean(ordered), pstdev(ordered), ranks)


def percentile(ordered: Sequence[float], rank: float) -> float:
    """The value below which `rank` percent of sorted values lie, interpolated as numpy does."""
    position = (len(ordered) - 1) * rank / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def _within(answer: Answer, limits_ms: dict[str, float]) -> bool:
    gaps_s = answer.itls_s
    seconds = {
        "ttft": answer.ttft_s,
        "tpot": answer.tpot_s or 0.0,
        "itl": fmean(gaps_s) if gaps_s else 0.0,
        "e2el": answer.e2el_s,
    }
    return all(1e3 * seconds[name] <= limit for name, limit in limits_ms.items())


def _peak_rate(answers: Iterable[Answer], origin_s: float) -> int:
    """Tokens in the best whole second since the first request; an event's share is its answer's."""
    seconds: dict[int, float] = {}
    for answer in answers:
        share = answer.output_tokens / len(answer.arrivals_s)
        for arrival_s in answer.arrivals_s:
            second = int(arrival_s - origin_s)
            seconds[second] = seconds.get(second, 0.0) + share
    return round(max(seconds.values(), default=0.0))


def _peak_concurrency(answers: Iterable[Answer]) -> int:
    """An answer that ends when another is sent is not open beside it."""
    moves = [move for a in answers for move in ((a.sent_s, 1), (a.ended_s, -1))]
    peak = now = 0
    for _, change in sorted(moves):
        now += change
        peak = max(peak, now)
    return peak


def _counted(sentences: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for sentence in sentences:
        counts[sentence] = counts.get(sentence, 0) + 1
    return counts
