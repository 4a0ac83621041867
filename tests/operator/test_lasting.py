"""What must last before it counts is measured by a clock that never goes back."""

import pytest

from aweigh_api import names
from aweigh_operator.observe import Manifest
from aweigh_operator.troubles import STEADY_AFTER_S
from tests.operator import fakes
from tests.operator.fakes import Clock, FakeCluster, Operator

CRASHED_AT = {"first": "2026-11-23T11:59:00Z", "second": "2026-11-23T11:59:50Z"}
RESTARTS = {"first": 2, "second": 3}


def crashed_pod(crash: str = "first") -> Manifest:
    """It is up again after repeated crashes, this one the last."""
    last = {"exitCode": 1, "reason": "Error", "finishedAt": CRASHED_AT[crash]}
    return fakes.pod(ready=True, restarts=RESTARTS[crash], last=last)


async def up_again() -> Operator:
    """A service whose only pod has just come up after a crash."""
    cluster = FakeCluster()
    cluster.put(fakes.service())
    operator = Operator(cluster)
    await operator.settle()
    cluster.put(crashed_pod())
    await operator.settle()
    return operator


def ready(operator: Operator) -> tuple[str, str]:
    return operator.condition("Ready")[:2]


@pytest.mark.parametrize("wrong_s", [0, 3600, -600])
async def test_a_pod_that_crashed_repeatedly_counts_after_a_quiet_while_whatever_the_time_of_day(
    clock: Clock, wrong_s: float
) -> None:
    clock.wrong_s = wrong_s
    operator = await up_again()
    clock.now_s += STEADY_AFTER_S - 1
    clock.wrong_s = -wrong_s
    await operator.settle()
    assert ready(operator) == ("False", "CrashLooping")
    clock.now_s += 1
    await operator.settle()
    assert operator.condition("Ready")[0] == "True"


async def test_the_next_crash_is_waited_for_anew(clock: Clock) -> None:
    operator = await up_again()
    clock.now_s += STEADY_AFTER_S - 1
    operator.cluster.put(crashed_pod("second"))
    await operator.settle()
    clock.now_s += STEADY_AFTER_S - 1
    await operator.settle()
    assert ready(operator) == ("False", "CrashLooping")


async def test_a_new_operator_believes_that_a_pod_which_served_has_crashed_long_ago(
    clock: Clock,
) -> None:
    operator = await up_again()
    clock.now_s += STEADY_AFTER_S
    await operator.settle()
    new = Operator(operator.cluster)
    await new.settle()
    assert new.condition("Ready")[0] == "True"
    new.cluster.put(crashed_pod("second"))
    await new.settle()
    assert ready(new) == ("False", "CrashLooping")


async def test_a_new_operator_waits_anew_for_a_pod_that_did_not_serve(clock: Clock) -> None:
    operator = await up_again()
    new = Operator(operator.cluster)
    await new.settle()
    assert ready(new) == ("False", "CrashLooping")
    clock.now_s += STEADY_AFTER_S
    await new.settle()
    assert new.condition("Ready")[0] == "True"


@pytest.mark.parametrize("valid", [True, False])
async def test_a_new_operator_leaves_a_service_ready_that_answers_with_fewer_pods_than_wanted(
    clock: Clock, valid: bool
) -> None:
    cluster = FakeCluster()
    cluster.put(fakes.service({"replicas": 3, "router": {"replicas": 0}}))
    operator = Operator(cluster)
    await operator.settle()
    for name in ("a", "b"):
        cluster.put({**crashed_pod(), "metadata": fakes.pod(name)["metadata"]})
    await operator.settle()
    clock.now_s += STEADY_AFTER_S
    if not valid:
        cluster.edit(names.KIND, lambda body: body["spec"].update(unheardOf=1))
    await operator.settle()
    before = operator.condition("Ready"), operator.condition("WorkloadReady")
    assert (before[0][0], before[1][0]) == ("True", "False")
    new = Operator(cluster)
    await new.settle()
    assert (new.condition("Ready"), new.condition("WorkloadReady")) == before
