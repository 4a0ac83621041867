"""`/metrics`: the figures of API process and engine, under our names and under vLLM's."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from aweigh_api import metrics
from aweigh_runtime.server.figures import Histogram
from aweigh_runtime.server.service import Service

_HELP = {
    metrics.REQUESTS_RUNNING: "Answers that are being computed.",
    metrics.REQUESTS_WAITING: "Answers that wait for a place.",
    metrics.REQUESTS: "Answers that have ended.",
    metrics.PROMPT_TOKENS: "Prompt tokens computed.",
    metrics.GENERATED_TOKENS: "Tokens generated.",
    metrics.TIME_TO_FIRST_TOKEN: "From a request's arrival to its first token.",
    metrics.INTER_TOKEN_LATENCY: "From one token of an answer to the next.",
    metrics.REQUEST_LATENCY: "From a request's arrival to the end of its answer.",
    metrics.STEP_DURATION: "One forward pass with scheduling and sampling.",
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
        yield from self._ended()
        yield from self._counters(metrics.PROMPT_TOKENS, stepped.counters.computed_prompt_tokens)
        yield from self._counters(metrics.GENERATED_TOKENS, stepped.counters.generated_tokens)
        yield from self._histograms(metrics.TIME_TO_FIRST_TOKEN, figures.time_to_first_token)
        yield from self._histograms(metrics.INTER_TOKEN_LATENCY, figures.inter_token_latency)
        yield from self._histograms(metrics.REQUEST_LATENCY, figures.request_latency)
        yield from self._histograms(metrics.STEP_DURATION, figures.step_duration)

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


def _names(name: str) -> list[str]:
    alias = metrics.VLLM_ALIASES.get(name)
    return [name] if alias is None else [name, alias]
