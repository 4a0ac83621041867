"""Prometheus metrics of the operator, under controller-runtime's names where it has one."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from aweigh_operator.gauges import ServiceGauges
from aweigh_operator.observe import Key
from aweigh_operator.scaling.decision import Decision

CONTROLLER = "inferenceservice"
_DURATIONS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """All counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._depth = self._gauge("workqueue_depth", "Keys that wait for a worker.", "name")
        self._adds = self._counter("workqueue_adds_total", "Keys added to the queue.", "name")
        self._waited = self._histogram(
            "workqueue_queue_duration_seconds", "How long a key waited for a worker.", "name"
        )
        self._reconciles = self._counter(
            "controller_runtime_reconcile_total", "Reconciles, by result.", "controller", "result"
        )
        self._errors = self._counter(
            "controller_runtime_reconcile_errors_total", "Reconciles that failed.", "controller"
        )
        self._durations = self._histogram(
            "controller_runtime_reconcile_time_seconds", "How long a reconcile took.", "controller"
        )
        self._requests = self._counter(
            "rest_client_requests_total",
            "Requests to the API server; code 0: no answer.",
            "method",
            "code",
        )
        self._events = self._counter(
            "aweigh_operator_events_total",
            "Kubernetes events written, by type, and those dropped.",
            "type",
        )
        self._writes = self._counter(
            "aweigh_operator_child_writes_total",
            "Objects created, updated and deleted.",
            "kind",
            "verb",
        )
        self._decisions = self._counter(
            "aweigh_operator_scaling_decisions_total",
            "Decisions about the number of pods, by reason.",
            "reason",
        )
        self._leads = self._gauge(
            "leader_election_master_status", "1 while this operator works.", "name"
        )
        self.services = ServiceGauges(self.registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is computed when it is read."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def added(self, depth: int) -> None:
        """A key waits."""
        self._adds.labels(CONTROLLER).inc()
        self._depth.labels(CONTROLLER).set(depth)

    def started(self, depth: int, waited_s: float) -> None:
        """A worker took a key."""
        self._depth.labels(CONTROLLER).set(depth)
        self._waited.labels(CONTROLLER).observe(waited_s)

    def finished(self, worked_s: float, error: bool) -> None:
        """A worker is done with a key."""
        self._durations.labels(CONTROLLER).observe(worked_s)
        self._reconciles.labels(CONTROLLER, "error" if error else "success").inc()
        if error:
            self._errors.labels(CONTROLLER).inc()

    def requested(self, method: str, code: int) -> None:
        """The API server answered."""
        self._requests.labels(method, str(code)).inc()

    def told(self, kind: str) -> None:
        """An event was written or dropped."""
        self._events.labels(kind).inc()

    def wrote(self, kind: str, verb: str) -> None:
        """A child was written."""
        self._writes.labels(kind, verb).inc()

    def decided(self, key: Key, decision: Decision) -> None:
        """The number of pods was decided anew."""
        self._decisions.labels(decision.reason).inc()
        self.services.desired(key, decision.replicas)

    def leads(self, leads: bool) -> None:
        """This operator works, or stands by: then another one tells of the services."""
        self._leads.labels(CONTROLLER).set(leads)
        if not leads:
            self.services.clear()

    def text(self) -> bytes:
        """The metrics as Prometheus reads them."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=_DURATIONS_S)
