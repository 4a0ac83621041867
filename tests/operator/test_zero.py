"""A service without pods: when the last one goes, and what brings the first one back."""

import copy
from typing import Any

import pytest

from aweigh_api import names
from aweigh_api.router_state import RouterState
from aweigh_operator.observe import Key, Manifest
from tests.operator import fakes
from tests.operator.fakes import KEY, Clock, FakeCluster, Operator
from tests.operator.scaling.looks import report

SCALING = {"minReplicas": 0, "maxReplicas": 3, "idleAfterSeconds": 60}
# What is the matter with a pod that does not serve.
NO_IMAGE: Manifest = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
UP_AND_DOWN: Manifest = {
    "ready": True,
    "restarts": 4,
    "last": {"exitCode": 1, "reason": "Error"},
}
POD, OLD = Key(KEY.namespace, "chat-0"), Key(KEY.namespace, "chat-old")
NO_ROOM = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
WRONG_NODES = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."


class World:
    """An operator, the pods that it asks for, and what routers have counted."""

    def __init__(self, clock: Clock, **spec: Any) -> None:
        self.clock = clock
        self.cluster = FakeCluster()
        self.cluster.put(fakes.service({"scaling": SCALING, **spec}))
        self.operator = Operator(self.cluster)
        self.arrived = self.waiting = 0
        self.silent = self.routers_end = False
        self.broken: Manifest | None = None  # what is the matter with each pod that serves models

    @property
    def size(self) -> int:
        size: int = self.cluster.objects["Deployment", KEY]["spec"]["replicas"]
        return size

    @property
    def noted(self) -> Manifest:
        found: Manifest = self.cluster.objects["Deployment", KEY]["metadata"]["annotations"]
        return found

    async def pass_(self, seconds: float) -> None:
        for _ in range(round(seconds / 5)):
            self.clock.now_s += 5
            await self.step()

    async def step(self) -> None:
        self.run_pods()
        self.tell()
        while await self.operator.reconcile() == 0.0:
            self.run_pods()

    def run_pods(self) -> None:
        self.cluster.run_pods()
        for (kind, key), body in list(self.cluster.objects.items()):
            if kind == "Pod" and self.broken and "router" not in key.name:
                status = fakes.pod(key.name, **copy.deepcopy(self.broken))["status"]
                for ended in [each["lastState"] for each in status["containerStatuses"]]:
                    ended.get("terminated", {})["message"] = f"at {self.clock.now_s // 20}"
                self.cluster.put({**body, "status": status})
            if kind == "Pod" and self.routers_end and "router" in key.name:
                ends = {**body["metadata"], "deletionTimestamp": fakes.NOW_TEXT}
                status = fakes.pod(key.name, ready=False, running=True)["status"]
                self.cluster.put({**body, "metadata": ends, "status": status})

    def tell(self) -> None:
        """Reports of all that run."""
        self.operator.reports.states, self.operator.routers.states = {}, {}
        for (kind, key), body in self.cluster.objects.items():
            if kind != "Pod" or self.silent:
                continue
            uid = body["metadata"]["uid"]
            if "router" in key.name:
                self.operator.routers.states[uid] = self._router(uid)
            else:
                state = report(uid, self.arrived, self.clock.now_s, 0.5)
                self.operator.reports.states[uid] = state.model_copy(update={"running": 0})

    def _router(self, uid: str) -> RouterState:
        return RouterState(
            boot_id=uid,
            uptime_s=self.clock.now_s,
            phase="ready",
            arrived_requests=self.arrived,
            waiting=self.waiting,
            in_flight=0,
        )

    async def ready_for(self, seconds: float) -> set[tuple[str, str]]:
        """What Ready was in this time."""
        found = set()
        for _ in range(round(seconds / 5)):
            await self.pass_(5)
            found.add(self.conditions()["Ready"])
        return found

    def conditions(self) -> dict[str, tuple[str, str]]:
        told: list[Manifest] = self.operator.status()["conditions"]
        return {each["type"]: (each["status"], each["reason"]) for each in told}


class FullWorld(World):
    """One that has room for a single pod, and whose controllers see only how a step has ended."""

    message = NO_ROOM  # why no node takes another one

    async def step(self) -> None:
        self.run_pods()
        self.tell()
        while await self.operator.reconcile() == 0.0:
            pass

    def run_pods(self) -> None:
        objects = self.cluster.objects
        before = objects.get(("Pod", OLD)) or objects.get(("Pod", POD))
        super().run_pods()
        new = objects.get(("Pod", POD))
        if before is None or new is None or hash_of(before) == hash_of(new):
            return
        before["metadata"] |= {"name": OLD.name, "uid": f"uid-of-{OLD.name}"}
        self.cluster.put(before)
        scheduled = {"reason": "Unschedulable", "message": self.message}
        scheduled |= {"type": "PodScheduled", "status": "False"}
        waiting = fakes.pod(POD.name, scheduled=scheduled)["status"]
        self.cluster.put({**new, "status": waiting})


def hash_of(pod: Manifest) -> str:
    found: str = pod["metadata"]["annotations"][names.TEMPLATE_HASH]
    return found


async def asleep(clock: Clock) -> World:
    world = World(clock)
    await world.pass_(120)
    assert world.size == 0
    return world


async def test_a_new_service_shows_once_that_it_serves_and_then_sleeps(clock: Clock) -> None:
    world = World(clock)
    await world.pass_(30)
    assert world.size == 1
    assert world.conditions()["Ready"] == ("True", "Ready")
    await world.pass_(90)
    assert world.size == 0
    told = world.conditions()
    assert told["Ready"] == told["WorkloadReady"] == ("True", "ScaledToZero")
    assert told["RouterReady"] == ("True", "Available")
    assert told["ScalingActive"] == ("True", "ScaledToZero")
    newest = world.operator.status()["scaling"]["history"][0]
    assert (newest["fromReplicas"], newest["toReplicas"]) == (1, 0)


async def test_the_first_request_brings_a_pod_in_one_step(clock: Clock) -> None:
    world = await asleep(clock)
    routers = {f"uid-of-chat-router-{number}" for number in range(2)}
    assert world.operator.routers.heard == routers
    world.arrived, world.waiting = 1, 1
    await world.step()  # no time has passed: a router's word has led here
    assert world.size == 1
    assert world.operator.routers.heard == set()
    assert "2 requests wait for the first one" in world.operator.status()["scaling"]["message"]


async def test_a_request_that_waits_in_a_router_which_ends_brings_a_pod(clock: Clock) -> None:
    world = await asleep(clock)
    world.routers_end = True
    await world.pass_(30)
    assert world.size == 0
    assert len(world.operator.routers.heard) == 2
    world.arrived, world.waiting = 1, 1
    await world.pass_(15)
    assert world.size == 1


async def test_a_request_now_and_then_keeps_the_last_pod(clock: Clock) -> None:
    world = World(clock)
    for _ in range(10):
        world.arrived += 1
        await world.pass_(45)
        assert world.size == 1


async def test_what_routers_do_not_tell_keeps_the_pod_and_the_sleep(clock: Clock) -> None:
    world = World(clock)
    await world.pass_(30)
    world.silent = True
    await world.pass_(300)
    assert world.size == 1
    world.silent = False
    await world.pass_(120)
    assert world.size == 0
    world.silent = True
    await world.pass_(60)
    assert world.size == 0


async def test_a_restarted_operator_wakes_nobody(clock: Clock) -> None:
    world = await asleep(clock)
    world.operator = Operator(world.cluster)
    await world.pass_(60)
    assert world.size == 0
    assert world.operator.routers.heard
    assert world.conditions()["Ready"] == ("True", "ScaledToZero")


async def test_a_sleeping_service_that_shall_not_sleep_is_woken(clock: Clock) -> None:
    world = await asleep(clock)
    awake = {"minReplicas": 1, "maxReplicas": 1}
    world.cluster.edit(names.KIND, lambda body: body["spec"].update(scaling=awake))
    world.cluster.edit(names.KIND, lambda body: body["spec"]["scaling"].pop("idleAfterSeconds", 0))
    await world.pass_(10)
    assert world.size == 1
    assert world.operator.routers.heard == set()


async def test_a_suspended_service_is_not_woken(clock: Clock) -> None:
    world = await asleep(clock)
    world.cluster.edit(names.KIND, lambda body: body["spec"].update(suspend=True))
    world.waiting = 3
    await world.pass_(30)
    assert world.size == 0
    assert world.conditions()["Ready"] == ("False", "Suspended")
    assert world.operator.routers.heard == set()


@pytest.mark.parametrize(
    ("broken", "reason"), [(NO_IMAGE, "ImagePullFailed"), (UP_AND_DOWN, "CrashLooping")]
)
async def test_a_service_that_has_never_served_keeps_its_pod_and_says_why(
    clock: Clock, broken: Manifest, reason: str
) -> None:
    world = World(clock)
    world.broken = broken
    await world.pass_(10)
    assert await world.ready_for(300) == {("False", reason)}
    assert world.size == 1
    world.broken = None
    await world.pass_(90)
    assert world.size == 0
    assert world.conditions()["Ready"] == ("True", "ScaledToZero")


async def test_what_is_up_for_a_moment_between_two_crashes_has_not_served(clock: Clock) -> None:
    world = World(clock)
    world.broken = UP_AND_DOWN
    await world.pass_(60)
    world.cluster.edit(names.KIND, lambda body: body["spec"].update(suspend=True))
    await world.pass_(10)
    assert world.size == 0
    world.cluster.edit(names.KIND, lambda body: body["spec"].pop("suspend"))
    await world.pass_(10)
    assert await world.ready_for(120) == {("False", "CrashLooping")}
    assert world.size == 1


async def test_a_pod_that_crashes_no_more_has_served_once_that_is_seen(clock: Clock) -> None:
    world = World(clock)
    world.broken = UP_AND_DOWN
    await world.pass_(10)
    seen = []
    for _ in range(8):
        clock.now_s += 5
        await world.operator.reconcile(catch_up=False)  # nobody tells anything
        seen.append((world.conditions()["Ready"][0], names.SERVED in world.noted))
    assert set(seen) == {("False", False), ("True", True)}


async def test_a_changed_spec_shows_once_that_it_serves_before_it_sleeps(clock: Clock) -> None:
    world = await asleep(clock)
    other = {"uri": "builtin://helmsman-80m"}
    world.cluster.edit(names.KIND, lambda body: body["spec"].update(model=other))
    world.broken = NO_IMAGE
    await world.step()
    assert world.size == 1
    newest = world.operator.status()["scaling"]["history"][0]
    assert (newest["fromReplicas"], newest["toReplicas"]) == (0, 1)
    assert "has not served yet" in newest["message"]
    world.operator = Operator(world.cluster)
    assert await world.ready_for(300) == {("False", "ImagePullFailed")}
    world.broken = None
    await world.pass_(90)
    assert world.size == 0
    assert world.conditions()["Ready"] == ("True", "ScaledToZero")


async def test_old_pods_stay_while_those_of_a_changed_spec_fail(clock: Clock) -> None:
    world = World(clock)
    await world.pass_(30)
    old = copy.deepcopy(world.cluster.objects["Pod", Key(KEY.namespace, "chat-0")])
    other = {"uri": "builtin://helmsman-80m"}
    world.cluster.edit(names.KIND, lambda body: body["spec"].update(model=other))
    old["metadata"]["name"], old["metadata"]["uid"] = "chat-old", "uid-of-chat-old"
    world.broken = NO_IMAGE
    for _ in range(60):
        clock.now_s += 5
        world.run_pods()
        world.cluster.put(copy.deepcopy(old))
        world.tell()
        await world.operator.reconcile()
    assert world.size == 1
    assert world.conditions()["Ready"] == ("True", "ImagePullFailed")


async def test_a_service_whose_next_pod_fails_does_not_sleep_again(clock: Clock) -> None:
    world = await asleep(clock)
    world.broken = NO_IMAGE
    world.arrived, world.waiting = 1, 1
    await world.step()
    assert world.size == 1
    world.waiting = 0  # its client has gone
    assert await world.ready_for(300) == {("False", "ImagePullFailed")}
    assert world.size == 1


async def test_a_service_made_suspended_shows_once_that_it_serves(clock: Clock) -> None:
    world = World(clock, suspend=True)
    await world.pass_(30)
    assert world.size == 0
    world.cluster.edit(names.KIND, lambda body: body["spec"].pop("suspend"))
    await world.step()
    assert world.size == 1


async def test_where_there_is_room_for_one_pod_a_changed_spec_comes_once_nothing_is_asked(
    clock: Clock,
) -> None:
    world = FullWorld(clock)
    await world.pass_(30)
    other = {"uri": "builtin://helmsman-80m"}
    world.cluster.edit(names.KIND, lambda body: body["spec"].update(model=other))
    for _ in range(5):
        world.arrived += 1
        await world.pass_(45)
        assert ("Pod", OLD) in world.cluster.objects
    assert world.conditions()["Ready"] == ("True", "RolloutBlocked")
    wanted = hash_of(world.cluster.objects["Pod", POD])
    assert world.noted[names.SERVED] != wanted
    for _ in range(24):
        await world.pass_(5)
        told = world.conditions()["WorkloadReady"]
        assert told[0] == "False" or world.noted[names.SERVED] == wanted, told
    assert world.size == 0
    assert world.noted[names.SERVED] == wanted
    assert world.conditions()["Ready"] == ("True", "ScaledToZero")
    newest = world.operator.status()["scaling"]["history"][:3]
    assert [each["toReplicas"] for each in newest] == [0, 1, 0]
    assert "the new pod finds no room beside the old one" in newest[-1]["message"]


async def test_no_pod_goes_for_one_that_finds_no_node_even_then(clock: Clock) -> None:
    world = FullWorld(clock)
    world.message = WRONG_NODES
    await world.pass_(30)
    other = {"uri": "builtin://helmsman-80m"}
    world.cluster.edit(names.KIND, lambda body: body["spec"].update(model=other))
    await world.pass_(300)
    assert world.size == 1
    assert ("Pod", OLD) in world.cluster.objects
    assert world.conditions()["Ready"] == ("True", "Unschedulable")
