"""What the API process counts. Plain numbers; `metrics` and `/state` read them."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from aweigh_api import metrics

# Finer below 10 ms than vLLM's: a GPU decodes in 5 ms.
TOKEN_BOUNDS_S = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5,
    0.75, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
REQUEST_BOUNDS_S = (
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip

TOKENS = tuple(float(step * 10**power) for power in range(7) for step in (1, 2, 5))
STEP_TOKENS = (1.0, *(float(2**power) for power in range(3, 15)))
_BOUNDS: dict[str, Sequence[float]] = {
    metrics.TIME_TO_FIRST_TOKEN: REQUEST_BOUNDS_S,
    metrics.INTER_TOKEN_LATENCY: TOKEN_BOUNDS_S,
    metrics.REQUEST_LATENCY: REQUEST_BOUNDS_S,
    metrics.STEP_DURATION: TOKEN_BOUNDS_S,
    metrics.STEP_TOKENS: STEP_TOKENS,
    metrics.QUEUE_TIME: REQUEST_BOUNDS_S,
    metrics.PREFILL_TIME: REQUEST_BOUNDS_S,
    metrics.DECODE_TIME: REQUEST_BOUNDS_S,
    metrics.INFERENCE_TIME: REQUEST_BOUNDS_S,
    metrics.TIME_PER_OUTPUT_TOKEN: TOKEN_BOUNDS_S,
    metrics.REQUEST_PROMPT_TOKENS: TOKENS,
    metrics.REQUEST_GENERATED_TOKENS: TOKENS,
}


class Histogram:
    """Counts of observations by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts, as Prometheus wants them."""
        total, result = 0, []
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            result.append((bound, float(total)))
        return result


class Figures:
    """Sums since the start."""

    def __init__(self) -> None:
        # A request is one prompt with all answers to it. Those that are turned away because the
        # queue is full have arrived, those that no server could answer have not.
        self.arrived_requests = 0
        self.arrived_prompt_tokens = 0
        self.num_turned_away = 0
        self.finished_requests = 0  # answered to their end
        self.finished_output_tokens = 0
        self.ended: Counter[str] = Counter()  # by finish reason; abort and error among them
        self.histograms = {
            name: Histogram(bounds) for name, bounds in _BOUNDS.items()
        }  # by the metric's name

    def arrived(self, requests: int, prompt_tokens: int) -> None:
        """Valid ones have come."""
        self.arrived_requests += requests
        self.arrived_prompt_tokens += prompt_tokens

    def turned_away(self, requests: int) -> None:
        """There was no room for them: nobody knows their tokens, so they count as the others."""
        self.num_turned_away += requests
        known = max(self.arrived_requests, 1)
        self.arrived(requests, round(requests * self.arrived_prompt_tokens / known))

    def observe(self, name: str, value: float) -> None:
        """Count one value of the metric `name`."""
        self.histograms[name].observe(value)
