"""Prometheus metrics of the operator, under controller-runtime's names where it has one."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from aweigh_operator.observe import Key
from aweigh_operator.scaling.decision import Decision

CONTROLLER = "inferenceservice"
_DURATIONS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Readiness(NamedTuple):
    """What is measured of an InferenceService."""

    ready: str  # status of Ready
    workload_ready: str  # and of WorkloadReady
    missing: int = 0  # pods that are wanted and do not serve
    suspended: bool = False  # the user wants no pod: it is not ready, and that is no news


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
        self._services = self._gauge(
            "aweigh_operator_inference_services",
            "InferenceServices, by the status of Ready and of WorkloadReady.",
            "ready",
            "workload_ready",
        )
        self._missing = self._gauge(
            "aweigh_operator_missing_pods",
            "Pods that are wanted and do not serve, of InferenceServices that answer all the same.",
            "namespace",
            "name",
        )
        self._unready = self._gauge(
            "aweigh_operator_not_ready",
            "1 for each InferenceService whose Ready is not True, but for suspended ones.",
            "namespace",
            "name",
        )
        self._decisions = self._counter(
            "aweigh_operator_scaling_decisions_total",
            "Decisions about the number of pods, by reason.",
            "reason",
        )
        self._desired = self._gauge(
            "aweigh_operator_desired_replicas",
            "Pods that the load asks for, of InferenceServices with scaling.",
            "namespace",
            "name",
        )
        self._leads = self._gauge(
            "leader_election_master_status", "1 while this operator works.", "name"
        )
        self._readiness: dict[Key, Readiness] = {}

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
        self._desired.labels(*key).set(decision.replicas)

    def unscaled(self, key: Key) -> None:
        """Nobody decides about the number of pods any more."""
        _remove(self._desired, key)

    def leads(self, leads: bool) -> None:
        """This operator works, or stands by: then another one tells of the services."""
        self._leads.labels(CONTROLLER).set(leads)
        if not leads:
            self._readiness.clear()
            self._services.clear()
            self._missing.clear()
            self._unready.clear()
            self._desired.clear()

    def service(self, key: Key, now: Readiness | None) -> None:
        """So ready is an InferenceService; None: it is gone.

        Those that are ready and lack no pods have no series of their own: of thousands few do.
        """
        if now is not None and now.ready != "True" and not now.suspended:
            self._unready.labels(*key).set(1)
        else:
            _remove(self._unready, key)
        lacks = now is not None and (now.ready, now.workload_ready) == ("True", "False")
        if now is not None and lacks and now.missing:
            self._missing.labels(*key).set(now.missing)
        else:
            _remove(self._missing, key)
        before = self._readiness.pop(key, None)
        if before is not None:
            self._services.labels(before.ready, before.workload_ready).dec()
        if now is not None:
            self._readiness[key] = now
            self._services.labels(now.ready, now.workload_ready).inc()

    def text(self) -> bytes:
        """The metrics as Prometheus reads them."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=_DURATIONS_S)


def _remove(gauge: Gauge, key: Key) -> None:
    with contextlib.suppress(KeyError):
        gauge.remove(*key)
