"""Rollouts on a node that has no room for one pod more, under load."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.e2e.load import Load
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

SMALL = {"uri": "builtin://helmsman-1m-draft"}
PATIENCE_S = 60.0


@pytest.fixture
def service(cluster: Cluster, operator: None, namespace: str) -> Service:
    return Service(cluster, namespace)


def large(service: Service, share: float) -> dict[str, Any]:
    """Resources of a pod that takes this part of the node's processors."""
    (node,) = service.cluster.list("nodes")
    cores = int(node["status"]["allocatable"]["cpu"])
    return {"requests": {"cpu": f"{int(1000 * cores * share)}m"}}


def environment(value: str) -> dict[str, Any]:
    return {"env": [{"name": "ROLLOUT", "value": value}]}


def values(service: Service) -> list[str]:
    """What the ready pods of a service have in their environment."""
    return sorted(
        each["value"]
        for pod in service.pods()
        if "deletionTimestamp" not in pod["metadata"]
        for each in pod["spec"]["containers"][0]["env"]
        if each["name"] == "ROLLOUT"
    )


def test_two_pods_are_replaced_in_their_places_and_no_request_is_lost(
    service: Service, tell: Callable[[str], None]
) -> None:
    resources = large(service, 0.35)  # two fit, and no third
    spec: dict[str, Any] = {"model": SMALL, "replicas": 2, "resources": resources}
    service.apply(**spec, template=environment("one"))
    service.wait_ready()
    with service.cluster.endpoint(service.namespace, service.name, 8000) as url:
        load = Load(f"{url}/v1/completions")
        service.cluster.wait("the Service to answer", lambda: load.problem("Hello") is None)
        with load():
            begun = time.monotonic()
            service.apply(**spec, template=environment("two"))
            service.cluster.wait(
                "both pods to be new", lambda: values(service) == ["two", "two"], PATIENCE_S + 120
            )
            service.wait_ready()
            took_s = time.monotonic() - begun
    assert load.failures == []
    assert load.answered > 100
    assert took_s >= PATIENCE_S
    tell(f"two pods replaced in their places in {took_s:.0f} s; {load.answered} streams, all whole")


def test_a_single_pod_serves_on_until_downtime_is_allowed(service: Service) -> None:
    spec: dict[str, Any] = {"model": SMALL, "resources": large(service, 0.6)}
    service.apply(**spec, template=environment("one"))
    service.wait_ready()
    service.apply(**spec, template=environment("two"))
    blocked = service.wait_for_reason("Ready", "RolloutBlocked", PATIENCE_S + 60)
    assert blocked["status"] == "True"
    assert "Insufficient cpu" in blocked["message"]
    service.apply(**spec, template=environment("two"), rollout={"allowDowntime": True})
    service.cluster.wait("the new pod alone", lambda: values(service) == ["two"], 120)
    service.wait_ready()


@pytest.mark.long
def test_a_service_to_zero_takes_what_is_new_once_nothing_is_asked(
    service: Service, tell: Callable[[str], None]
) -> None:
    """Its pod has the only room there is, and nobody may take it while it is asked."""
    spec: dict[str, Any] = {
        "model": SMALL,
        "resources": large(service, 0.6),
        "scaling": {"minReplicas": 0, "maxReplicas": 1, "idleAfterSeconds": 20},
        "drain": {"settleSeconds": 2, "timeoutSeconds": 30},
    }
    service.apply(**spec, template=environment("one"))
    service.wait_ready()
    assert values(service) == ["one"]
    begun = service.apply(**spec, template=environment("two"))
    service.cluster.wait("the new pod alone", lambda: values(service) == ["two"], 240)
    came_s = time.monotonic() - begun
    service.cluster.wait(
        "it to sleep", lambda: service.condition("Ready").get("reason") == "ScaledToZero", 120
    )
    assert service.condition("WorkloadReady")["status"] == "True"
    tell(f"a pod as the changed spec asks for came after {came_s:.0f} s, and sleeps")
