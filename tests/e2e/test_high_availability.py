"""Two operators: one works, the other takes over."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.cluster import OPERATOR_NAMESPACE, Cluster
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

NAME = "aweigh-operator"
SMALL = {"uri": "builtin://helmsman-1m-draft"}
TAKEOVER_S = 15.0


@pytest.fixture(scope="module")
def two(cluster: Cluster, operator: None) -> Iterator[None]:
    """The installed operator, twice."""
    _scale(cluster, 2)
    yield
    _scale(cluster, 1)


def _scale(cluster: Cluster, count: int) -> None:
    where = ("-n", OPERATOR_NAMESPACE)
    cluster.kubectl("scale", f"deployment/{NAME}", f"--replicas={count}", *where)
    cluster.kubectl("rollout", "status", f"deployment/{NAME}", *where, "--timeout=90s")
    cluster.wait("as many operators", lambda: len(operators(cluster)) == count)


def operators(cluster: Cluster) -> list[dict[str, Any]]:
    return list(cluster.list("pods", OPERATOR_NAMESPACE, f"app.kubernetes.io/name={NAME}"))


def holder(cluster: Cluster) -> str:
    """The pod that works."""
    lease = cluster.get("lease", NAME, OPERATOR_NAMESPACE)
    assert lease is not None
    return str(lease["spec"].get("holderIdentity", ""))


def followed_after_s(cluster: Cluster, leader: str) -> float:
    began = time.monotonic()
    cluster.wait("another holder", lambda: holder(cluster) not in ("", leader), TAKEOVER_S + 5)
    return time.monotonic() - began


def wait_for_two(cluster: Cluster) -> None:
    where = ("-n", OPERATOR_NAMESPACE)
    cluster.kubectl("rollout", "status", f"deployment/{NAME}", *where, "--timeout=90s")
    cluster.wait("two operators", lambda: len(operators(cluster)) == 2)


def test_an_operator_that_dies_is_followed_and_services_go_on(
    cluster: Cluster, two: None, namespace: str, tell: Callable[[str], None]
) -> None:
    service = Service(cluster, namespace)
    service.apply(model=SMALL)
    service.wait_ready()
    leader = cluster.wait("a holder", lambda: holder(cluster))
    where = ("-n", OPERATOR_NAMESPACE)
    cluster.kubectl("delete", "pod", leader, *where, "--grace-period=0", "--force")
    taken_s = followed_after_s(cluster, leader)
    assert taken_s <= TAKEOVER_S
    other = Service(cluster, namespace, "other")
    other.apply(model=SMALL)
    other.wait_ready()
    service.apply(model=SMALL, replicas=2)
    service.wait_ready()
    wait_for_two(cluster)
    tell(f"an operator that was killed was followed after {taken_s:.1f} s")


def test_an_operator_that_ends_in_order_is_followed_at_once(
    cluster: Cluster, two: None, tell: Callable[[str], None]
) -> None:
    leader = cluster.wait("a holder", lambda: holder(cluster))
    cluster.kubectl("delete", "pod", leader, "-n", OPERATOR_NAMESPACE, "--wait=false")
    taken_s = followed_after_s(cluster, leader)
    assert taken_s <= 9  # it finishes what it has begun
    wait_for_two(cluster)
    tell(f"an operator that ended was followed after {taken_s:.1f} s")


def test_only_the_holder_reconciles(cluster: Cluster, two: None, namespace: str) -> None:
    leader = cluster.wait("a holder", lambda: holder(cluster))
    service = Service(cluster, namespace)
    service.apply(model=SMALL)
    service.wait_ready()
    (other,) = (
        pod["metadata"]["name"] for pod in operators(cluster) if pod["metadata"]["name"] != leader
    )
    where = ("-n", OPERATOR_NAMESPACE)
    assert f"{namespace}/chat" in cluster.kubectl("logs", leader, *where)
    assert f"{namespace}/chat" not in cluster.kubectl("logs", other, *where)
