"""Pods come when load asks for them and go when it does not need them, and no request is lost."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from aweigh_api import names
from tests.cluster.cluster import Cluster
from tests.e2e.load import Load
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

SMALL = {"uri": "builtin://helmsman-1m-draft"}
LOAD_S = 240.0  # pods must be warm, hits be counted, and reports be read
CALM_S = 180.0
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment"}
SERVICE = {"apiVersion": names.API_VERSION, "kind": names.KIND}
AUTOSCALER_S = 150.0  # it looks every 15 s; the operator asks for it once a minute


@pytest.fixture
def service(cluster: Cluster, operator: None, namespace: str) -> Service:
    return Service(cluster, namespace)


def test_pods_follow_the_load_and_the_coldest_goes(
    service: Service, tell: Callable[[str], None]
) -> None:
    scaling = {
        "maxReplicas": 2,
        "targetUtilizationPercent": 10,
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 15}},
    }
    service.apply(model=SMALL, scaling=scaling)
    service.wait_ready()
    (first,) = (pod["metadata"]["uid"] for pod in service.pods())
    with service.cluster.endpoint(service.namespace, service.name, 8000) as url:
        load = Load(f"{url}/v1/completions")
        service.cluster.wait("the Service to answer", lambda: load.problem("Hello") is None)
        begun = time.monotonic()
        with load():
            service.cluster.wait("a second pod to serve", lambda: service.serving() == 2, LOAD_S)
            grown_s = time.monotonic() - begun
            said = service.aweigh("why", "chat")
            shown, both = service.aweigh("top", "chat"), service.pods()
            time.sleep(10)  # both serve for a while
        calm = time.monotonic()
        service.cluster.wait("one pod to be left", lambda: len(service.pods()) == 1, CALM_S)
        shrunk_s = time.monotonic() - calm
    assert load.failures == []
    assert load.answered > 100
    (left,) = service.pods()
    assert left["metadata"]["uid"] == first  # its cache has saved more
    assert said.returncode == 0, said.stderr
    assert re.search(r"1 → 2 pods.*: 2 for the load", said.stdout), said.stdout  # or for more
    assert "of them cached" in said.stdout
    for pod in both:
        assert pod["metadata"]["name"] in shown.stdout, shown.stdout + shown.stderr
    history = service.status()["scaling"]["history"]
    assert [(each["fromReplicas"], each["toReplicas"]) for each in history] == [(2, 1), (1, 2)]
    assert service.condition("ScalingActive")["status"] == "True"
    tell(
        f"{load.answered} streams, none failed; a second pod served after {grown_s:.0f} s of "
        f"load, and was gone {shrunk_s:.0f} s after its end; {history[1]['message']}"
    )


def test_an_autoscaler_of_the_deployment_is_told_and_left_alone(service: Service) -> None:
    service.apply(model=SMALL, replicas=1)
    service.wait_ready()
    service.cluster.apply(autoscaler(service, DEPLOYMENT, 2), service.namespace)
    service.cluster.wait("another autoscaler to scale", lambda: service.size() == 2, AUTOSCALER_S)
    conflict = service.wait_for_reason("ScalingActive", "Conflict", AUTOSCALER_S)
    assert conflict["status"] == "False"
    assert "HorizontalPodAutoscaler theirs scales the Deployment chat" in conflict["message"]
    time.sleep(20)  # it looks once more, and so do we
    assert service.size() == 2
    service.cluster.kubectl("delete", "hpa", "theirs", "-n", service.namespace)
    service.cluster.wait("the spec to count again", lambda: service.size() == 1, AUTOSCALER_S)


def test_an_autoscaler_of_the_service_sets_its_number_of_pods(service: Service) -> None:
    service.apply(model=SMALL, replicas=1)
    service.wait_ready()
    service.cluster.apply(autoscaler(service, SERVICE, 2), service.namespace)
    service.cluster.wait("it to set two pods", lambda: service.serving() == 2, AUTOSCALER_S)
    assert service.body()["spec"]["replicas"] == 2
    time.sleep(20)  # it looks once more, and so do we
    assert (service.size(), service.condition("ScalingActive")) == (2, {})
    hpa = service.cluster.get("hpa", "theirs", service.namespace)
    assert hpa is not None
    able = {each["type"]: each["status"] for each in hpa["status"]["conditions"]}
    assert able["AbleToScale"] == "True"


def test_an_autoscaler_of_a_service_that_scales_is_told_and_changes_nothing(
    service: Service,
) -> None:
    service.apply(model=SMALL, scaling={"maxReplicas": 3})
    service.wait_ready()
    service.cluster.apply(autoscaler(service, SERVICE, 2), service.namespace)
    conflict = service.wait_for_reason("ScalingActive", "Conflict", AUTOSCALER_S)
    assert conflict["status"] == "False"
    assert "HorizontalPodAutoscaler theirs scales the InferenceService chat" in conflict["message"]
    assert service.size() == 1
    service.cluster.kubectl("delete", "hpa", "theirs", "-n", service.namespace)
    service.cluster.wait(
        "no conflict", lambda: service.condition("ScalingActive")["status"] == "True", AUTOSCALER_S
    )


def autoscaler(service: Service, target: dict[str, str], pods: int) -> dict[str, Any]:
    """One that knows no load: it keeps its lower bound."""
    load = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "theirs", "namespace": service.namespace},
        "spec": {
            "scaleTargetRef": {**target, "name": service.name},
            "minReplicas": pods,
            "maxReplicas": pods,
            "metrics": [{"type": "Resource", "resource": load}],
        },
    }


def test_with_scaling_the_number_is_not_for_kubectl_scale(service: Service) -> None:
    service.apply(model=SMALL, scaling={"maxReplicas": 2})
    with pytest.raises(Exception, match="replicas and scaling contradict each other"):
        service.cluster.kubectl("scale", "infs/chat", "--replicas=2", "-n", service.namespace)
    assert names.DELETION_COST not in json.dumps(service.pods())
