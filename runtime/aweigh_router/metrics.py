"""Prometheus metrics of a router. They exist at zero pods, too."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_WAITS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)
_WHY = ("no_room", "moved", "died")


class Metrics:
    """All figures, in a registry of their own."""

    def __init__(self, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._model = model_name
        self._requests = self._counter(
            "aweigh_router_requests", "Requests that have ended, by status.", "status"
        )
        self._retries = self._counter(
            "aweigh_router_retries",
            "Requests that a pod did not answer, by why: no_room, died, or moved for all else.",
            "reason",
        )
        self._resumed = self._counter(
            "aweigh_router_resumed_streams", "Streams that another pod went on with."
        )
        self._waits = Histogram(
            "aweigh_router_wait_seconds",
            "From a request's arrival to the pod that takes it.",
            ["model_name"],
            registry=self._registry,
            buckets=_WAITS_S,
        ).labels(model_name)
        for reason in _WHY:  # so that a rate is defined before the first
            self._retries.labels(model_name, reason)
        self._resumed.labels(model_name)

    def watch(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """A figure that is read when Prometheus asks."""
        gauge = Gauge(name, documentation, ["model_name"], registry=self._registry)
        gauge.labels(self._model).set_function(value)

    def ended(self, status: int) -> None:
        """A request is over."""
        self._requests.labels(self._model, str(status)).inc()

    def waited(self, seconds: float) -> None:
        """A pod takes a request."""
        self._waits.observe(seconds)

    def retried(self, reason: str) -> None:
        """A pod has not answered a request."""
        self._retries.labels(self._model, reason).inc()

    def resumed(self) -> None:
        """A stream goes on elsewhere."""
        self._resumed.labels(self._model).inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, ["model_name", *labels], registry=self._registry)
