"""When the tokens of one answer came, as the metrics tell it. Time comes in as an argument."""

from collections.abc import Callable

from aweigh_api import metrics

Observe = Callable[[str, float], None]  # a metric's name and a value


class Timing:
    """Feed it every arrival of tokens, and the end."""

    def __init__(self, started_s: float, observe: Observe) -> None:
        self._started_s = started_s  # when the request arrived
        self._observe = observe
        self._queued_s = 0.0
        self._first_s: float | None = None
        self._last_s = started_s
        self._num_tokens = 0

    @property
    def first_token_s(self) -> float | None:
        """From the request's arrival to the answer's first token."""
        return None if self._first_s is None else self._first_s - self._started_s

    def arrived(self, now_s: float, num_tokens: int, queued_s: float | None) -> None:
        """Some tokens have come; the first ones say how long the answer had waited."""
        if self._first_s is None:
            self._first_s = now_s
            self._queued_s = queued_s or 0.0
            self._observe(metrics.TIME_TO_FIRST_TOKEN, now_s - self._started_s)
        else:
            for _ in range(num_tokens):
                self._observe(metrics.INTER_TOKEN_LATENCY, (now_s - self._last_s) / num_tokens)
        self._last_s = now_s
        self._num_tokens += num_tokens

    def ended(self, num_prompt_tokens: int) -> None:
        """The answer is complete."""
        if self._first_s is None:
            return
        decode_s = self._last_s - self._first_s
        inference_s = max(self._last_s - self._started_s - self._queued_s, 0.0)
        self._observe(metrics.QUEUE_TIME, self._queued_s)
        self._observe(metrics.PREFILL_TIME, max(inference_s - decode_s, 0.0))
        self._observe(metrics.DECODE_TIME, decode_s)
        self._observe(metrics.INFERENCE_TIME, inference_s)
        if self._num_tokens > 1:
            self._observe(metrics.TIME_PER_OUTPUT_TOKEN, decode_s / (self._num_tokens - 1))
        self._observe(metrics.REQUEST_PROMPT_TOKENS, num_prompt_tokens)
        self._observe(metrics.REQUEST_GENERATED_TOKENS, self._num_tokens)
