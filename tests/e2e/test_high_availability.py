"""Two operators: one works, the other takes over."""

from collections.abc import Callable, Iterator

import pytest

from tests.cluster.cluster import OPERATOR_NAMESPACE, Cluster
from tests.e2e import deaths, operators
from tests.e2e.operators import TAKEOVER_S, followed_after_s, holder
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

SMALL = {"uri": "builtin://helmsman-1m-draft"}


@pytest.fixture(scope="module")
def two(cluster: Cluster, operator: None) -> Iterator[None]:
    """The installed operator, twice."""
    with operators.two(cluster):
        yield


def test_an_operator_that_dies_is_followed_and_services_go_on(
    cluster: Cluster, two: None, namespace: str, tell: Callable[[str], None]
) -> None:
    if not cluster.on_this_machine:
        pytest.skip("processes of this cluster cannot be killed from here")
    service = Service(cluster, namespace)
    service.apply(model=SMALL)
    service.wait_ready()
    leader = cluster.wait("a holder", lambda: holder(cluster))
    (pod,) = (each for each in operators.pods(cluster) if each["metadata"]["name"] == leader)
    deaths.kill(pod)
    # As when its node dies: else its container would start again and go on under its name.
    where = ("-n", OPERATOR_NAMESPACE)
    cluster.kubectl("delete", "pod", leader, *where, "--grace-period=0", "--force")
    taken_s = followed_after_s(cluster, leader)
    assert taken_s <= TAKEOVER_S
    other = Service(cluster, namespace, "other")
    other.apply(model=SMALL)
    other.wait_ready()
    service.apply(model=SMALL, replicas=2)
    service.wait_ready()
    operators.wait_for(cluster, 2)
    tell(f"an operator that was killed was followed after {taken_s:.1f} s")


def test_an_operator_that_ends_in_order_is_followed_at_once(
    cluster: Cluster, two: None, tell: Callable[[str], None]
) -> None:
    leader = cluster.wait("a holder", lambda: holder(cluster))
    cluster.kubectl("delete", "pod", leader, "-n", OPERATOR_NAMESPACE, "--wait=false")
    taken_s = followed_after_s(cluster, leader)
    assert taken_s <= 9  # it finishes what it has begun
    operators.wait_for(cluster, 2)
    tell(f"an operator that ended was followed after {taken_s:.1f} s")


def test_only_the_holder_reconciles(cluster: Cluster, two: None, namespace: str) -> None:
    leader = cluster.wait("a holder", lambda: holder(cluster))
    service = Service(cluster, namespace)
    service.apply(model=SMALL)
    service.wait_ready()
    (other,) = (
        pod["metadata"]["name"]
        for pod in operators.pods(cluster)
        if pod["metadata"]["name"] != leader
    )
    where = ("-n", OPERATOR_NAMESPACE)
    assert f"{namespace}/chat" in cluster.kubectl("logs", leader, *where)
    assert f"{namespace}/chat" not in cluster.kubectl("logs", other, *where)
