"""A service that answers stays ready while it changes, and its URL names what answers."""

from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.cluster.cluster import Cluster
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

SMALL = {"uri": "builtin://helmsman-1m-draft"}
AT_ONCE = {"settleSeconds": 0, "timeoutSeconds": 0}


@pytest.fixture
def service(cluster: Cluster, operator: None, namespace: str) -> Service:
    running = Service(cluster, namespace)
    running.apply(model=SMALL, drain=AT_ONCE)
    running.wait_ready()
    return running


def conditions(status: dict[str, Any]) -> dict[str, Any]:
    return {each["type"]: each for each in status["conditions"]}


def test_a_service_stays_ready_while_pods_are_added(service: Service) -> None:
    since = service.condition("Ready")["lastTransitionTime"]
    service.apply(model=SMALL, drain=AT_ONCE, replicas=3)
    seen: list[dict[str, Any]] = []

    def grown() -> bool:
        seen.append(conditions(service.status()))
        return service.serving() == 3

    service.cluster.wait("three pods", grown, 120)
    service.wait_ready()
    assert {each["Ready"]["status"] for each in seen} == {"True"}
    assert service.condition("Ready")["lastTransitionTime"] == since
    few = [each for each in seen if each["WorkloadReady"]["status"] == "False"]
    assert few, "nobody was told that pods are to come"
    assert {each["WorkloadReady"]["reason"] for each in few} == {"Progressing"}
    assert "of 3 pods serve" in few[0]["Ready"]["message"]


def test_the_url_turns_to_https_when_the_pods_that_speak_it_have_taken_over(
    service: Service, tmp_path: Path
) -> None:
    host = f"{service.name}.{service.namespace}.svc"
    certificate = trustme.CA().issue_cert(host)
    chain, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    chain.write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(key))
    files = (f"--cert={chain}", f"--key={key}")
    service.cluster.kubectl(
        "create", "secret", "tls", "certificate", *files, "-n", service.namespace
    )
    service.apply(model=SMALL, drain=AT_ONCE, tls={"secretRef": {"name": "certificate"}})
    seen: list[dict[str, Any]] = []

    def turned() -> bool:
        seen.append(service.status())
        return str(seen[-1]["url"]).startswith("https://")

    service.cluster.wait("https in the URL", turned, 120)
    *before, after = seen
    assert "Progressing" in {conditions(each)["WorkloadReady"]["reason"] for each in before}
    assert {each["url"] for each in before} == {f"http://{host}:8000/v1"}
    assert conditions(after)["Ready"]["status"] == "True"
    service.wait_ready()
    (pod,) = [each for each in service.pods() if "deletionTimestamp" not in each["metadata"]]
    assert "tls" in {volume["name"] for volume in pod["spec"]["volumes"]}
