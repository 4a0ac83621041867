"""hf:// models: pods fetch them from a hub, and the InferenceService tells how far they are."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aweigh_api import names
from tests.cluster.cluster import Cluster
from tests.cluster.network import NODE_IP
from tests.e2e.claims import WRITE, claim
from tests.e2e.services import Service
from tests.runtime.hub import Hub

pytestmark = pytest.mark.cluster

HELMSMAN = Path(__file__).parents[2] / "runtime/aweigh_runtime/builtin/helmsman-1m-draft"
AT_ONCE = {"settleSeconds": 0, "timeoutSeconds": 0}
TOKEN = "hf_secret-of-this-test"


@pytest.fixture
def hub(cluster: Cluster) -> Iterator[Hub]:
    if not cluster.on_this_machine:
        pytest.skip("the hub runs on this machine; the pods are elsewhere")
    with Hub(host=NODE_IP) as hub:
        yield hub


@pytest.fixture
def service(cluster: Cluster, operator: None, namespace: str) -> Service:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hf-token"},
        "stringData": {"token": TOKEN},
    }
    cluster.apply(secret, namespace)
    return Service(cluster, namespace)


def fetch(service: Service, hub: Hub, **model: object) -> None:
    service.apply(
        model={"uri": "hf://acme/helmsman"} | model,
        template={"env": [{"name": "HF_ENDPOINT", "value": hub.url}]},
    )


def test_a_private_model_is_fetched_with_the_token_of_its_secret(
    service: Service, hub: Hub
) -> None:
    commit = hub.add("acme/helmsman", HELMSMAN, token=TOKEN)
    fetch(service, hub, revision=commit, secretRef={"name": "hf-token"})
    service.wait_ready()
    assert TOKEN not in service.cluster.logs(f"deployment/{service.name}", service.namespace)


def test_a_private_model_without_a_token_is_denied_with_the_remedy(
    service: Service, hub: Hub
) -> None:
    hub.add("acme/helmsman", HELMSMAN, token=TOKEN)
    fetch(service, hub)
    found = service.wait_for_reason("ModelReady", "AccessDenied")
    assert "secretRef" in found["message"]


def test_progress_shows_in_the_status_while_a_model_downloads(service: Service, hub: Hub) -> None:
    hub.add("acme/helmsman", HELMSMAN)
    hub.faults.piece_delay_s = 0.4
    fetch(service, hub)
    service.wait_for_reason("ModelReady", "Downloading")

    def under_way() -> bool:
        model = service.status().get("model", {})
        loaded, total = model.get("loadedBytes", 0), model.get("totalBytes", 0)
        return bool(0 < loaded < total)

    service.cluster.wait("part of the bytes in the status", under_way)
    hub.faults.piece_delay_s = 0.0
    service.wait_ready()


def test_a_rollout_that_takes_longer_than_it_may_is_told_while_the_old_pod_serves_on(
    service: Service, hub: Hub
) -> None:
    """The new pod is started again, and once it comes all is well."""
    hub.add("acme/helmsman", HELMSMAN)
    service.apply(model={"uri": "builtin://helmsman-1m-draft"}, drain=AT_ONCE)
    service.wait_ready()
    before = serving_pods(service)
    hub.faults.piece_delay_s = 10.0  # of some 50 pieces
    service.apply(
        model={"uri": "hf://acme/helmsman"},
        template={"env": [{"name": "HF_ENDPOINT", "value": hub.url}]},
        rollout={"progressDeadlineSeconds": 60},
        drain=AT_ONCE,
    )
    service.wait_for_reason("Ready", "ProgressDeadlineExceeded", 150)
    service.cluster.wait("the new pod to be started again", lambda: restarted(service), 120)
    late = service.wait_for_reason("Ready", "ProgressDeadlineExceeded")
    assert late["status"] == "True"
    assert "did not finish within rollout.progressDeadlineSeconds" in late["message"]
    assert before < serving_pods(service)
    hub.faults.piece_delay_s = 0.0
    service.cluster.wait("the new pod alone", lambda: not before & serving_pods(service), 120)
    service.wait_for_reason("Ready", "Ready")


def restarted(service: Service) -> bool:
    return any(service.restarts(pod["metadata"]["name"]) for pod in service.pods())


def test_a_hub_that_does_not_answer_is_named(service: Service, hub: Hub) -> None:
    hub.add("acme/helmsman", HELMSMAN)
    hub.faults.every_status = 503
    fetch(service, hub)
    found = service.wait_for_reason("ModelReady", "SourceUnreachable", timeout_s=120)
    assert hub.url in found["message"]


def test_what_one_pod_has_downloaded_others_find_in_the_claim(
    service: Service, hub: Hub, tmp_path: Path
) -> None:
    commit = hub.add("acme/helmsman", HELMSMAN)
    volume = claim(service.cluster, service.namespace, tmp_path, "downloads", mode=WRITE)
    try:
        fetch(service, hub, revision=commit, cache={"claim": "downloads"})
        service.wait_ready()
        hub.faults.every_status = 503  # whoever asks it again fails
        service.cluster.kubectl("scale", "infs/chat", "--replicas=2", "-n", service.namespace)
        service.wait_ready()
        assert service.status()["readyReplicas"] == 2
    finally:
        service.cluster.kubectl("delete", "infs", "chat", "-n", service.namespace)
        service.cluster.kubectl("delete", "pv", volume, "--wait=false")


def test_a_job_fetches_before_pods_are_made_and_before_they_are_replaced(
    service: Service, hub: Hub, tmp_path: Path
) -> None:
    cluster, where = service.cluster, service.namespace
    first, second = (hub.add(f"acme/{name}", HELMSMAN) for name in ("helmsman", "admiral"))
    volume = claim(cluster, where, tmp_path, "downloads", mode=WRITE)
    kept = {"claim": "downloads", "prefetch": True}
    try:
        hub.faults.piece_delay_s = 0.4
        fetch(service, hub, revision=first, cache=kept)
        found = service.wait_for_reason("Ready", "Downloading")
        assert "bytes" in found["message"]
        assert cluster.get("deployment", service.name, where) is None
        hub.faults.piece_delay_s = 0.0
        service.wait_ready()
        serving = serving_pods(service)
        hub.faults.piece_delay_s = 0.4
        fetch(service, hub, uri="hf://acme/admiral", revision=second, cache=kept)
        found = service.wait_for_reason("Ready", "Downloading")
        assert found["status"] == "True"
        assert found["message"].startswith("1 of 1 pods serve; what is new is downloaded")
        assert serving_pods(service) == serving
        hub.faults.piece_delay_s = 0.0
        cluster.wait("new pods", lambda: not serving & serving_pods(service), 120)
        hub.faults.every_status = 503  # whoever asks it again fails
        service.wait_ready()
    finally:
        cluster.kubectl("delete", "infs", "chat", "-n", where)
        cluster.kubectl("delete", "pv", volume, "--wait=false")


def serving_pods(service: Service) -> set[str]:
    return {
        pod["metadata"]["uid"]
        for pod in service.pods()
        if pod["metadata"]["labels"][names.LABEL_NAME] == names.RUNTIME
    }
