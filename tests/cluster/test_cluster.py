"""The cluster is a real one: pods run, are pulled, find each other, and are held to the rules."""

import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.cluster.cluster import Cluster, CommandFailed

pytestmark = pytest.mark.cluster

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(name: str, image: str, *command: str, **container: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": list(command),
                    "securityContext": RESTRICTED,
                    **container,
                }
            ],
        },
    }


def run(cluster: Cluster, namespace: str, body: dict[str, Any]) -> str:
    """Run a pod to its end and return what it printed."""
    name = body["metadata"]["name"]
    cluster.apply(body, namespace)
    ended = "--for=jsonpath={.status.phase}=Succeeded"
    cluster.kubectl("wait", "-n", namespace, f"pod/{name}", ended, "--timeout=120s")
    return cluster.logs(name, namespace)


def test_a_pod_of_a_pulled_image_serves_through_its_service(
    cluster: Cluster, namespace: str
) -> None:
    server = pod("web", cluster.image("operator"), "python", "-m", "http.server", "8000")
    cluster.apply(server, namespace)
    cluster.kubectl("expose", "pod/web", "-n", namespace, "--port=80", "--target-port=8000")
    cluster.kubectl("wait", "-n", namespace, "pod/web", "--for=condition=Ready", "--timeout=60s")
    with cluster.endpoint(namespace, "web", 80) as url:

        def answered() -> bool:
            try:  # kube-proxy needs a moment after the pod is ready
                with urllib.request.urlopen(url, timeout=2) as response:
                    return bool(response.status == 200)
            except urllib.error.URLError:
                return False

        cluster.wait(f"an answer from {url}", answered, 15)


def test_pods_find_services_by_name(cluster: Cluster, namespace: str) -> None:
    code = "import socket; print(socket.gethostbyname('kubernetes.default.svc.cluster.local'))"
    body = pod("lookup", cluster.image("operator"), "python", "-c", code)
    address = run(cluster, namespace, body).strip()
    service = cluster.get("service", "kubernetes", "default")
    assert service is not None
    assert address == service["spec"]["clusterIP"]


@pytest.mark.parametrize(
    ("name", "program"), [("operator", "aweigh-operator"), ("runtime", "aweigh")]
)
def test_an_image_runs_as_nobody_and_has_its_program(
    cluster: Cluster, namespace: str, name: str, program: str
) -> None:
    code = f"import os, shutil; print(os.getuid(), shutil.which('{program}'))"
    body = pod("who", cluster.image(name), "python", "-c", code)
    assert run(cluster, namespace, body).split() == ["65532", f"/opt/aweigh/bin/{program}"]


def test_a_pod_that_breaks_the_namespaces_rules_is_refused(
    cluster: Cluster, namespace: str
) -> None:
    body = pod("root", "none", "true", securityContext={"privileged": True})
    with pytest.raises(CommandFailed, match='violates PodSecurity "restricted:latest"'):
        cluster.apply(body, namespace)


def test_pods_that_ask_for_gpus_are_placed(cluster: Cluster, namespace: str) -> None:
    if not cluster.on_this_machine:
        pytest.skip("only the node made here pretends to have GPUs")
    body = pod(
        "gpu", cluster.image("operator"), "python", "--version",
        resources={"limits": {"nvidia.com/gpu": 8}},
    )  # fmt: skip
    assert run(cluster, namespace, body).startswith("Python 3.")


def test_the_api_server_comes_back_after_a_restart(cluster: Cluster, namespace: str) -> None:
    if not cluster.on_this_machine:
        pytest.skip("only the API server made here may be restarted")
    started = time.monotonic()
    cluster.restart("apiserver")

    def answers() -> bool:
        try:
            return cluster.kubectl("get", "--raw", "/readyz") == "ok"
        except CommandFailed:
            return False

    cluster.wait("the API server", answers, 60)
    assert cluster.get("namespace", namespace) is not None
    assert time.monotonic() - started < 60


def test_what_does_not_exist_is_none_and_what_never_comes_times_out(
    cluster: Cluster, namespace: str
) -> None:
    assert cluster.get("configmap", "nothing", namespace) is None
    with pytest.raises(TimeoutError, match="a miracle: not so after 0 s"):
        cluster.wait("a miracle", lambda: False, 0.2)
