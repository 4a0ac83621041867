"""InferenceServices in tests: apply one, wait for what its status says."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aweigh_api import names
from tests.api.refusals import manifest
from tests.cli.command import aweigh, environment
from tests.cluster.cluster import Cluster

Condition = dict[str, Any]


@dataclass(frozen=True)
class Service:
    """One InferenceService on the cluster."""

    cluster: Cluster
    namespace: str
    name: str = "chat"

    def apply(self, **spec: Any) -> float:
        """Apply the spec; returns the moment, on the monotonic clock."""
        parts = {"model": {"uri": "builtin://helmsman-8m"}, **spec}
        self.cluster.apply(manifest(self.name, parts), self.namespace)
        return time.monotonic()

    def body(self) -> dict[str, Any]:
        """The object as the API server has it."""
        body = self.cluster.get("infs", self.name, self.namespace)
        assert body is not None, f"InferenceService {self.namespace}/{self.name} is gone"
        return body

    def status(self) -> dict[str, Any]:
        """Its status; empty before the operator has written one."""
        status: dict[str, Any] = self.body().get("status", {})
        return status

    def condition(self, type_: str) -> Condition:
        """One condition; empty when it is not there."""
        conditions = self.status().get("conditions", [])
        return next((each for each in conditions if each["type"] == type_), {})

    def wait_ready(self, timeout_s: float = 60) -> None:
        """Until the current generation is applied and all its pods serve, as they were meant."""

        def ready() -> bool:
            body = self.body()
            status = body.get("status", {})
            conditions = {each["type"]: each for each in status.get("conditions", [])}
            current = bool(status.get("observedGeneration") == body["metadata"]["generation"])
            wanted = ("Ready", "SpecValid", "WorkloadReady")
            parts = (conditions.get(kind, {}) for kind in wanted)
            return current and all(each.get("status") == "True" for each in parts)

        self.cluster.wait(f"InferenceService {self.name} Ready", ready, timeout_s)
        applied = self.condition("SpecValid")
        assert applied["reason"] == "Valid", applied["message"]

    def wait_for_reason(self, type_: str, reason: str, timeout_s: float = 120) -> Condition:
        """Until a condition has the reason; returns it."""
        self._wait(lambda: self.condition(type_).get("reason") == reason, type_, reason, timeout_s)
        return self.condition(type_)

    def _wait(self, holds: Callable[[], bool], type_: str, reason: str, timeout_s: float) -> None:
        self.cluster.wait(f"{type_} of {self.name} to be {reason}", holds, timeout_s)

    def aweigh(self, *given: str) -> "subprocess.CompletedProcess[str]":
        """The command line in its namespace, with kubectl and the cluster's kubeconfig."""
        known = self.cluster.environment()
        kept = {name: known[name] for name in ("KUBECONFIG", "PATH") if name in known}
        return aweigh(*given, "-n", self.namespace, env=environment(**kept))

    def serving(self) -> int:
        """Pods that serve."""
        found: int = self.status().get("readyReplicas", 0)
        return found

    def size(self) -> int:
        """Pods that its Deployment asks for."""
        deployment = self.cluster.get("deployment", self.name, self.namespace)
        assert deployment is not None
        found: int = deployment["spec"]["replicas"]
        return found

    def pods(self) -> list[dict[str, Any]]:
        """Its pods, routers apart."""
        others = f"{names.LABEL_NAME}!={names.ROUTER}"
        selector = f"{names.LABEL_INSTANCE}={self.name},{others}"
        return list(self.cluster.list("pods", self.namespace, selector))

    def restarts(self, name: str) -> int:
        """How often a pod's container was started again."""
        found = (pod for pod in self.pods() if pod["metadata"]["name"] == name)
        return sum(each["restartCount"] for pod in found for each in _containers(pod))

    def routers(self) -> list[dict[str, Any]]:
        """Its routers' pods."""
        selector = ",".join(f"{k}={v}" for k, v in names.router_selector(self.name).items())
        return list(self.cluster.list("pods", self.namespace, selector))


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return list(pod["status"].get("containerStatuses", ()))
