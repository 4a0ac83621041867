"""The operator under faults: it is killed, the API server goes, children are edited by hand.

The installed operator is put to sleep, and one that the test controls works in its place.
"""

import asyncio
import contextlib
import copy
import json
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from functools import partial
from typing import Any

import pytest
import yaml

from aweigh_api import names
from aweigh_operator.cluster import ApiServer, load_configuration
from aweigh_operator.observe import Key
from aweigh_operator.places import PLACES, kind_of, name_at
from tests.api.refusals import manifest
from tests.cluster.cluster import OPERATOR_NAMESPACE, RELEASE, Cluster, CommandFailed
from tests.e2e.local_operator import LocalOperator, local_operator
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

NO_IMAGE = "127.0.0.1:9/aweigh-runtime:none"  # nobody listens there
CHILDREN = ("deployment", "service", "serviceaccount", "networkpolicy", "poddisruptionbudget")
AT_ONCE = {"settleSeconds": 0, "timeoutSeconds": 0}
NUM_SERVICES = 20
CHILD_WRITES = "aweigh_operator_child_writes_total"
RECONCILES = "controller_runtime_reconcile_total"


@pytest.fixture(scope="module")
def alone(cluster: Cluster, operator: None) -> Iterator[None]:
    """The installed operator sleeps, so that only the test's own one is at work."""
    scale = ("scale", "deployment/aweigh-operator", "-n", OPERATOR_NAMESPACE)
    cluster.kubectl(*scale, "--replicas=0")
    label = f"{names.LABEL_NAME}=aweigh-operator"
    cluster.wait("no operator", lambda: not cluster.list("pods", OPERATOR_NAMESPACE, label))
    yield
    cluster.kubectl(*scale, "--replicas=1")
    cluster.kubectl(
        "rollout", "status", "deployment/aweigh-operator", "-n", OPERATOR_NAMESPACE, "--timeout=90s"
    )


@pytest.fixture
def local(cluster: Cluster, alone: None, namespace: str) -> Iterator[LocalOperator]:
    with local_operator(cluster, namespace, NO_IMAGE) as running:
        yield running


@pytest.fixture
def service(cluster: Cluster, namespace: str) -> Service:
    return Service(cluster, namespace)


def children(service: Service) -> dict[str, dict[str, Any]]:
    found = {kind: service.cluster.get(kind, service.name, service.namespace) for kind in CHILDREN}
    return {kind: child for kind, child in found.items() if child is not None}


def all_there(service: Service) -> bool:
    return set(children(service)) == set(CHILDREN)


def replicas(service: Service) -> int:
    deployment = service.cluster.get("deployment", service.name, service.namespace)
    return 0 if deployment is None else int(deployment["spec"]["replicas"])


def test_an_operator_killed_in_the_middle_of_its_work_converges_after_its_restart(
    local: LocalOperator, cluster: Cluster, namespace: str
) -> None:
    services = [Service(cluster, namespace, f"chat-{number}") for number in range(4)]
    for number, service in enumerate(services):
        service.apply(replicas=2)
        time.sleep(0.02 * number)  # a different moment of the reconcile each time
        local.kill()
        local.start()
    for service in services:
        cluster.wait(f"all children of {service.name}", partial(all_there, service))
        owners = {
            child["metadata"]["ownerReferences"][0]["uid"] for child in children(service).values()
        }
        assert owners == {service.body()["metadata"]["uid"]}


def test_the_operator_outlives_a_restart_of_the_api_server(
    local: LocalOperator, service: Service
) -> None:
    if not service.cluster.on_this_machine:
        pytest.skip("the API server of this cluster cannot be restarted from here")
    service.apply(replicas=2)
    service.cluster.wait("children", lambda: all_there(service))
    service.cluster.restart("apiserver")
    service.cluster.wait("the API server", partial(_applied, service, 3))
    service.cluster.wait("3 replicas", lambda: replicas(service) == 3, 70)
    assert local.running()


def _applied(service: Service, replicas: int) -> bool:
    with contextlib.suppress(CommandFailed):
        service.apply(replicas=replicas)
        return True
    return False


def test_a_child_deleted_or_edited_by_hand_is_repaired(
    local: LocalOperator, service: Service
) -> None:
    service.apply(replicas=2)
    service.cluster.wait("children", lambda: all_there(service))
    where = ("-n", service.namespace)
    kubectl, wait = service.cluster.kubectl, service.cluster.wait

    for kind in CHILDREN:
        before = children(service)[kind]["metadata"]["uid"]
        kubectl("delete", kind, service.name, *where)
        wait(f"{kind} again", partial(_replaced, service, kind, before))

    kubectl("scale", "deployment", service.name, "--replicas=5", *where)
    wait("2 replicas", lambda: replicas(service) == 2)
    kubectl("label", "service", service.name, f"{names.LABEL_MANAGED_BY}-", *where)
    wait("the label", lambda: names.LABEL_MANAGED_BY in _labels(service, "service"))
    kubectl("set", "image", f"deployment/{service.name}", f"{names.CONTAINER}=other", *where)
    wait("the image", lambda: _image(service) == NO_IMAGE)


def test_a_variable_that_is_set_by_hand_stays_and_is_told(
    local: LocalOperator, service: Service
) -> None:
    service.apply(replicas=2, resources={"limits": {"cpu": "1", "memory": "1Gi"}})
    service.cluster.wait("children", lambda: all_there(service))
    service.wait_for_reason("SpecValid", "Valid")
    set_env = ("set", "env", "-n", service.namespace)
    for deployment in (service.name, names.router(service.name)):
        service.cluster.kubectl(*set_env, f"deployment/{deployment}", "DEBUG=1")
        told = service.wait_for_reason("SpecValid", "Drifted")
        assert told["status"] == "True"
        assert (
            f".env[DEBUG] to the pods of Deployment {deployment}, and it stays" in told["message"]
        )
        service.cluster.kubectl(*set_env, f"deployment/{deployment}", "DEBUG-")
        service.wait_for_reason("SpecValid", "Valid")
    assert "traceback" not in local.said()


def test_what_somebody_adds_to_a_selector_or_a_policy_is_taken_away_and_all_is_quiet(
    local: LocalOperator, service: Service
) -> None:
    service.apply(replicas=2)
    service.cluster.wait("children", lambda: all_there(service))
    before = {kind: child["spec"] for kind, child in children(service).items() if "spec" in child}
    narrowed = {"matchLabels": {"added": "x"}}
    rules = copy.deepcopy(before["networkpolicy"]["ingress"])
    rules[1]["from"][0]["namespaceSelector"] = narrowed
    edits: tuple[tuple[str, dict[str, Any]], ...] = (
        ("service", {"selector": {"added": "x"}}),
        ("networkpolicy", {"podSelector": narrowed}),
        ("networkpolicy", {"ingress": rules}),
        ("networkpolicy", {"egress": [{}]}),
        ("poddisruptionbudget", {"selector": narrowed}),
    )
    for kind, change in edits:
        patch = ("--type=merge", "-p", json.dumps({"spec": change}))
        service.cluster.kubectl("patch", kind, service.name, "-n", service.namespace, *patch)
        service.cluster.wait(f"{kind} as it was", partial(_has_spec, service, kind, before[kind]))
    time.sleep(2)
    before_rest = _total(local, CHILD_WRITES)
    service.cluster.kubectl("annotate", "infs", service.name, "-n", service.namespace, "look=again")
    time.sleep(2)
    assert _total(local, CHILD_WRITES) == before_rest


def _total(local: LocalOperator, metric: str) -> float:
    return sum(count for name, count in local.metrics().items() if name.startswith(metric))


def _has_spec(service: Service, kind: str, spec: dict[str, Any]) -> bool:
    return bool(children(service)[kind]["spec"] == spec)


def _replaced(service: Service, kind: str, uid: str) -> bool:
    child = service.cluster.get(kind, service.name, service.namespace)
    return child is not None and child["metadata"]["uid"] != uid


def _labels(service: Service, kind: str) -> dict[str, str]:
    found: dict[str, str] = children(service)[kind]["metadata"]["labels"]
    return found


def _image(service: Service) -> str:
    spec = children(service)["deployment"]["spec"]["template"]["spec"]
    return str(spec["containers"][0]["image"])


def test_ten_resyncs_and_a_new_operator_change_no_resource_version(
    cluster: Cluster, alone: None, service: Service
) -> None:
    image = cluster.image("runtime")
    limits = {"limits": {"cpu": "1000m", "memory": "2048Mi"}, "requests": {"cpu": "10m"}}
    env = [{"name": "EMPTY"}, {"name": "GIVEN", "value": "1"}]
    often = "--resync-seconds=0.3"
    with local_operator(cluster, service.namespace, image, often) as first:
        service.apply(replicas=2, resources=limits, template={"env": env}, drain=AT_ONCE)
        service.wait_ready(120)
        service.wait_for_reason("RouterReady", "Available")
        cluster.wait("all to be quiet", partial(_quiet, service))
        before = _versions(service)
        assert before.keys() >= {*PLACES} - {"Job"}
        written, reconciles = _total(first, CHILD_WRITES), _total(first, RECONCILES)
        cluster.wait("ten resyncs", lambda: _total(first, RECONCILES) >= reconciles + 10)
        assert _versions(service) == before
        assert _total(first, CHILD_WRITES) == written
        first.stop()
    newer = "registry.example/newer:1"
    with local_operator(
        cluster, service.namespace, newer, often, f"--router-image={newer}"
    ) as second:
        cluster.wait("ten resyncs", lambda: _total(second, RECONCILES) >= 10)
        assert _versions(service) == before


def _quiet(service: Service) -> bool:
    before = _versions(service)
    time.sleep(2)
    return _versions(service) == before


def _versions(service: Service) -> dict[str, str]:
    """Of the service, of all its children and of all its pods, routers included."""
    get, where = service.cluster.get, service.namespace
    found = {each: get(kind_of(each), name_at(each, service.name), where) for each in PLACES}
    pods = {each["metadata"]["name"]: each for each in (*service.pods(), *service.routers())}
    objects = {"infs": service.body(), **found, **pods}
    return {name: each["metadata"]["resourceVersion"] for name, each in objects.items() if each}


def test_replicas_changed_to_two_and_back_leave_serving_pods_alone(
    cluster: Cluster, alone: None, service: Service
) -> None:
    def ready_pods() -> set[str]:
        return {
            pod["metadata"]["uid"]
            for pod in service.pods()
            if "deletionTimestamp" not in pod["metadata"]
            if any(c["type"] == "Ready" and c["status"] == "True" for c in _conditions(pod))
        }

    with local_operator(cluster, service.namespace, cluster.image("runtime")):
        service.apply(replicas=3, drain=AT_ONCE)
        service.wait_ready(120)
        before = ready_pods()
        service.apply(replicas=2, drain=AT_ONCE)
        service.apply(replicas=3, drain=AT_ONCE)
        service.wait_ready(120)
        cluster.wait("3 ready pods", lambda: len(ready_pods()) == 3)
        assert len(before & ready_pods()) >= 2
        assert replicas(service) == 3


def _conditions(pod: dict[str, Any]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = pod["status"].get("conditions", [])
    return found


@pytest.mark.parametrize("absent", [False, True], ids=["at work", "absent"])
def test_deleting_a_service_leaves_no_orphan(
    local: LocalOperator, service: Service, absent: bool, tell: Callable[[str], None]
) -> None:
    service.apply(replicas=2, drain=AT_ONCE)
    service.cluster.wait("children", lambda: all_there(service))
    service.cluster.wait("pods", lambda: len(service.pods()) == 2)
    if absent:
        local.kill()
    begun = time.monotonic()
    service.cluster.kubectl("delete", "infs", service.name, "-n", service.namespace)
    service.cluster.wait("nothing left", lambda: not children(service) and not service.pods())
    time_s = time.monotonic() - begun
    tell(f"deleted, operator {'absent' if absent else 'at work'}: all gone after {time_s:.1f} s")
    if not absent:
        service.cluster.wait(
            "the operator to forget it",
            lambda: (
                not any(
                    count
                    for line, count in local.metrics().items()
                    if line.startswith("aweigh_operator_inference_services{")
                )
            ),
        )
        assert "traceback" not in local.said()


def test_an_operator_with_an_older_definition_says_what_it_lacks_and_waits_for_it(
    cluster: Cluster, alone: None, service: Service
) -> None:
    """And no object that is there loses anything by it."""
    with local_operator(cluster, service.namespace, NO_IMAGE):
        service.apply(template={"runtimeClassName": "none-such"})
        cluster.wait("a status", lambda: bool(service.status()))
    operator = LocalOperator(cluster, service.namespace, NO_IMAGE)
    with futures.ThreadPoolExecutor() as pool:
        try:
            with _older_definition(cluster):
                started = pool.submit(operator.start)
                lacks = "is older than this operator and lacks .spec.template.runtimeClassName:"
                cluster.wait("it to say so", lambda: lacks in operator.said(), 30)
                assert "kubectl apply -f crds/inferenceservices.yaml" in operator.said()
                assert not started.done()
            started.result()
            assert service.body()["spec"]["template"] == {"runtimeClassName": "none-such"}
        finally:
            if operator.running():
                operator.kill()
            operator.log.close()


@contextlib.contextmanager
def _older_definition(cluster: Cluster) -> Iterator[None]:
    """The cluster's CustomResourceDefinition as it was before it had a certain field."""
    field = (
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/template/properties"
        "/runtimeClassName"
    )
    shown = cluster.helm("get", "manifest", RELEASE, "--namespace", OPERATOR_NAMESPACE)
    (whole,) = (
        each for each in yaml.safe_load_all(shown) if each["kind"] == "CustomResourceDefinition"
    )
    change = json.dumps([{"op": "remove", "path": field}])
    cluster.kubectl("patch", "crd", whole["metadata"]["name"], "--type=json", "-p", change)
    try:
        yield
    finally:  # as Helm's own: else its next release would not overwrite what the patch has set
        owner = ("--server-side", "--force-conflicts", "--field-manager=helm")
        cluster.kubectl("apply", *owner, "-f", "-", input=yaml.safe_dump(whole))


def test_a_stopped_operator_exits_cleanly_and_soon(local: LocalOperator, service: Service) -> None:
    service.apply()
    service.cluster.wait("a status", lambda: bool(service.status()))
    code, time_s = local.stop()
    assert code == 0
    assert time_s < 10
    assert "traceback" not in local.said()


def test_pods_follow_within_a_second_and_the_operator_stays_small(
    local: LocalOperator,
    cluster: Cluster,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    tell: Callable[[str], None],
) -> None:
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    idle_mib = local.rss_mib()
    with _first_pods(namespace) as seen:
        for what, pause_s in (("one by one", 0.5), ("all at once", 0.0)):
            keys = [Key(namespace, f"{what.replace(' ', '-')}-{n}") for n in range(NUM_SERVICES)]
            begun = asyncio.run(_apply(keys, pause_s))
            cluster.wait("pods", partial(_all_seen, seen, begun))
            times_s = [seen[name] - begun[name] for name in begun]
            p95_s = statistics.quantiles(times_s, n=20)[-1]
            tell(
                f"apply to pod, {NUM_SERVICES} services {what}: "
                f"median {statistics.median(times_s):.2f} s, p95 {p95_s:.2f} s"
            )
    busy_mib = local.rss_mib()
    tell(f"operator: {idle_mib:.0f} MiB idle, {busy_mib:.0f} with {2 * NUM_SERVICES} services")
    assert busy_mib < 120


def _all_seen(seen: dict[str, float], begun: dict[str, float]) -> bool:
    return seen.keys() >= begun.keys()


@contextlib.contextmanager
def _first_pods(namespace: str) -> Iterator[dict[str, float]]:
    """When the first pod of each service was seen."""
    label = names.LABEL_INSTANCE.replace(".", "\\.")
    columns = f"custom-columns=NAME:.metadata.labels.{label}"
    watch = ["kubectl", "get", "pods", "-n", namespace, "--watch", "--no-headers", "-o", columns]
    seen: dict[str, float] = {}
    with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout

        def read() -> None:
            for line in lines:
                seen.setdefault(line.strip(), time.monotonic())

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield seen
        finally:
            process.terminate()
            reader.join()


async def _apply(keys: list[Key], pause_s: float) -> dict[str, float]:
    """Apply a service of each name; gives the moments."""
    begun: dict[str, float] = {}
    api = ApiServer(await load_configuration(), lambda *_: None)
    try:
        for key in keys:
            body = manifest(key.name, {"model": {"uri": "builtin://helmsman-8m"}})
            begun[key.name] = time.monotonic()
            where = {"name": key.name, "namespace": key.namespace}
            await api.apply({**body, "metadata": where})
            await asyncio.sleep(pause_s)
    finally:
        await api.close()
    return begun
