"""The release on a real cluster: installed, upgraded, removed, and what each leaves alone."""

from collections.abc import Iterator

import pytest

from tests.chart.render import CHART
from tests.cluster.cluster import OPERATOR_NAMESPACE, RELEASE, Cluster, CommandFailed
from tests.e2e import operators
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

KINDS = "deployments,serviceaccounts,services,networkpolicies,roles,rolebindings"


@pytest.fixture
def installed(cluster: Cluster, operator: None) -> Iterator[None]:
    """The shared release, which is there again afterwards whatever a test does to it."""
    yield
    cluster.install()


@pytest.fixture
def service(cluster: Cluster, installed: None, namespace: str) -> Service:
    running = Service(cluster, namespace)
    running.apply(model={"uri": "builtin://helmsman-1m-draft"}, drain={"settleSeconds": 0})
    running.wait_ready()
    return running


def pod_names(service: Service) -> list[str]:
    return [pod["metadata"]["name"] for pod in service.pods()]


def test_an_upgrade_to_other_images_restarts_neither_serving_pods_nor_routers(
    cluster: Cluster, service: Service
) -> None:
    """And a pod that comes later is as the others."""
    two = {"model": {"uri": "builtin://helmsman-1m-draft"}, "drain": {"settleSeconds": 0}}
    service.apply(**two, replicas=2)
    service.wait_ready()
    service.wait_for_reason("RouterReady", "Available")
    before, routers = set(pod_names(service)), service.routers()
    with operators.upgraded(cluster):
        service.apply(**two, replicas=3)
        service.cluster.wait("a third pod", lambda: service.serving() == 3)
        assert set(pod_names(service)) > before
        kept = {each["metadata"]["uid"] for each in routers}
        assert {each["metadata"]["uid"] for each in service.routers()} == kept
        images = {pod["spec"]["containers"][0]["image"] for pod in service.pods()}
        assert images == {cluster.image("runtime")}


def test_uninstalling_keeps_definition_services_and_pods(
    cluster: Cluster, service: Service
) -> None:
    before = pod_names(service)
    cluster.helm("uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait")
    selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/part-of=aweigh"
    assert cluster.list(KINDS, OPERATOR_NAMESPACE, selector) == []
    assert service.body()["status"]["readyReplicas"] == 1
    assert pod_names(service) == before

    cluster.install()
    service.apply(model={"uri": "builtin://helmsman-1m-draft"}, drain={"settleSeconds": 1})
    service.wait_ready()
    assert pod_names(service) != before, "the operator is back and acts"


def test_without_an_operator_a_service_can_be_deleted_and_leaves_no_orphan(
    cluster: Cluster, service: Service
) -> None:
    cluster.helm("uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait")
    cluster.kubectl("delete", "infs", service.name, "-n", service.namespace, "--timeout=10s")
    selector = f"app.kubernetes.io/instance={service.name}"
    kinds = f"{KINDS},poddisruptionbudgets,replicasets,pods"
    cluster.wait("children gone", lambda: not cluster.list(kinds, service.namespace, selector), 30)


def test_a_release_for_one_namespace_serves_there_and_has_no_right_elsewhere(
    cluster: Cluster, installed: None, namespace: str
) -> None:
    cluster.helm("uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait")
    images = [
        f"--set-string={name}.image={cluster.image(name)}"
        for name in ("operator", "router", "runtime")
    ]
    values = ["crds.install=false", "rbac.aggregate=false", f"watchNamespaces={{{namespace}}}"]
    settings = [f"--set={value}" for value in values]
    where = ["--namespace", namespace]
    cluster.helm("install", "small", str(CHART), *where, *images, *settings, "--wait")
    try:
        account = f"--as=system:serviceaccount:{namespace}:small-operator"
        cluster.kubectl("get", "infs,pods,deployments", "-n", namespace, account)
        for what, place in (("secrets", namespace), ("nodes", namespace), ("infs", "default")):
            with pytest.raises(CommandFailed, match="is forbidden"):
                cluster.kubectl("get", what, "-n", place, account)
        alone = Service(cluster, namespace)
        alone.apply(model={"uri": "builtin://helmsman-1m-draft"}, drain={"settleSeconds": 0})
        alone.wait_ready()
        cluster.kubectl("delete", "infs", alone.name, "-n", namespace, "--timeout=30s")
    finally:
        cluster.helm("uninstall", "small", *where, "--wait")
    selector = "app.kubernetes.io/instance=small"
    assert cluster.list(KINDS, namespace, selector) == []
