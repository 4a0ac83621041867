"""A router on a real cluster: it comes and goes under load, and wakes a service from zero."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from aweigh_api import names
from tests.cluster.cluster import Cluster
from tests.e2e.load import Load
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

SMALL = {"uri": "builtin://helmsman-1m-draft"}
TO_ZERO = {"minReplicas": 0, "maxReplicas": 2}
AT_ONCE = {"settleSeconds": 2, "timeoutSeconds": 30}
WAITING = 100  # requests that come while there is no pod
BODY = {"model": "chat", "prompt": "What is a Pod?", "max_tokens": 5, "stream": True}


@pytest.fixture
def service(cluster: Cluster, operator: None, namespace: str) -> Service:
    return Service(cluster, namespace)


def led_to(service: Service) -> str | None:
    """What the Service's selector names."""
    found = service.cluster.get("service", service.name, service.namespace)
    return None if found is None else str(found["spec"]["selector"][names.LABEL_NAME])


def test_a_router_comes_with_the_second_pod_and_goes_with_it_and_no_request_fails(
    service: Service, tell: Callable[[str], None]
) -> None:
    service.apply(model=SMALL, replicas=1, drain=AT_ONCE)
    service.wait_ready()
    (first,) = (pod["metadata"]["uid"] for pod in service.pods())
    with service.cluster.endpoint(service.namespace, service.name, 8000) as url:
        load = Load(f"{url}/v1/completions")
        service.cluster.wait("the Service to answer", lambda: load.problem("Hello") is None)
        with load():
            service.apply(model=SMALL, replicas=2, drain=AT_ONCE)
            service.cluster.wait("routers to be led to", lambda: led_to(service) == names.ROUTER)
            service.wait_for_reason("RouterReady", "Available")
            time.sleep(AT_ONCE["settleSeconds"] + 3)  # all clients come by routers by now
            both = {pod["metadata"]["uid"] for pod in service.pods()}
            service.apply(model=SMALL, replicas=1, drain=AT_ONCE)
            service.cluster.wait("pods to be led to", lambda: led_to(service) == names.RUNTIME)
            service.cluster.wait("all of the router to go", lambda: _routers(service) == 0, 90)
    assert load.failures == []
    assert first in both  # nothing was restarted
    tell(f"{load.answered} streams, none failed")


def _routers(service: Service) -> int:
    selector = ",".join(f"{k}={v}" for k, v in names.router_selector(service.name).items())
    return len(service.cluster.list("pods,roles", service.namespace, selector))


def test_requests_that_come_to_no_pod_are_all_answered_by_the_first(
    service: Service, tell: Callable[[str], None]
) -> None:
    scaling = {"minReplicas": 0, "maxReplicas": 1, "idleAfterSeconds": 10}
    service.apply(model=SMALL, scaling=scaling, router={"replicas": 1}, drain=AT_ONCE)
    service.wait_ready()
    service.wait_for_reason("Ready", "ScaledToZero")
    service.cluster.wait("no pod", lambda: service.pods() == [])
    assert service.condition("Ready")["status"] == "True"
    with service.cluster.endpoint(service.namespace, service.name, 8000) as url:
        asked = time.monotonic()
        with ThreadPoolExecutor(WAITING) as pool:
            answers = list(pool.map(lambda _: _first_event_s(url, asked), range(WAITING)))
    started = time.monotonic() - asked
    assert len(answers) == WAITING
    assert service.status()["scaling"]["history"][0]["reason"] == "LoadGrew"
    tell(
        f"{WAITING} requests to no pod: the first token of the first after {min(answers):.1f} s, "
        f"the last answer after {started:.1f} s"
    )


def _first_event_s(url: str, since: float) -> float:
    """Ask once; how long after `since` the answer began, if it is whole."""
    with httpx.stream("POST", f"{url}/v1/completions", json=BODY, timeout=120) as answer:
        assert answer.status_code == 200, answer.read()
        first_s, events = None, []
        for line in answer.iter_lines():
            if line.startswith("data:"):
                first_s = first_s or time.monotonic() - since
                events.append(line)
    assert events[-1] == "data: [DONE]"
    assert first_s is not None
    return first_s


def test_requests_for_a_models_new_name_wait_for_the_first_pod_that_has_it(
    service: Service, tell: Callable[[str], None]
) -> None:
    def ask(url: str, name: str) -> httpx.Response:
        body = {**BODY, "model": name, "stream": False}
        return httpx.post(f"{url}/v1/completions", json=body, timeout=90)

    def named(name: str) -> float:
        model = {**SMALL, "name": name}
        return service.apply(model=model, replicas=1, router={"replicas": 1}, drain=AT_ONCE)

    named("old")
    service.wait_ready()
    with service.cluster.endpoint(service.namespace, service.name, 8000) as url:
        service.cluster.wait("the old name to be served", lambda: ask(url, "old").status_code < 300)
        renamed_s = told_s = named("new")
        while (answer := ask(url, "new")).status_code == 404:
            told_s = time.monotonic()
            assert told_s < renamed_s + 30, answer.text
            time.sleep(0.05)
        assert answer.status_code == 200, answer.text
        service.wait_ready()
        service.cluster.wait("the old name to go", lambda: ask(url, "old").status_code == 404)
    assert told_s < renamed_s + 2
    tell(f"a new name was unknown for {told_s - renamed_s:.2f} s, then waited for")


def test_who_waits_for_a_model_that_is_not_there_is_told_so(service: Service) -> None:
    """The reason comes by a label that the cluster brings to the router, also within a stream."""
    service.apply(model={"uri": "builtin://helmsman-9m"}, scaling=TO_ZERO)
    service.cluster.wait("routers to be led to", lambda: led_to(service) == names.ROUTER)
    with service.cluster.endpoint(service.namespace, service.name, 8000) as url:
        service.cluster.wait("the Service to answer", lambda: _answers(url))
        streamed, whole = (_asked(url, stream=stream) for stream in (True, False))
    assert whole.status_code == 503
    for answer in (streamed, whole):
        error = json.loads(answer.text.rpartition("data: ")[2])["error"]
        assert (error["code"], "ModelNotFound" in error["message"]) == ("no_pods", True)


def test_who_waits_for_a_service_that_is_deleted_is_told_so(service: Service) -> None:
    """Its routers hear of it by what the cluster deletes along, and end before their time is up."""
    nowhere = {"nodeSelector": {"pod": "none-such"}}
    drain = {"settleSeconds": 2, "timeoutSeconds": 300}
    service.apply(model=SMALL, scaling=TO_ZERO, template=nowhere, drain=drain)
    service.cluster.wait("routers to be led to", lambda: led_to(service) == names.ROUTER)
    with (
        service.cluster.endpoint(service.namespace, service.name, 8000) as url,
        ThreadPoolExecutor(2) as pool,
    ):
        service.cluster.wait("the Service to answer", lambda: _answers(url))
        asked = [pool.submit(_asked, url, stream=stream) for stream in (True, False)]
        time.sleep(2)
        assert not any(each.done() for each in asked)
        service.cluster.kubectl("delete", "infs", service.name, "-n", service.namespace)
        streamed, whole = (each.result() for each in asked)
    assert whole.status_code == 503
    for answer in (streamed, whole):
        error = json.loads(answer.text.rpartition("data: ")[2])["error"]
        assert (error["code"], "deleted" in error["message"]) == ("no_pods", True)
    service.cluster.wait("all of the router to go", lambda: _routers(service) == 0)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _asked(url: str, *, stream: bool) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json={**BODY, "stream": stream}, timeout=100)
