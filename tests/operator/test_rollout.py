"""New pods replace old ones: one more where there is room, else in their own places."""

from typing import Any

import pytest

from aweigh_api import names
from aweigh_operator.observe import Manifest
from tests.operator import fakes
from tests.operator.fakes import KEY, Clock, FakeCluster, Operator

A_WHILE_S = 61  # longer than a node is waited for
SURGE, IN_PLACE = {"maxSurge": 1, "maxUnavailable": 0}, {"maxSurge": 0, "maxUnavailable": 1}
FULL = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


async def rolling(count: int, **spec: Any) -> Operator:
    """A service of so many pods, all of an old template."""
    cluster = FakeCluster()
    cluster.put(fakes.service({"replicas": count, "router": {"replicas": 0}, **spec}))
    operator = Operator(cluster)
    await operator.settle()
    for number in range(count):
        cluster.put(fakes.pod(f"old-{number}", ready=True, hash="old"))
    await operator.settle()
    return operator


def new_pod(operator: Operator, message: str) -> None:
    """One of the new template that no node takes, as it turns out now."""
    metadata = operator.cluster.objects["Deployment", KEY]["metadata"]
    scheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": fakes.NOW_TEXT,
    }
    hash_ = metadata["annotations"][names.TEMPLATE_HASH]
    operator.cluster.put(fakes.pod("new", hash=hash_, scheduled=scheduled))


async def waits(operator: Operator, clock: Clock, message: str) -> None:
    """No node takes the new pod for a while."""
    new_pod(operator, message)
    await operator.settle()
    clock.now_s += A_WHILE_S
    await operator.settle()


def strategy(operator: Operator) -> Manifest:
    found: Manifest = operator.cluster.objects["Deployment", KEY]["spec"]["strategy"]
    return found["rollingUpdate"]  # type: ignore[no-any-return]


async def test_one_more_is_the_rule_and_one_less_where_downtime_is_allowed() -> None:
    assert strategy(await rolling(1)) == SURGE
    assert strategy(await rolling(1, rollout={"allowDowntime": True})) == IN_PLACE


@pytest.mark.parametrize(
    "message",
    [
        FULL,
        "0/2 nodes are available: 2 Too many pods.",
        "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.",
        "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.",
    ],
)
async def test_what_a_pod_that_goes_gives_back_is_room(clock: Clock, message: str) -> None:
    operator = await rolling(2)
    await waits(operator, clock, message)
    assert strategy(operator) == IN_PLACE


async def test_where_no_node_has_room_two_pods_are_replaced_in_their_places(clock: Clock) -> None:
    operator = await rolling(2)
    new_pod(operator, FULL)
    await operator.settle()
    clock.now_s += A_WHILE_S - 2
    await operator.settle()
    assert strategy(operator) == SURGE  # a node may be on its way
    clock.now_s += 2
    await operator.settle()
    assert strategy(operator) == IN_PLACE
    # Its place is free: it starts, and the rest goes the same way.
    hash_ = operator.cluster.objects["Deployment", KEY]["metadata"]["annotations"]
    operator.cluster.put(fakes.pod("new", ready=True, hash=hash_[names.TEMPLATE_HASH]))
    operator.cluster.remove("Pod", KEY._replace(name="old-0"))
    await operator.settle()
    assert strategy(operator) == IN_PLACE
    operator.cluster.remove("Pod", KEY._replace(name="old-1"))
    await operator.settle()
    assert strategy(operator) == SURGE


async def test_a_single_pod_serves_on_until_there_is_room(clock: Clock) -> None:
    operator = await rolling(1)
    await waits(operator, clock, FULL)
    assert strategy(operator) == SURGE
    status, reason, message = operator.condition("Ready")
    assert (status, reason) == ("True", "RolloutBlocked")
    assert message.startswith("1 of 1 pods serve, but no node has room for the new pod new")
    assert "or set rollout.allowDowntime" in message
    operator.cluster.edit(
        names.KIND, lambda body: body["spec"].update(rollout={"allowDowntime": True})
    )
    await operator.settle()
    assert strategy(operator) == IN_PLACE


@pytest.mark.parametrize(
    "message",
    [
        "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
        'persistentvolumeclaim "models" not found',
    ],
)
async def test_no_pod_goes_for_one_that_would_not_come_either(clock: Clock, message: str) -> None:
    operator = await rolling(2)
    await waits(operator, clock, message)
    assert strategy(operator) == SURGE
    assert operator.condition("Ready")[1] in ("Unschedulable", "MountFailed")


async def test_new_pods_beside_none_of_old_are_no_rollout(clock: Clock) -> None:
    cluster = FakeCluster()
    cluster.put(fakes.service({"replicas": 2}))
    operator = Operator(cluster)
    await operator.settle()
    await waits(operator, clock, FULL)
    assert strategy(operator) == SURGE
    assert operator.condition("Ready")[1] == "Unschedulable"


@pytest.mark.parametrize("wrong_s", [3600, 60, -600])
async def test_a_clock_that_is_wrong_or_jumps_neither_hurries_a_rollout_nor_holds_it(
    clock: Clock, wrong_s: float
) -> None:
    clock.wrong_s = wrong_s
    two, one = await rolling(2), await rolling(1)
    for operator in (two, one):
        new_pod(operator, FULL)
        await operator.settle()
    clock.wrong_s = -wrong_s
    for operator in (two, one):
        await operator.settle()
    assert strategy(two) == SURGE
    assert one.condition("Ready")[1] != "RolloutBlocked"
    clock.now_s += A_WHILE_S
    for operator in (two, one):
        await operator.settle()
    assert strategy(two) == IN_PLACE
    assert one.condition("Ready")[1] == "RolloutBlocked"


async def test_a_pod_that_found_a_node_and_lost_it_is_waited_for_anew(clock: Clock) -> None:
    operator = await rolling(2)
    new_pod(operator, FULL)
    await operator.settle()
    metadata = operator.cluster.objects["Deployment", KEY]["metadata"]
    hash_ = metadata["annotations"][names.TEMPLATE_HASH]
    operator.cluster.put(fakes.pod("new", hash=hash_))
    await operator.settle()
    clock.now_s += A_WHILE_S
    new_pod(operator, FULL)
    await operator.settle()
    clock.now_s += A_WHILE_S / 2
    await operator.settle()
    assert strategy(operator) == SURGE
