"""Faults under load: every answer that a client waits for arrives whole.

Two pods serve behind two routers; clients ask without a pause, each question over a connection of
its own. Only what a router that is killed without grace was passing on may be lost, and connections
to it are refused until the cluster has noticed.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aweigh_api import names
from tests.cluster.cluster import OPERATOR_NAMESPACE, Cluster
from tests.e2e import operators
from tests.e2e.deaths import kill, processes_of
from tests.e2e.load import CLIENTS, Load
from tests.e2e.services import Service

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(600)]

SMALL = {"uri": "builtin://helmsman-1m-draft"}
STREAMS = 400
ETCD_PAUSE_S = 20.0
NOTICED_S = 10.0  # for a cluster to lead nobody to a router that has died
MEMORY_LIMIT = "1Gi"
GREEDY = """
import os, pathlib, sys
for line in pathlib.Path(f"/proc/{sys.argv[1]}/cgroup").read_text().splitlines():
    _, controllers, group = line.split(":", 2)
    if controllers in ("", "memory"):  # of version 2, of version 1
        procs = pathlib.Path("/sys/fs/cgroup", controllers, group.lstrip("/"), "cgroup.procs")
        if procs.is_file():
            procs.write_text(str(os.getpid()))
taken = []
while len(taken) < 2048 and all(os.path.exists(f"/proc/{pid}") for pid in sys.argv[1:]):
    taken.append(b"x" * (1 << 20))
"""

Fault = Callable[[Service], None]


def spec(**more: Any) -> dict[str, Any]:
    return {"model": SMALL, "replicas": 2, **more}


def rolling_update(service: Service) -> None:
    before = {pod["metadata"]["uid"] for pod in service.pods()}
    service.apply(**spec(template={"env": [{"name": "ROLLOUT", "value": "two"}]}))
    service.cluster.wait(
        "all pods to be new",
        lambda: not before & {pod["metadata"]["uid"] for pod in service.pods()},
        180,
    )
    service.wait_ready()


def scale_in(service: Service) -> None:
    service.apply(**spec(replicas=1))
    service.cluster.wait("one pod", lambda: len(service.pods()) == 1, 180)


def eviction(service: Service) -> None:
    """As a drain of a node asks for it."""
    (first, *_) = service.pods()
    metadata = {"name": first["metadata"]["name"], "namespace": service.namespace}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{service.namespace}/pods/{metadata['name']}/eviction"
    service.cluster.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(body))
    uid = first["metadata"]["uid"]
    service.cluster.wait(
        "another pod in its place",
        lambda: uid not in {pod["metadata"]["uid"] for pod in service.pods()},
        180,
    )
    service.wait_ready()


def operator_killed(service: Service) -> None:
    """At once, without a signal that it could see."""
    cluster = service.cluster
    (pod,) = operators.pods(cluster)
    before = operators.restarts(cluster)
    kill(pod)
    cluster.wait("it to start again", lambda: operators.restarts(cluster) > before)
    operators.roll_out(cluster)


def operator_upgrade(service: Service) -> None:
    """To one that starts new services with other images, and has work to do with this one."""
    before = uids(service.pods()), uids(service.routers())
    with operators.upgraded(service.cluster):
        service.apply(**spec(replicas=3))
        service.cluster.wait("a third pod", lambda: service.serving() == 3)
        assert uids(service.pods()) > before[0]
        assert uids(service.routers()) == before[1]


def uids(pods: list[dict[str, Any]]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def leader_lost(service: Service) -> None:
    """It stands still until another has taken over, and goes on while that one replaces pods."""
    cluster = service.cluster
    with operators.two(cluster):
        leader = cluster.wait("a holder", lambda: operators.holder(cluster))
        (uid,) = (
            pod["metadata"]["uid"]
            for pod in operators.pods(cluster)
            if pod["metadata"]["name"] == leader
        )
        stopped = processes_of(uid)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert operators.followed_after_s(cluster, leader) <= operators.TAKEOVER_S
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        rolling_update(service)


def api_server_restarted(service: Service) -> None:
    service.cluster.restart("apiserver")
    service.cluster.wait("the API server to answer", lambda: answers(service), 120)


def pod_killed(service: Service) -> None:
    """At once, without grace: its streams go on on the other one."""
    (first, *_) = service.pods()
    kill(first)
    name = first["metadata"]["name"]
    service.cluster.wait("its container to start again", lambda: service.restarts(name) > 0, 60)
    service.wait_ready(120)


def answers(service: Service) -> bool:
    try:
        return bool(service.pods())
    except Exception:
        return False


def etcd_paused(service: Service) -> None:
    with service.cluster.paused("etcd"):
        time.sleep(ETCD_PAUSE_S)
    service.cluster.wait("the API server to answer", lambda: answers(service), 120)


@pytest.mark.parametrize(
    "fault",
    [
        rolling_update,
        scale_in,
        eviction,
        operator_killed,
        operator_upgrade,
        leader_lost,
        api_server_restarted,
        etcd_paused,
        pod_killed,
    ],
)
def test_no_answer_is_lost(
    cluster: Cluster, operator: None, namespace: str, fault: Fault, tell: Callable[[str], None]
) -> None:
    load, _ = under_load(Service(cluster, namespace), fault)
    assert load.failures == []
    tell(f"{fault.__name__}: {load.answered} streams, all whole")


def test_while_no_report_can_be_read_the_number_of_pods_stays(
    cluster: Cluster, operator: None, namespace: str, tell: Callable[[str], None]
) -> None:
    service = Service(cluster, namespace)
    sizes: list[int] = []

    def reports_lost(service: Service) -> None:
        # One pod would do, and the other would go within some looks if anything was decided.
        hasty = {"scaleDown": {"stabilizationWindowSeconds": 15}}
        with unreachable(service):
            service.apply(
                model=SMALL, scaling={"minReplicas": 1, "maxReplicas": 3, "behavior": hasty}
            )
            service.wait_for_reason("ScalingActive", "ReportsMissing")
            for _ in range(90):
                sizes.append(len(service.pods()))
                time.sleep(1)
        cluster.wait(
            "reports to count again",
            lambda: service.condition("ScalingActive")["reason"] != "ReportsMissing",
        )

    load, _ = under_load(service, reports_lost, scaling={"minReplicas": 2, "maxReplicas": 3})
    assert load.failures == []
    assert set(sizes) == {2}
    tell(f"reports lost: {load.answered} streams, all whole; the number of pods stayed")


@contextmanager
def unreachable(service: Service) -> Iterator[None]:
    """The operator finds no way to the pods; everybody else does."""
    where = json.loads(
        service.cluster.kubectl(
            "get", "pods", "-n", OPERATOR_NAMESPACE, "-l", f"{names.LABEL_NAME}={operators.NAME}",
            "-o", "json",
        )
    )["items"]  # fmt: skip
    (process, *_) = processes_of(where[0]["metadata"]["uid"])
    addresses = [pod["status"]["podIP"] for pod in service.pods()]
    ip = ["nsenter", "-t", str(process), "-n", "ip", "route"]
    for address in addresses:
        subprocess.run([*ip, "add", "blackhole", address], check=True)
    try:
        yield
    finally:
        for address in addresses:
            subprocess.run([*ip, "delete", "blackhole", address], check=True)


def test_a_router_that_is_killed_takes_only_its_own_connections_along(
    cluster: Cluster, operator: None, namespace: str, tell: Callable[[str], None]
) -> None:
    killed_s: list[float] = []

    def router_killed(service: Service) -> None:
        (first, _) = service.routers()
        killed_s.append(time.monotonic())
        kill(first)
        service.wait_for_reason("RouterReady", "Available", 60)

    load, _ = under_load(Service(cluster, namespace), router_killed)
    lost = [each for each in load.failures if not each.refused]
    assert len(lost) <= 2 * CLIENTS, lost  # open ones, and those on their way to it
    # Clients ask again at once, and the Service still leads some of them to the dead one.
    refused_s = [each.at_s - killed_s[0] for each in load.failures if each.refused]
    assert all(0.0 <= each <= NOTICED_S for each in refused_s), refused_s
    tell(
        f"router killed: {load.answered} streams whole, {len(lost)} lost with it, and "
        f"{len(refused_s)} connections refused, the last {max(refused_s, default=0.0):.1f} s later"
    )


def test_a_pod_that_needs_too_much_memory_takes_no_answer_along(
    cluster: Cluster, operator: None, namespace: str, tell: Callable[[str], None]
) -> None:
    """Killed by the kernel at once, without grace; the service says why."""
    service = Service(cluster, namespace)
    limited = {"limits": {"memory": MEMORY_LIMIT}}
    load, _ = under_load(service, out_of_memory, replicas=2, resources=limited)
    assert load.failures == []
    ended = [
        each["lastState"]["terminated"]["reason"]
        for pod in service.pods()
        for each in pod["status"]["containerStatuses"]
        if each["restartCount"]
    ]
    assert ended == ["OOMKilled"]
    tell(f"pod out of memory: {load.answered} streams, all whole")


def out_of_memory(service: Service) -> None:
    """Another process in a pod's container takes all that the container may have.

    The kernel prefers to kill what the kubelet has told it to, and that is the pod's own.
    """
    (first, *_) = service.pods()
    pids = map(str, processes_of(first["metadata"]["uid"]))
    subprocess.run([sys.executable, "-c", GREEDY, *pids], check=True, timeout=60)
    found = service.wait_for_reason("WorkloadReady", "OutOfMemory", 60)
    assert first["metadata"]["name"] in found["message"]
    service.wait_ready(120)


def under_load(service: Service, fault: Fault, **scaled: Any) -> tuple[Load, float]:
    """The load that was there before, during and after a fault, and how long that took."""
    service.apply(**({"model": SMALL, **scaled} if scaled else spec()))
    service.wait_ready()
    with service.cluster.endpoint(service.namespace, service.name, 8000) as url:
        load = Load(f"{url}/v1/completions")
        service.cluster.wait("the Service to answer", lambda: load.problem("Hello") is None)
        began = time.monotonic()
        with load():
            time.sleep(5)
            fault(service)
            service.cluster.wait(
                f"{STREAMS} streams", lambda: load.answered >= STREAMS, timeout_s=180
            )
    return load, time.monotonic() - began
