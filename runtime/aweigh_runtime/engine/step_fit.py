"""What a step's time is made of, fitted to recent steps. The operator's scaling law reads it. Pure.

    seconds ≈ base + prompt_token · p + row · r + kv_token · k + drafted_token · d

p prompt tokens, r answers, k earlier tokens that these read, d tokens drafted for them. Errors
count relative to the step's time; no part can be negative.

Least squares, recursive: old steps are forgotten by and by, sums stand for all of them. Traffic
that stays the same cannot tell the parts from each other; steps of the warm-up can, which vary all
of them, and are never forgotten. Steps with drafts have a fit of their own: their base is another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aweigh_runtime.engine.messages import StepFit

MIN_STEPS = 32
_MEMORY_S = 20.0  # of computing, after which a step counts for a third
_MEMORY_STEPS = 256  # at least, where steps are long
_REFIT_STEPS = 64
_KNOWN_SHARE = 0.003  # weight of the warm-up beside recent steps: these decide what they tell
_PARTS = 5

Floats = npt.NDArray[np.float64]


class Load(NamedTuple):
    """What a step computed."""

    prompt_tokens: int
    rows: int
    kv_tokens: int
    drafted_tokens: int


class Timed(NamedTuple):
    """A step whose time was taken."""

    load: Load
    seconds: float


@dataclass(slots=True)
class _Sums:
    """Over steps, the later the more, of their parts per second: x, which should give 1."""

    weight: float = 0.0
    ones: Floats = field(default_factory=lambda: np.zeros(_PARTS))  # x
    products: Floats = field(default_factory=lambda: np.zeros((_PARTS, _PARTS)))  # x · x^T

    def add(self, parts: Floats, seconds: Floats, *, forget: bool = True) -> None:
        """More steps, in the order in which they were computed."""
        if not len(seconds):
            return
        kept = np.maximum(np.exp(-seconds / _MEMORY_S), 1.0 - 1.0 / _MEMORY_STEPS)
        behind = np.append(np.cumprod(kept[::-1])[::-1], 1.0) if forget else np.ones(len(kept) + 1)
        weights, x = behind[1:], parts / seconds[:, None]
        self.weight = behind[0] * self.weight + weights.sum()
        self.ones = behind[0] * self.ones + weights @ x
        self.products = behind[0] * self.products + (x * weights[:, None]).T @ x

    def beside(self, known: "_Sums") -> "_Sums":
        """These, and what is known of old as a small share of them."""
        share = _KNOWN_SHARE * self.weight / known.weight if known.weight else 0.0
        return _Sums(
            self.weight + share * known.weight,
            self.ones + share * known.ones,
            self.products + share * known.products,
        )

    def costs(self) -> Floats:
        """Of each part, in seconds: those with the least squared errors."""
        costs, scale = np.zeros(_PARTS), np.sqrt(self.products.diagonal())
        used = [part for part in range(_PARTS) if scale[part] > 0.0]
        while used:
            grid = np.ix_(used, used)
            scaled = self.products[grid] / np.outer(scale[used], scale[used])
            found = np.linalg.lstsq(scaled, self.ones[used] / scale[used], rcond=1e-12)[0]
            if found.min() >= 0.0:
                costs[used] = found / scale[used]
                break
            del used[int(found.argmin())]  # what seems to save time is left out
        return costs

    def error(self, costs: Floats) -> float:
        """Root of the mean square, relative."""
        squares = costs @ self.products @ costs - 2.0 * costs @ self.ones + self.weight
        return float(np.sqrt(np.maximum(squares, 0.0) / self.weight))


class StepFitter:
    """Takes in all steps, and fits them now and then."""

    def __init__(self, known: Sequence[Timed] = ()) -> None:
        """`known`: steps of the warm-up."""
        self._known, self._plain, self._drafting = _Sums(), _Sums(), _Sums()
        self._known.add(*_arrays(known), forget=False)
        self._recent: list[Timed] = []  # since the last fit
        self._fit: StepFit | None = None

    def observe(self, load: Load, seconds: float) -> None:
        """One step is done."""
        self._recent.append(Timed(load, seconds))

    @property
    def fit(self) -> StepFit | None:
        """Of the last steps; None: there are too few."""
        if len(self._recent) >= (_REFIT_STEPS if self._fit is not None else MIN_STEPS):
            self._refit()
        return self._fit

    def _refit(self) -> None:
        parts, seconds = _arrays(self._recent)
        self._recent.clear()
        _, _, rows, _, drafted_tokens = parts.T
        answering, drafted = rows > 0, drafted_tokens > 0
        of_both = ~answering  # prompts alone take the same time
        self._plain.add(parts[~drafted], seconds[~drafted])
        self._drafting.add(parts[drafted | of_both], seconds[drafted | of_both])
        mostly = 2 * np.count_nonzero(drafted) > np.count_nonzero(answering)
        sums = self._drafting if mostly else self._plain
        if sums.weight < MIN_STEPS:
            sums = self._plain if self._plain.weight > self._drafting.weight else self._drafting
        costs = sums.beside(self._known).costs()
        base, prompt_token, row, kv_token, drafted_token = map(float, costs)
        self._fit = StepFit(
            base,
            prompt_token,
            row,
            kv_token,
            drafted_token,
            samples=round(sums.weight),
            error=sums.error(costs),
        )


def _arrays(steps: Sequence[Timed]) -> tuple[Floats, Floats]:
    parts = np.array([(1.0, *step.load) for step in steps]).reshape(-1, _PARTS)
    return parts, np.maximum([step.seconds for step in steps], 1e-9)
