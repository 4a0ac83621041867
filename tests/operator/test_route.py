"""Requests go through a router, or straight to the pods, and none is lost in between."""

import asyncio
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aweigh_api import names
from aweigh_api.router_state import RouterState
from aweigh_api.routing import SECRET_FILE
from aweigh_operator import reconcile, route, troubles
from aweigh_operator.observe import Manifest, Observed, Waiting
from aweigh_operator.places import ROUTER_DEPLOYMENT
from aweigh_operator.route import Way
from tests.operator import fakes
from tests.operator.fakes import KEY, Clock, FakeCluster, Operator, at

SETTLE_S = 5  # drain.settleSeconds
CLOSED_AFTER_S = route.CONNECTED_S + 120  # and drain.timeoutSeconds
STRAIGHT, BOTH, ROUTED = Way(False, False), Way(True, False), Way(True, True)
NEEDED = ("ServiceAccount-router", "Role-router", "RoleBinding-router", "Service-pods")


def cluster_with(**spec: Any) -> FakeCluster:
    cluster = FakeCluster()
    cluster.put(fakes.service(spec))
    return cluster


def way(cluster: FakeCluster) -> Way:
    """Of the objects as they are."""
    places = [place for place in ("Service", "NetworkPolicy") if at(place) in cluster.objects]
    return route.way({place: cluster.objects[at(place)] for place in places})


def pods(cluster: FakeCluster, kind: str) -> list[Manifest]:
    """Pods of this name in their labels."""
    found = [body for (of, _), body in cluster.objects.items() if of == "Pod"]
    return [body for body in found if body["metadata"]["labels"][names.LABEL_NAME] == kind]


def set_spec(cluster: FakeCluster, **spec: Any) -> None:
    cluster.edit(names.KIND, lambda body: body["spec"].update(spec))


def change_pods(cluster: FakeCluster, kind: str, change: Callable[[Manifest], None]) -> None:
    for body in pods(cluster, kind):
        edited = copy.deepcopy(body)
        change(edited)
        cluster.put(edited)


def ready(is_ready: bool) -> Callable[[Manifest], None]:
    def change(body: Manifest) -> None:
        body["status"]["conditions"][0]["status"] = str(is_ready)

    return change


async def serving(**spec: Any) -> Operator:
    """A service whose pods and routers serve."""
    operator = Operator(cluster_with(**spec))
    await operator.settle()
    operator.cluster.run_pods()
    await operator.settle()
    return operator


async def test_a_new_service_of_several_pods_is_routed_from_the_start() -> None:
    operator = Operator(cluster_with(replicas=2))
    await operator.settle()
    assert way(operator.cluster) == ROUTED
    assert operator.children()[ROUTER_DEPLOYMENT]["spec"]["replicas"] == 2
    one = Operator(cluster_with(replicas=1))
    await one.settle()
    assert way(one.cluster) == STRAIGHT
    assert not [place for place in one.children() if place.endswith(("-router", "-pods"))]


async def test_a_second_pod_brings_a_router_and_restarts_nothing(clock: Clock) -> None:
    operator = await serving(replicas=1)
    cluster, template = operator.cluster, operator.children()["Deployment"]["spec"]["template"]
    set_spec(cluster, replicas=2)
    await operator.settle()
    assert way(cluster) == STRAIGHT  # no router is ready
    assert operator.condition("RouterReady")[:2] == ("True", "Bypassed")
    cluster.run_pods()
    change_pods(cluster, names.ROUTER, ready(False))
    await operator.settle()
    assert way(cluster) == STRAIGHT
    change_pods(cluster, names.ROUTER, ready(True))
    await operator.settle()
    assert way(cluster) == BOTH  # some clients have not learned it yet, or are still connected
    clock.now_s += CLOSED_AFTER_S - 1
    await operator.settle()
    assert way(cluster) == BOTH
    clock.now_s += 1
    await operator.settle()
    assert way(cluster) == ROUTED
    assert operator.children()["Deployment"]["spec"]["template"] == template
    assert operator.condition("RouterReady")[1:] == ("Available", "2 of 2 routers serve")


async def test_nobody_looks_again_and_again_while_clients_leave_the_pods(clock: Clock) -> None:
    operator = await serving(replicas=1)
    set_spec(operator.cluster, replicas=2)
    await operator.settle()
    operator.cluster.run_pods()
    began_s, looks, again_s = clock.now_s, 0, await operator.reconcile()
    while way(operator.cluster) != ROUTED:
        assert again_s is not None
        clock.now_s += again_s
        again_s = await operator.reconcile()
        looks += 1
    assert clock.now_s - began_s < CLOSED_AFTER_S + 3
    assert looks < 10


async def test_a_router_that_is_wanted_no_longer_drains_with_all_it_needs(clock: Clock) -> None:
    operator = await serving(replicas=2)
    cluster = operator.cluster
    set_spec(cluster, replicas=1)
    await operator.settle()
    assert way(cluster) == BOTH
    assert ROUTER_DEPLOYMENT in operator.children()
    clock.now_s += SETTLE_S
    await operator.settle()
    assert way(cluster) == STRAIGHT
    assert ROUTER_DEPLOYMENT not in operator.children()
    assert set(NEEDED) < set(operator.children())
    cluster.run_pods()
    await operator.settle()
    assert not [place for place in operator.children() if place.endswith(("-router", "-pods"))]
    assert "RouterReady" not in {each["type"] for each in operator.status()["conditions"]}


async def test_pods_of_an_older_version_are_reached_past_the_router(clock: Clock) -> None:
    operator = await serving(replicas=1)
    cluster = operator.cluster

    def forget(pods: Manifest) -> None:
        volumes = pods["spec"]["volumes"]
        pods["spec"]["volumes"] = [v for v in volumes if v["name"] != names.ROUTER_SECRET_VOLUME]

    change_pods(cluster, names.RUNTIME, forget)
    set_spec(cluster, replicas=2)
    await operator.settle()
    router = copy.deepcopy(operator.children()[ROUTER_DEPLOYMENT])
    for number in range(2):
        body = fakes.pod(f"chat-router-{number}", ready=True)
        body["metadata"]["labels"] = router["spec"]["template"]["metadata"]["labels"]
        cluster.put(body)
    clock.now_s += 60
    await operator.settle()
    assert way(cluster) == STRAIGHT
    status, reason, message = operator.condition("RouterReady")
    assert (status, reason) == ("True", "Bypassed")
    assert "`kubectl aweigh upgrade chat` replaces them" in message


async def test_without_a_router_that_serves_the_service_is_not_ready() -> None:
    operator = await serving(replicas=2)
    assert operator.condition("Ready")[:2] == ("True", "Ready")
    change_pods(operator.cluster, names.ROUTER, ready(False))
    await operator.settle()
    assert operator.condition("RouterReady")[:2] == ("False", "Progressing")
    assert operator.condition("Ready")[:2] == ("False", "Progressing")


async def test_routers_that_are_ready_but_of_an_older_spec_are_not_those_that_are_wanted() -> None:
    operator = await serving(replicas=1)
    cluster = operator.cluster
    set_spec(cluster, replicas=2)
    await operator.settle()
    cluster.run_pods()
    set_spec(cluster, auth={"apiKeys": {"secretRef": {"name": "keys"}}})  # those have none
    await operator.settle()
    assert way(cluster) == STRAIGHT
    cluster.run_pods()
    await operator.settle()
    assert way(cluster) == BOTH
    assert operator.condition("RouterReady")[1] == "Available"
    set_spec(cluster, drain={"timeoutSeconds": 60})
    await operator.settle()
    told = ("True", "Progressing", "2 of 2 routers serve; a rollout replaces them")
    assert operator.condition("RouterReady") == told
    assert operator.condition("Ready")[0] == "True"
    surge = copy.deepcopy(pods(cluster, names.ROUTER)[0])
    surge["metadata"] |= {"name": "chat-router-new", "uid": "new"}
    cluster.put(surge)
    await operator.settle()
    assert operator.condition("RouterReady") == told
    cluster.run_pods()
    await operator.settle()
    assert operator.condition("RouterReady")[1:] == ("Available", "2 of 2 routers serve")


@pytest.mark.parametrize("serving_routers", [0, 2])
async def test_routers_that_the_api_server_refuses_are_told_of(serving_routers: int) -> None:
    operator = await serving(replicas=2)
    cluster = operator.cluster
    if not serving_routers:
        change_pods(cluster, names.ROUTER, ready(False))
    failed = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods"}
    cluster.edit(ROUTER_DEPLOYMENT, lambda body: body.update(status={"conditions": [failed]}))
    await operator.settle()
    status, reason, message = operator.condition("RouterReady")
    assert (status, reason) == (str(serving_routers > 0), "PodsRefused")
    assert message == (
        f"{serving_routers} of 2 routers serve: the API server refuses new routers: "
        "exceeded quota: pods"
    )
    assert operator.condition("WorkloadReady")[:2] == ("True", "Available")


def test_a_rollout_of_routers_that_takes_too_long_is_told_of() -> None:
    late = {"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "1 old pod"}
    deployment = {"status": {"conditions": [late]}}  # of whose spec somebody has removed a field
    trouble = troubles.of_routers(Observed(body={}, children={ROUTER_DEPLOYMENT: deployment}), None)
    assert trouble is not None
    assert trouble.reason == "ProgressDeadlineExceeded"
    assert trouble.message == "the rollout did not finish within 120 s: 1 old pod"


async def test_pods_that_hold_another_secret_than_the_routers_are_warned_of() -> None:
    operator = await serving(replicas=2)

    def tell(*blind: int | None) -> None:
        for body, number in zip(pods(operator.cluster, names.ROUTER), blind, strict=True):
            state = RouterState(boot_id="a", uptime_s=5.0, phase="ready", blind_pods=number)
            operator.routers.states[body["metadata"]["uid"]] = state

    tell(0, 2)
    await operator.settle()
    status, reason, message = operator.condition("RouterReady")
    assert (status, reason) == ("True", "SecretDiffers")
    assert message.startswith("2 of 2 routers serve, but 2 pods take chat-router-1 for a client")
    assert operator.condition("Ready")[:2] == ("True", "Ready")
    warned = [each for each in operator.cluster.events if each["reason"] == "SecretDiffers"]
    assert [each["type"] for each in warned] == ["Warning"]
    tell(0, None)  # one of an older version does not tell
    await operator.settle()
    assert operator.condition("RouterReady")[1] == "Available"


async def test_routers_learn_from_a_label_why_no_pod_serves() -> None:
    operator = await serving(replicas=2)
    labels = operator.children()["Service-pods"]["metadata"]["labels"]
    assert names.REASON not in labels

    def crash(body: Manifest) -> None:
        ready(False)(body)
        ended = {"exitCode": 1, "reason": "Error", "message": "no"}
        waits = {"reason": "CrashLoopBackOff"}
        container = body["status"]["containerStatuses"][0]
        container.update(state={"waiting": waits}, lastState={"terminated": ended}, restartCount=3)

    change_pods(operator.cluster, names.RUNTIME, crash)
    await operator.settle()
    labels = operator.children()["Service-pods"]["metadata"]["labels"]
    assert labels[names.REASON] == "CrashLooping"
    operator.cluster.run_pods()
    await operator.settle()
    assert names.REASON not in operator.children()["Service-pods"]["metadata"]["labels"]


async def test_routers_learn_from_a_label_which_name_comes_before_a_pod_has_it() -> None:
    operator = await serving(replicas=2)

    def label() -> str:
        labels: dict[str, str] = operator.children()["Service-pods"]["metadata"]["labels"]
        return labels[names.MODEL]

    assert label() == names.model_label("chat")
    model = {"uri": "builtin://helmsman-8m", "name": "our/model:2"}  # no value of a label
    set_spec(operator.cluster, model=model)
    await operator.reconcile()
    assert label() == names.model_label("our/model:2")


async def test_a_newer_operator_restarts_no_router_and_an_upgrade_moves_it() -> None:
    operator = await serving(replicas=2)
    newer = replace(fakes.SETTINGS, router_image="registry.example/aweigh-router:2")
    cluster = operator.cluster

    def image() -> str:
        pods = cluster.objects[at(ROUTER_DEPLOYMENT)]["spec"]["template"]["spec"]
        return str(pods["containers"][0]["image"])

    operator = Operator(cluster, settings=newer)
    await operator.settle()
    assert image() == fakes.ROUTER_IMAGE
    cluster.edit(names.KIND, lambda body: body["metadata"].update(annotations={names.UPGRADE: "1"}))
    await operator.settle()
    assert image() == "registry.example/aweigh-router:2"


async def test_the_secret_is_made_once_and_again_when_pods_miss_it(clock: Clock) -> None:
    operator = Operator(cluster_with(replicas=1))
    await operator.settle()
    ((name, secret),) = operator.cluster.secrets.items()
    assert name == "chat-router-uid-of-c"
    assert len(secret["stringData"][SECRET_FILE]) == 64
    again = Operator(operator.cluster)
    set_spec(operator.cluster, replicas=2)
    await again.settle()
    assert operator.cluster.secrets == {name: secret}
    operator.cluster.secrets.clear()
    operator.cluster.put(fakes.pod(waiting={"reason": "ContainerCreating"}))
    missing = f'secret "{name}" not found'
    operator.cluster.stuck_pods["chat-1"] = Waiting("FailedMount", missing)
    await again.reconcile()
    clock.now_s += 10
    await again.reconcile()
    assert list(operator.cluster.secrets) == [name]


specs = st.fixed_dictionaries(
    {
        "replicas": st.integers(0, 3),
        "suspend": st.booleans(),
        "networkPolicy": st.fixed_dictionaries({"enabled": st.sampled_from([True, True, False])}),
        "router": st.sampled_from([None, None, {"replicas": 0}, {"replicas": 1}]),
    }
)
deeds = st.one_of(
    st.tuples(st.just("spec"), specs),
    st.tuples(st.just("look away"), st.none()),
    st.tuples(st.just("pods"), st.none()),
    st.tuples(st.just("pods"), st.none()),
    st.tuples(st.just("routers are ready"), st.booleans()),
    st.tuples(st.just("pods are ready"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 6.0])),
    st.tuples(st.just("restart operator"), st.none()),
)


class Watched:
    """A cluster in which every step is looked at."""

    def __init__(self, clock: Clock, spec: Manifest) -> None:
        self._clock = clock
        self._cluster = cluster_with(**_given(spec))
        self._operator = Operator(self._cluster)
        self._open_since_s: float | None = None
        self._routed_since_s: float | None = None
        self._way: Way | None = None

    async def do(self, deed: str, value: Any) -> None:
        cluster = self._cluster
        if deed == "spec":
            body = cluster.objects[names.KIND, KEY]
            cluster.put({**body, "spec": {**body["spec"], **_given(value)}})
            if value["router"] is None:
                cluster.edit(names.KIND, lambda body: body["spec"].pop("router", None))
        elif deed == "pods":
            cluster.run_pods()
        elif deed == "routers are ready":
            change_pods(cluster, names.ROUTER, ready(value))
        elif deed == "pods are ready":
            change_pods(cluster, names.RUNTIME, ready(value))
        elif deed == "wait":
            self._clock.now_s += value
        elif deed == "restart operator":
            self._operator = Operator(cluster)
        await self._step(catch_up=deed != "look away")

    async def _step(self, *, catch_up: bool) -> None:
        if catch_up:
            self._operator.watch.catch_up()
        routers = [pod.ready for pod in self._operator.store.routers(KEY)]
        serves = any(pod.ready for pod in self._operator.store.pods(KEY))
        await self._operator.reconcile(catch_up=False)
        self._check(routers, serves)

    def _check(self, routers: list[bool], serves: bool) -> None:
        now, before, now_s = way(self._cluster), self._way, self._clock.now_s
        spec = self._cluster.objects[names.KIND, KEY]["spec"]
        stopped = spec["suspend"] or spec["replicas"] == 0
        if not now.by_router:
            assert not now.closed, "clients are led to pods that do not let them in"
        if before is not None and now.by_router and not before.by_router:
            served = all(routers) and len(routers) > 0
            assert served or not serves, "clients are led to routers that are not ready"
        if before is not None and before.by_router and not now.by_router:
            opened = self._open_since_s is not None and now_s - self._open_since_s >= SETTLE_S
            assert stopped or (opened and serves), "clients are led to pods too early"
        if before is not None and now.closed and not before.closed and before.by_router:
            learned = self._routed_since_s is not None and now_s - self._routed_since_s >= SETTLE_S
            assert learned, "pods are closed before clients know"
        if routers:
            there = {place for place in NEEDED if at(place) in self._cluster.objects}
            assert there == set(NEEDED), "routers lack what they need"
        if now.closed or before is None or before.closed:
            self._open_since_s = None if now.closed else now_s
        if not now.by_router or before is None or not before.by_router:
            self._routed_since_s = now_s if now.by_router else None
        self._way = now


def _given(spec: Manifest) -> Manifest:
    return {part: value for part, value in spec.items() if value is not None}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(spec=specs, history=st.lists(deeds, min_size=3, max_size=12))
def test_no_client_is_led_where_nobody_answers(
    spec: Manifest, history: list[tuple[str, Any]]
) -> None:
    async def play(clock: Clock) -> None:
        watched = Watched(clock, spec)
        for deed, value in (("look away", None), ("pods", None), *history):
            await watched.do(deed, value)

    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(reconcile, "time", clock)
        patch.setattr(reconcile, "datetime", clock)
        asyncio.run(play(clock))
