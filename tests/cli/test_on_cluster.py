"""`aweigh chat NAME` and `aweigh upgrade` against a real cluster."""

import pytest

from aweigh_api import names
from tests.cluster.cluster import Cluster
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster


@pytest.fixture
def service(cluster: Cluster, operator: None, namespace: str) -> Service:
    running = Service(cluster, namespace)
    running.apply(model={"uri": "builtin://helmsman-1m-draft"}, drain={"settleSeconds": 0})
    running.wait_ready()
    return running


def test_a_service_is_chatted_with_by_its_name(service: Service) -> None:
    done = service.aweigh("chat", "chat", "--once", "What is a Pod?")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 3


def test_a_service_that_is_not_there_is_named(service: Service) -> None:
    done = service.aweigh("chat", "nobody", "--once", "hi")
    assert done.returncode == 1
    assert 'inferenceservices.serving.aweigh.dev "nobody" not found' in done.stderr


def test_an_upgrade_replaces_the_pods_and_waits_for_the_new_ones(service: Service) -> None:
    (before,) = service.pods()
    image = service.cluster.image("runtime")
    done = service.aweigh("upgrade", "chat", "--settle=0")
    assert f"runs {image}, as the operator would make it now" in done.stdout
    assert [pod["metadata"]["uid"] for pod in service.pods()] == [before["metadata"]["uid"]]
    done = service.aweigh("upgrade", "chat", "--force", "--settle=0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{service.namespace}/chat: {image} is being replaced",
        f"{service.namespace}/chat: runs {image}",
    ]
    ready = [
        pod
        for pod in service.pods()
        if pod["metadata"]["name"] != before["metadata"]["name"]
        and {"type": "Ready", "status": "True"}.items()
        <= next(c for c in pod["status"]["conditions"] if c["type"] == "Ready").items()
    ]
    assert len(ready) == 1
    assert names.UPGRADE in service.body()["metadata"]["annotations"]


def test_an_upgrade_of_a_whole_namespace_takes_each_in_turn(service: Service) -> None:
    second = Service(service.cluster, service.namespace, "code")
    second.apply(model={"uri": "builtin://helmsman-1m-draft"}, suspend=True)
    second.wait_for_reason("Ready", "Suspended")
    done = service.aweigh("upgrade", "--all", "--force", "--settle=0")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        f"{service.namespace}/chat",
        f"{service.namespace}/chat",
        f"{service.namespace}/code",
        f"{service.namespace}/code",
    ]
