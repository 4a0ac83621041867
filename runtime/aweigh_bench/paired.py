"""Two ways compared by interleaved pairs: the median of the ratios and how sure it is.

The interval comes from order statistics, so it holds for any distribution of the ratios.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import comb
from statistics import median

from aweigh_bench.bars import at_least

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Comparison:
    """The median of some ratios, between two of them."""

    ratio: float
    low: float
    high: float
    confidence: float  # that the true median lies from low to high; below 0.95 with few pairs
    pairs: int

    def __str__(self) -> str:
        if self.pairs == 1:
            return f"{self.ratio:.3f} (one pair)"
        return (
            f"{self.ratio:.3f} ({100 * self.confidence:.1f} % interval {self.low:.3f} to "
            f"{self.high:.3f}, {self.pairs} pairs)"
        )


def compare(ratios: Sequence[float]) -> Comparison:
    """The median with the narrowest symmetric interval of at least 95 % confidence.

    Six pairs are the fewest that reach 95 %; with fewer the interval spans all of them.
    """
    ordered = sorted(ratios)
    if not ordered:
        raise ValueError("there are no pairs to compare; expected at least one")
    rank = _rank(len(ordered))
    return Comparison(
        ratio=median(ordered),
        low=ordered[rank],
        high=ordered[-1 - rank],
        confidence=_confidence(len(ordered), rank),
        pairs=len(ordered),
    )


def verdict(found: Comparison, least: float) -> bool | None:
    """Whether a ratio reaches its bar; None: these pairs cannot tell, or are too few."""
    return None if found.confidence < CONFIDENCE else at_least(found.low, found.high, least)


def exceeds(found: Comparison, bar: float) -> bool | None:
    """Whether a ratio is above its bar, not only at it; None as of `verdict`."""
    if found.confidence < CONFIDENCE or found.low <= bar < found.high:
        return None
    return found.low > bar


def _rank(count: int) -> int:
    """How many values may be cut off at each end."""
    tails: Iterator[float] = accumulate(comb(count, k) / 2.0**count for k in range(count // 2))
    fitting = sum(2 * tail <= 1 - CONFIDENCE for tail in tails)
    return max(fitting - 1, 0)


def _confidence(count: int, rank: int) -> float:
    """The median is outside when at most `rank` values lie on one of its sides."""
    outside: int = 2 * sum(comb(count, below) for below in range(rank + 1))
    return float(max(0.0, 1 - outside / 2.0**count))
