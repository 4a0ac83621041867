"""`/metrics`: the figures of API process and engine, under our names and under vLLM's."""

from collections.abc import Iterator, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from aweigh_api import metrics
from aweigh_runtime.engine.messages import Counters, SpeculationState, Stepped
from aweigh_runtime.server.figures import Histogram
from aweigh_runtime.server.service import Service

_HELP = {
    metrics.REQUESTS_RUNNING: "Answers that are being computed.",
    metrics.REQUESTS_WAITING: "Answers that wait for a place.",
    metrics.REQUESTS: "Answers that have ended.",
    metrics.TURNED_AWAY: "Requests refused because the queue was full.",
    metrics.PROMPT_TOKENS: "Prompt tokens read, computed or from the cache.",
    metrics.CACHED_PROMPT_TOKENS: "Prompt tokens that were not computed.",
    metrics.GENERATED_TOKENS: "Tokens generated.",
    metrics.KV_CACHE_USAGE: "Share of the memory for keys and values that running requests hold.",
    metrics.PREFIX_CACHE_QUERIES: "Prompt tokens looked up in the prefix cache.",
    metrics.PREFIX_CACHE_HITS: "Prompt tokens found there.",
    metrics.PREFIX_CACHE_EVICTIONS: "Cached blocks that made room for others.",
    metrics.HOST_STORED_BLOCKS: "Evicted blocks that were kept in host memory.",
    metrics.HOST_LOADED_BLOCKS: "Blocks that came back from host memory.",
    metrics.PREEMPTIONS: "Answers that gave up their memory and were begun again.",
    metrics.DRAFTS: "Steps of answers for which tokens were guessed.",
    metrics.DRAFTED_TOKENS: "Tokens that were guessed.",
    metrics.DRAFTED_TOKENS_AT: "Tokens that were guessed, by their place in a guess.",
    metrics.ACCEPTED_TOKENS: "Guessed tokens that became part of an answer.",
    metrics.ACCEPTED_TOKENS_AT: "The same, by their place in a guess.",
    metrics.SPECULATION: "Whether tokens are guessed: 1 for the state that it is in.",
    metrics.TIME_TO_FIRST_TOKEN: "From a request's arrival to its first token.",
    metrics.INTER_TOKEN_LATENCY: "From one token of an answer to the next.",
    metrics.REQUEST_LATENCY: "From a request's arrival to the end of its answer.",
    metrics.STEP_DURATION: "One forward pass with scheduling and sampling.",
    metrics.STEP_TOKENS: "Tokens of one forward pass.",
    metrics.QUEUE_TIME: "From an answer's arrival in the engine to its first step.",
    metrics.PREFILL_TIME: "From an answer's first step to its first token.",
    metrics.DECODE_TIME: "From an answer's first token to its last.",
    metrics.INFERENCE_TIME: "From an answer's first step to its last token.",
    metrics.TIME_PER_OUTPUT_TOKEN: "An answer's mean time for each token but the first.",
    metrics.REQUEST_PROMPT_TOKENS: "Prompt tokens of an answer.",
    metrics.REQUEST_GENERATED_TOKENS: "Tokens of an answer.",
}
_REASON_LABEL = {metrics.VLLM_ALIASES[metrics.REQUESTS]: "finished_reason"}


class Metrics(Collector):
    """Reads the figures when Prometheus asks."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._model_name = service.config.model_name
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        stepped, figures = self._service.engine.stepped, self._service.figures
        yield from self._gauges(metrics.REQUESTS_RUNNING, stepped.running)
        yield from self._gauges(metrics.REQUESTS_WAITING, stepped.waiting)
        kv = stepped.kv
        yield from self._gauges(metrics.KV_CACHE_USAGE, kv.held / max(kv.capacity, 1))
        yield from self._ended()
        yield from self._counters(metrics.TURNED_AWAY, figures.num_turned_away)
        for name, count in _counts(stepped.counters).items():
            yield from self._counters(name, count)
        if self._service.config.speculation_method != "none":
            yield from self._drafts(stepped)
        for name, histogram in figures.histograms.items():
            yield from self._histograms(name, histogram)

    def _gauges(self, name: str, value: float) -> Iterator[Metric]:
        for each in _names(name):
            family = GaugeMetricFamily(each, _HELP[name], labels=[metrics.MODEL_LABEL])
            family.add_metric([self._model_name], value)
            yield family

    def _counters(self, name: str, value: float) -> Iterator[Metric]:
        for each in _names(name):
            family = CounterMetricFamily(each, _HELP[name], labels=[metrics.MODEL_LABEL])
            family.add_metric([self._model_name], value)
            yield family

    def _histograms(self, name: str, histogram: Histogram) -> Iterator[Metric]:
        for each in _names(name):
            family = HistogramMetricFamily(each, _HELP[name], labels=[metrics.MODEL_LABEL])
            family.add_metric([self._model_name], histogram.buckets(), histogram.sum)
            yield family

    def _drafts(self, stepped: Stepped) -> Iterator[Metric]:
        """All places from the start, so that a rate is defined before the first guess."""
        counters, places = stepped.counters, self._service.config.max_draft_tokens
        drafted, accepted = (
            [*at[:places], *[0] * (places - len(at))]
            for at in (counters.drafted_at, counters.accepted_at)
        )
        yield from self._counters(metrics.DRAFTS, drafted[0])  # each has a first token
        yield from self._counters(metrics.DRAFTED_TOKENS, counters.drafted_tokens)
        yield from self._counters(metrics.ACCEPTED_TOKENS, counters.accepted_tokens)
        yield from self._by_place(metrics.DRAFTED_TOKENS_AT, drafted)
        yield from self._by_place(metrics.ACCEPTED_TOKENS_AT, accepted)
        family = GaugeMetricFamily(
            metrics.SPECULATION, _HELP[metrics.SPECULATION], labels=[metrics.MODEL_LABEL, "state"]
        )
        now = None if stepped.speculation is None else stepped.speculation.state
        for state in get_args(SpeculationState):
            family.add_metric([self._model_name, state], float(state == now))
        yield family

    def _by_place(self, name: str, counts: Sequence[int]) -> Iterator[Metric]:
        for each in _names(name):
            family = CounterMetricFamily(
                each, _HELP[name], labels=[metrics.MODEL_LABEL, "position"]
            )
            for place, count in enumerate(counts):
                family.add_metric([self._model_name, str(place)], count)
            yield family

    def _ended(self) -> Iterator[Metric]:
        """All reasons from the start, so that a rate is defined before the first one happens."""
        for each in _names(metrics.REQUESTS):
            label = _REASON_LABEL.get(each, "finish_reason")
            family = CounterMetricFamily(
                each, _HELP[metrics.REQUESTS], labels=[metrics.MODEL_LABEL, label]
            )
            for reason in ("stop", "length", "abort", "error"):
                values = [self._model_name, reason]
                family.add_metric(values, self._service.figures.ended[reason])
            yield family


def _counts(counters: Counters) -> dict[str, float]:
    cached = counters.cached_prompt_tokens
    return {
        metrics.PROMPT_TOKENS: counters.computed_prompt_tokens + cached,
        metrics.CACHED_PROMPT_TOKENS: cached,
        metrics.GENERATED_TOKENS: counters.generated_tokens,
        metrics.PREFIX_CACHE_QUERIES: counters.looked_up_prompt_tokens,
        metrics.PREFIX_CACHE_HITS: cached,
        metrics.PREFIX_CACHE_EVICTIONS: counters.evicted_blocks,
        metrics.HOST_STORED_BLOCKS: counters.host_stored_blocks,
        metrics.HOST_LOADED_BLOCKS: counters.host_loaded_blocks,
        metrics.PREEMPTIONS: counters.preemptions,
    }


def _names(name: str) -> list[str]:
    alias = metrics.VLLM_ALIASES.get(name)
    return [name] if alias is None else [name, alias]
