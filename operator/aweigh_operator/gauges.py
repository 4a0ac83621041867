"""Gauges with a series for each InferenceService that has something to tell by it."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Gauge

from aweigh_api.reasons import Reason
from aweigh_operator.observe import Key

_ONE = ("namespace", "name")
_HELD = (Reason.AT_MAXIMUM, Reason.REPORTS_MISSING, Reason.UNSCHEDULABLE)


class Readiness(NamedTuple):
    """What is measured of an InferenceService."""

    ready: str  # status of Ready
    workload_ready: str  # and of WorkloadReady
    missing: int = 0  # pods that are wanted and do not serve
    suspended: bool = False  # the user wants no pod: it is not ready, and that is no news


class ServiceGauges:
    """How InferenceServices are, in somebody's registry.

    Those that are ready and lack no pods have no series of their own: of thousands few do.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._services = Gauge(
            "aweigh_operator_inference_services",
            "InferenceServices, by the status of Ready and of WorkloadReady.",
            ("ready", "workload_ready"),
            registry=registry,
        )
        self._missing = Gauge(
            "aweigh_operator_missing_pods",
            "Pods that are wanted and do not serve, of InferenceServices that answer all the same.",
            _ONE,
            registry=registry,
        )
        self._unready = Gauge(
            "aweigh_operator_not_ready",
            "1 for each InferenceService whose Ready is not True, but for suspended ones.",
            _ONE,
            registry=registry,
        )
        self._desired = Gauge(
            "aweigh_operator_desired_replicas",
            "Pods that the load asks for, of InferenceServices with scaling.",
            _ONE,
            registry=registry,
        )
        self._held = Gauge(
            "aweigh_operator_scaling_held",
            "1 for each InferenceService whose number of pods cannot follow its load, by reason.",
            (*_ONE, "reason"),
            registry=registry,
        )
        self._readiness: dict[Key, Readiness] = {}

    def ready(self, key: Key, now: Readiness) -> None:
        """So ready is an InferenceService."""
        _set(self._unready, key, 1 if now.ready != "True" and not now.suspended else None)
        lacks = (now.ready, now.workload_ready) == ("True", "False") and now.missing > 0
        _set(self._missing, key, now.missing if lacks else None)
        self._uncount(key)
        self._readiness[key] = now
        self._services.labels(now.ready, now.workload_ready).inc()

    def desired(self, key: Key, replicas: int | None) -> None:
        """The load asks for so many pods; None: nobody decides about their number any more."""
        _set(self._desired, key, replicas)

    def scaled(self, key: Key, reason: str | None) -> None:
        """This is why it has as many pods as it has; None: its load does not decide about them."""
        for each in _HELD:
            _set(self._held, (*key, each), 1 if each == reason else None)

    def forget(self, key: Key) -> None:
        """It is gone."""
        self.scaled(key, None)
        for gauge in (self._missing, self._unready, self._desired):
            _set(gauge, key, None)
        self._uncount(key)

    def clear(self) -> None:
        """Another operator tells of all of them."""
        self._readiness.clear()
        for gauge in (self._services, self._missing, self._unready, self._desired, self._held):
            gauge.clear()

    def _uncount(self, key: Key) -> None:
        before = self._readiness.pop(key, None)
        if before is not None:
            self._services.labels(before.ready, before.workload_ready).dec()


def _set(gauge: Gauge, labels: Sequence[str], value: int | None) -> None:
    """The service's series has this value; None: it has no series."""
    if value is not None:
        gauge.labels(*labels).set(value)
        return
    with contextlib.suppress(KeyError):
        gauge.remove(*labels)
