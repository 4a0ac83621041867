"""What a step's time is made of, fitted to recent steps. The operator's scaling law reads it. Pure.

    seconds ≈ base + prompt_token · p + row · r + kv_token · k + drafted_token · d

p prompt tokens, r answers, k earlier tokens that these read, d tokens drafted for them. Errors
count relative to the step's time; no part can be negative.
"""

from collections import deque
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from aweigh_runtime.engine.messages import StepFit

MIN_STEPS = 32
_MAX_STEPS = 512  # as many of the last ones as are fitted
_REFIT_STEPS = 64


@dataclass(frozen=True, slots=True)
class Load:
    """What a step computed."""

    prompt_tokens: int
    rows: int
    kv_tokens: int
    drafted_tokens: int


class StepFitter:
    """Keeps recent steps, and fits them now and then."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, ...]] = deque(maxlen=_MAX_STEPS)
        self._since = 0
        self._fit: StepFit | None = None

    def observe(self, load: Load, seconds: float) -> None:
        """One step is done."""
        self._steps.append((1.0, *map(float, astuple(load)), seconds))
        self._since += 1

    @property
    def fit(self) -> StepFit | None:
        """Of the last steps; None: there are too few."""
        due = self._fit is None or self._since >= _REFIT_STEPS
        if due and len(self._steps) >= MIN_STEPS:
            self._fit = _fitted(np.array(self._steps))
            self._since = 0
        return self._fit


def _fitted(steps: npt.NDArray[np.float64]) -> StepFit:
    seconds = np.maximum(steps[:, -1], 1e-9)
    parts = steps[:, :-1] / seconds[:, None]  # so that every step should give 1
    costs = np.zeros(parts.shape[1])
    used = [column for column in range(parts.shape[1]) if parts[:, column].any()]
    while used:
        scale = np.abs(parts[:, used]).max(0)
        found = np.linalg.lstsq(parts[:, used] / scale, np.ones(len(parts)), rcond=None)[0] / scale
        if found.min() >= 0.0:
            costs[used] = found
            break
        del used[int(found.argmin())]  # what seems to save time is left out
    error = float(np.median(np.abs(parts @ costs - 1.0)))
    base, prompt_token, row, kv_token, drafted_token = map(float, costs)
    return StepFit(base, prompt_token, row, kv_token, drafted_token, len(steps), error)
