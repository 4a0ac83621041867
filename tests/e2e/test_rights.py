"""The rights of operator and routers are those that they use: none is missing, none is idle."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.cluster.cluster import OPERATOR_NAMESPACE, Cluster
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

SMALL = {"uri": "builtin://helmsman-1m-draft"}
OPERATOR = "aweigh-operator"
WITHOUT_A_REQUEST = {
    ("serving.aweigh.dev", "inferenceservices/finalizers", "update"),
    *(("discovery.k8s.io", "endpointslices", verb) for verb in ("list", "watch")),
}
"""Owner references that block deletion need the first; nobody can give routers what he has not."""
SELDOM = {("serving.aweigh.dev", "inferenceservices", "get")}
"""Whether a service is still there whose status could not be written."""


class Right(NamedTuple):
    """What may be done to a kind of objects."""

    group: str
    resource: str
    verb: str


class Account(NamedTuple):
    """A service account."""

    namespace: str
    name: str


ITS_OWN = Account(OPERATOR_NAMESPACE, OPERATOR)


@pytest.fixture
def service(cluster: Cluster, operator: None, namespace: str) -> Service:
    return Service(cluster, namespace)


def granted(cluster: Cluster, account: Account) -> set[Right]:
    """By the roles that are bound to it."""
    roles = _all(cluster, "clusterroles,roles")
    bindings = _all(cluster, "clusterrolebindings,rolebindings")
    named = {
        (_namespace(each) if each["roleRef"]["kind"] == "Role" else "", each["roleRef"]["name"])
        for each in bindings
        for subject in each.get("subjects", [])
        if subject["kind"] == "ServiceAccount"
        and (subject.get("namespace"), subject["name"]) == account
    }
    return {
        Right(group, resource, verb)
        for role in roles
        if (_namespace(role), role["metadata"]["name"]) in named
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _namespace(body: dict[str, Any]) -> str:
    """Empty for what belongs to the whole cluster."""
    return str(body["metadata"].get("namespace", ""))


def _all(cluster: Cluster, kinds: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cluster.kubectl("get", kinds, "-A", "-o", "json"))[
        "items"
    ]
    return found


def asked(
    cluster: Cluster, account: Account, begun: int
) -> tuple[set[Right], list[dict[str, Any]]]:
    """What it has asked for, and what it was refused, since so many log entries.

    Before them other tests may have taken the whole release away, roles first.
    """
    user = f"system:serviceaccount:{account.namespace}:{account.name}"
    entries = [each for each in cluster.audit()[begun:] if each["user"]["username"] == user]
    used = {_right(each["objectRef"], each["verb"]) for each in entries if "objectRef" in each}
    decision = "authorization.k8s.io/decision"
    refused = [each for each in entries if each["annotations"][decision] == "forbid"]
    return used, refused


def _right(ref: dict[str, Any], verb: str) -> Right:
    sub = f"/{ref['subresource']}" if "subresource" in ref else ""
    return Right(ref.get("apiGroup", ""), f"{ref['resource']}{sub}", verb)


def test_every_right_is_used_and_none_is_missing(
    service: Service, tell: Callable[[str], None]
) -> None:
    cluster = service.cluster
    begun = len(cluster.audit())
    cluster.kubectl("rollout", "restart", f"deployment/{OPERATOR}", "-n", OPERATOR_NAMESPACE)
    cluster.kubectl(
        "rollout", "status", f"deployment/{OPERATOR}", "-n", OPERATOR_NAMESPACE, "--timeout=90s"
    )
    exercise(service)
    used, refused = asked(cluster, ITS_OWN, begun)
    assert refused == []
    rights = granted(cluster, ITS_OWN)
    assert used - rights <= _open_to_everybody()
    # Who applies what is not there must be allowed to create it; the log has one entry, patch.
    used |= {right._replace(verb="create") for right in used if right.verb == "patch"}
    assert rights - used <= WITHOUT_A_REQUEST | SELDOM
    tell(f"{len(rights)} rights, each of them used; nothing else asked for")


def test_every_right_of_a_router_is_used_and_none_is_missing(service: Service) -> None:
    cluster, router = service.cluster, Account(service.namespace, f"{service.name}-router")
    begun = len(cluster.audit())
    service.apply(model=SMALL, replicas=2)
    service.wait_ready()
    service.wait_for_reason("RouterReady", "Available")
    rights = granted(cluster, router)
    assert {right.resource for right in rights} == {"endpointslices"}
    cluster.wait("it to use them", lambda: asked(cluster, router, begun)[0] >= rights)
    assert asked(cluster, router, begun) == (rights, [])


def _open_to_everybody() -> set[Right]:
    """What Kubernetes lets every account do."""
    return {Right("authorization.k8s.io", "selfsubjectaccessreviews", "create")}


def exercise(service: Service) -> None:
    """What needs each of them: all of a life of a service."""
    cluster, where = service.cluster, ("-n", service.namespace)
    service.apply(model=SMALL, replicas=2)
    service.wait_ready()
    cluster.kubectl("scale", "deployment", service.name, "--replicas=3", *where)  # autoscalers
    cluster.wait("the spec to count", lambda: service.size() == 2)
    service.apply(model=SMALL, replicas=1, networkPolicy={"enabled": False})  # marks, deletions
    cluster.wait("one pod", lambda: len(service.pods()) == 1)
    gone = ("networkpolicy", "pdb")
    cluster.wait(
        "children that are not wanted to go",
        lambda: all(cluster.get(kind, service.name, service.namespace) is None for kind in gone),
    )
    cluster.wait(
        "all of the router to go",
        lambda: cluster.get("role", f"{service.name}-router", service.namespace) is None,
    )
    # A volume that cannot be mounted stands only in events.
    waiting = Service(cluster, service.namespace, "waiting")
    waiting.apply(model=SMALL, auth={"apiKeys": {"secretRef": {"name": "nobody"}}})
    waiting.wait_for_reason("WorkloadReady", "MountFailed")
    # A Job that fetches: nobody answers it, so it stays until it is not wanted.
    fetching = Service(cluster, service.namespace, "fetching")
    cache = {"claim": "nobody"}
    fetching.apply(model={"uri": "hf://a/b", "cache": {**cache, "prefetch": True}}, replicas=0)
    cluster.wait("a Job", lambda: cluster.get("job", "fetching", service.namespace))
    fetching.apply(model={"uri": "hf://a/b", "cache": cache}, replicas=0)
    cluster.wait("no Job", lambda: cluster.get("job", "fetching", service.namespace) is None)
    # A Lease that somebody has deleted is made again.
    cluster.kubectl("delete", "lease", OPERATOR, "-n", OPERATOR_NAMESPACE)
    cluster.wait("the Lease", lambda: cluster.get("lease", OPERATOR, OPERATOR_NAMESPACE))
    # An event that happens again is counted.
    for _ in range(2):
        service.apply(model=SMALL, suspend=True)
        service.wait_for_reason("WorkloadReady", "Suspended")
        service.apply(model=SMALL)
        service.wait_ready()
