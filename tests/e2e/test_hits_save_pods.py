"""The same traffic needs fewer pods once its prompts are cached, and the operator says so."""

import time
from collections.abc import Callable

import pytest

from tests.cluster.cluster import Cluster
from tests.e2e.load import Traffic
from tests.e2e.services import Service

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(600)]

PER_SECOND = 3.0
SCALING = {
    "maxReplicas": 3,
    "targetUtilizationPercent": 20,
    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 30}},
}


def test_pods_go_when_hits_come(
    cluster: Cluster, operator: None, namespace: str, tell: Callable[[str], None]
) -> None:
    service = Service(cluster, namespace)
    service.apply(scaling=SCALING)
    service.wait_ready()
    with service.cluster.endpoint(namespace, service.name, 8000) as url:
        traffic = Traffic(f"{url}/v1/completions", PER_SECOND)
        begun = time.monotonic()

        def show(what: str) -> None:
            tell(f"# after {time.monotonic() - begun:.0f} s: {what}")
            for words in (["get", "infs", service.name], ["aweigh", "why", service.name]):
                tell(f"$ kubectl {' '.join(words)}\n{output(service, *words)}")

        with traffic():
            cluster.wait("several pods to serve", lambda: service.serving() >= 2, 240)
            show(f"{PER_SECOND:g} requests a second, each of them new")
            traffic.shares = True
            cluster.wait("one pod to be left", lambda: service.size() == 1, 300)
            cluster.wait("it to be told", lambda: hits(service) >= 50, 60)
            show("as many requests, which begin alike")
    assert traffic.failures == []
    newest = service.status()["scaling"]["history"][0]
    assert newest["toReplicas"] == 1
    assert "cached" in newest["message"]
    tell(f"{traffic.answered} streams, all whole")


def output(service: Service, *words: str) -> str:
    if words[0] == "aweigh":
        return service.aweigh(*words[1:]).stdout
    return service.cluster.kubectl(*words, "-n", service.namespace)


def hits(service: Service) -> int:
    found: int = service.status().get("prefixCache", {}).get("hitRatePercent", 0)
    return found
