"""What goes wrong with pods, and the reason that the user then reads."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.cluster import OPERATOR_NAMESPACE, Cluster
from tests.e2e.local_operator import local_operator
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

AT_ONCE = {"settleSeconds": 0, "timeoutSeconds": 0}
HF = "hf://org/model"


@pytest.fixture
def service(cluster: Cluster, operator: None, namespace: str) -> Iterator[Service]:
    yield Service(cluster, namespace)
    cluster.kubectl("delete", "infs", "--all", "-n", namespace, "--wait=false")


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "no node fits": (
        "Unschedulable",
        {"template": {"nodeSelector": {"gpu": "none-such"}}},
        "didn't match Pod's node affinity/selector",
    ),
    "the claim does not exist": (
        "MountFailed",
        {"model": {"uri": "pvc://none-such/model"}},
        'persistentvolumeclaim "none-such" not found',
    ),
    "the Secret does not exist": (
        "MountFailed",
        {"model": {"uri": HF, "secretRef": {"name": "none-such"}}},
        'secret "none-such" not found',
    ),
    "the memory limit is too small": (
        "OutOfMemory",
        {"resources": {"limits": {"memory": "64Mi"}}},
        "more memory than its limit",
    ),
    "the container crashes at once": (
        "CrashLooping",
        {"template": {"env": [{"name": "PYTHONHOME", "value": "/none-such"}]}},
        "exited with code 1",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_pod_that_cannot_serve_is_told_with_a_reason_of_its_own(
    service: Service, case: str, tell: Callable[[str], None]
) -> None:
    reason, spec, words = CASES[case]
    begun = service.apply(**spec, drain=AT_ONCE)
    condition = service.wait_for_reason("Ready", reason)
    tell(f"{case}: {reason} {time.monotonic() - begun:.1f} s after apply")
    assert condition["status"] == "False"
    assert words in condition["message"]
    _wait_for_event(service, reason)


def test_a_crash_loop_keeps_its_reason_between_two_crashes(service: Service) -> None:
    _, spec, _ = CASES["the container crashes at once"]
    service.apply(**spec, drain=AT_ONCE)
    service.wait_for_reason("Ready", "CrashLooping")
    seen = set()
    deadline = time.monotonic() + 15  # the second restart falls into it
    while time.monotonic() < deadline:
        seen.add(service.condition("Ready")["reason"])
    assert seen == {"CrashLooping"}


def test_a_rollout_whose_image_cannot_be_pulled_is_told_while_the_old_pod_serves(
    cluster: Cluster, service: Service, tell: Callable[[str], None]
) -> None:
    service.apply(drain=AT_ONCE)
    service.wait_ready()
    image = "127.0.0.1:9/aweigh-runtime:none"
    scale = ("scale", "deployment/aweigh-operator", "-n", OPERATOR_NAMESPACE)
    cluster.kubectl(*scale, "--replicas=0")
    try:
        with local_operator(cluster, service.namespace, image):
            begun = service.apply(model={"uri": "builtin://helmsman-8m", "maxModelLen": 64})
            condition = service.wait_for_reason("Ready", "ImagePullFailed")
            tell(f"image: ImagePullFailed {time.monotonic() - begun:.1f} s after apply")
            assert condition["status"] == "True", "the old pod still serves"
            assert image in condition["message"]
    finally:
        cluster.kubectl(*scale, "--replicas=1")


def test_pods_that_a_quota_refuses_are_told_with_the_api_servers_sentence(
    service: Service,
) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}},
    }
    service.cluster.apply(quota, service.namespace)
    service.cluster.wait(
        "the quota", lambda: _status(service, "resourcequota", "none").get("used") is not None
    )
    service.apply()
    condition = service.wait_for_reason("Ready", "PodsRefused")
    assert "exceeded quota: none" in condition["message"]


def test_a_child_that_the_api_server_refuses_becomes_a_condition(service: Service) -> None:
    toleration = {"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5}
    service.apply(template={"tolerations": [toleration]})
    condition = service.wait_for_reason("SpecValid", "ObjectRefused")
    assert "effect must be 'NoExecute'" in condition["message"]
    _wait_for_event(service, "ObjectRefused")
    service.apply(drain=AT_ONCE)
    service.wait_ready()


def test_an_object_of_somebody_else_is_named_and_left_alone(service: Service) -> None:
    ports = [{"port": 80, "name": "web"}]
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.name},
        "spec": {"ports": ports, "selector": {"app": "web"}},
    }
    service.cluster.apply(theirs, service.namespace)
    before = service.cluster.get("service", service.name, service.namespace)
    service.apply(drain=AT_ONCE)
    condition = service.wait_for_reason("Ready", "NameConflict")
    assert f"Service {service.name} exists and has no owner" in condition["message"]
    assert service.cluster.get("service", service.name, service.namespace) == before
    assert service.cluster.get("deployment", service.name, service.namespace) is None
    service.cluster.kubectl("delete", "service", service.name, "-n", service.namespace)
    service.wait_ready()


def test_a_child_whose_deletion_a_finalizer_holds_up_is_named(service: Service) -> None:
    where = ("deployment", service.name, "-n", service.namespace)
    service.apply(drain=AT_ONCE)
    service.wait_ready()
    _set_finalizers(service, ["example.com/backup"])
    service.cluster.kubectl("delete", "infs", service.name, "-n", service.namespace)
    service.cluster.wait("its deletion to begin", lambda: _leaves(service))
    service.apply(drain=AT_ONCE, replicas=2)
    condition = service.wait_for_reason("Ready", "ObjectBeingDeleted")
    assert f"Deployment {service.name} was deleted at" in condition["message"]
    assert "example.com/backup" in condition["message"]
    _wait_for_event(service, "ObjectBeingDeleted")
    _set_finalizers(service, None)
    service.wait_ready(120)
    assert service.size() == 2
    # The Deployment alone is deleted: what is asked for since is not applied, and that is said.
    _set_finalizers(service, ["example.com/backup"])
    service.cluster.kubectl("delete", *where, "--wait=false")
    service.apply(drain=AT_ONCE, replicas=1)
    condition = service.wait_for_reason("SpecValid", "ObjectBeingDeleted")
    assert condition["status"] == "False"
    _set_finalizers(service, None)
    service.wait_ready(120)
    assert service.size() == 1


def _set_finalizers(service: Service, finalizers: list[str] | None) -> None:
    """Those of the Deployment, as a controller of somebody else sets them."""
    patch = json.dumps({"metadata": {"finalizers": finalizers}})
    where = ("deployment", service.name, "-n", service.namespace)
    service.cluster.kubectl("patch", *where, "--type=merge", "-p", patch)


def _leaves(service: Service) -> bool:
    found = service.cluster.get("deployment", service.name, service.namespace)
    return found is not None and "deletionTimestamp" in found["metadata"]


def _status(service: Service, kind: str, name: str) -> dict[str, Any]:
    found = service.cluster.get(kind, name, service.namespace) or {}
    status: dict[str, Any] = found.get("status", {})
    return status


def _wait_for_event(service: Service, reason: str) -> None:
    def told() -> bool:
        events = service.cluster.list("events.events.k8s.io", service.namespace)
        return any(
            each["reason"] == reason
            and each["type"] == "Warning"
            and each["regarding"]["kind"] == "InferenceService"
            for each in events
        )

    service.cluster.wait(f"an event {reason}", told)
