"""From reports to replicas: a whole operator, with pods that tell what they have counted."""

import asyncio
from typing import Any

import pytest

from aweigh_api import names
from aweigh_operator import reconcile
from aweigh_operator.autoscalers import AGAIN_S, FORGOTTEN_S, Autoscalers
from aweigh_operator.autoscaling import LOOK_S
from aweigh_operator.cluster import ApiError
from aweigh_operator.observe import Autoscaler, Key, Manifest
from tests.operator import fakes
from tests.operator.fakes import KEY, Clock, FakeCluster, Operator
from tests.operator.scaling.looks import report

SCALING = {"minReplicas": 1, "maxReplicas": 6}
DRY_RUN = {"scaling": {**SCALING, "mode": "DryRun"}, "replicas": 1}
THEIRS = Autoscaler("theirs", "Deployment", KEY.name)
OF_THE_SERVICE = Autoscaler("keda-hpa-chat", names.KIND, KEY.name)
BUSY, CALM = 100.0, 3.0  # requests per second for several pods, and for one


class World:
    """An operator, the pods of its Deployment, and clients."""

    def __init__(self, clock: Clock, **spec: Any) -> None:
        self.clock = clock
        self.cluster = FakeCluster()
        self.cluster.put(fakes.service({"scaling": SCALING, "router": {"replicas": 0}, **spec}))
        self.operator = Operator(self.cluster)
        self.counted: dict[str, float] = {}
        self.silent: set[str] = set()
        self.quota = 100  # of pods
        self.born = 0

    @property
    def size(self) -> int:
        size: int = self.cluster.objects["Deployment", KEY]["spec"]["replicas"]
        return size

    @property
    def pods(self) -> dict[str, Manifest]:
        return {
            key.name: each for (kind, key), each in self.cluster.objects.items() if kind == "Pod"
        }

    async def pass_(self, seconds: float, requests: float = CALM, **kinds: Any) -> None:
        """Time passes, with a step of the operator every few seconds."""
        for _ in range(round(seconds / 5)):
            self.clock.now_s += 5
            self.replace_pods()
            for name in self.pods:
                self.counted[name] = self.counted.get(name, 0.0) + 5 * requests / len(self.pods)
                self.report(name, **kinds)
            while await self.operator.reconcile() == 0.0:
                pass

    def replace_pods(self) -> None:
        """As the controllers of Kubernetes do, at once."""
        if ("Deployment", KEY) not in self.cluster.objects:
            return
        ranked = sorted(self.pods.items(), key=lambda each: _cost(each[1]))
        for name, _ in ranked[: max(0, len(ranked) - self.size)]:
            self.cluster.remove("Pod", Key(KEY.namespace, name))
        for _ in range(min(self.size, self.quota) - len(self.pods)):
            self.born += 1
            self.cluster.put(fakes.pod(f"chat-{self.born}", ready=True))
        if self.size > self.quota:
            failed = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
            self.cluster.edit(
                "Deployment", lambda body: body.update(status={"conditions": [failed]})
            )

    def report(self, name: str, hits: float = 0.5, waiting: int = 0) -> None:
        uid = f"uid-of-{name}"
        if name in self.silent:
            self.operator.reports.states.pop(uid, None)
            return
        arrived = self.counted[name]
        state = report(uid, arrived, self.clock.now_s, hits, waiting)
        saved = {"saved_prefill_seconds": arrived * self.worth(name)}
        self.operator.reports.states[uid] = state.model_copy(update=saved)

    def worth(self, name: str) -> float:
        """Seconds of prefill that the cache of the oldest pods saves for each request."""
        return 1.0 / int(name.removeprefix("chat-"))

    def status(self) -> Manifest:
        found: Manifest = self.operator.status()["scaling"]
        return found

    def active(self) -> tuple[str, str, str]:
        return self.operator.condition("ScalingActive")


def _cost(pod: Manifest) -> int:
    return int(pod["metadata"]["annotations"].get(names.DELETION_COST, "0"))


async def test_load_that_grows_gets_pods_and_everything_says_why(clock: Clock) -> None:
    world = World(clock)
    await world.pass_(120)
    assert world.size == 1
    assert world.active()[:2] == ("True", "Steady")
    await world.pass_(60, BUSY)
    assert world.size > 1
    status = world.status()
    assert status["desiredReplicas"] == world.size
    first = status["history"][-1]
    assert (first["fromReplicas"], first["reason"]) == (1, "LoadGrew")
    assert f"1 → {first['toReplicas']} pods: " in first["message"]
    assert "utilization" in first["message"]
    (event,) = [each for each in world.cluster.events if each["reason"] == "LoadGrew"][:1]
    assert event["note"] == first["message"]


async def test_pods_that_a_quota_refuses_serve_nobody_and_that_is_told(clock: Clock) -> None:
    world = World(clock)
    world.quota = 2
    await world.pass_(120)
    await world.pass_(600, BUSY)
    assert (len(world.pods), world.size) == (2, world.status()["desiredReplicas"])
    assert world.size > 2
    assert world.active()[:2] == ("False", "Unschedulable")
    assert "the API server refuses some of them" in world.active()[2]
    assert " of 80% with 2" in world.active()[2]


async def test_what_somebody_added_to_the_pods_is_told_once_while_their_number_changes(
    clock: Clock,
) -> None:
    world = World(clock)
    await world.pass_(120)

    def set_env(body: Manifest) -> None:
        variables = body["spec"]["template"]["spec"]["containers"][0]["env"]
        variables.append({"name": "DEBUG", "value": "1"})

    world.cluster.edit("Deployment", set_env)
    await world.pass_(60, BUSY)
    assert world.size > 1
    assert world.operator.condition("SpecValid")[1] == "Drifted"
    assert world.operator.times_told("Drifted") == 1


async def test_load_that_falls_costs_the_pod_whose_cache_is_worth_least(clock: Clock) -> None:
    world = World(clock)
    await world.pass_(60)
    await world.pass_(400, BUSY)
    many, marked_before = world.size, len(world.cluster.marked)
    assert many > 2
    while world.size == many:
        await world.pass_(5)
    (mark,) = world.cluster.marked[marked_before:]
    assert mark.pod == max(world.pods, key=lambda name: int(name.removeprefix("chat-")))
    await world.pass_(900)
    assert world.size == 1
    assert set(world.pods) == {"chat-1"}


async def test_pods_are_marked_before_the_deployment_may_take_any(clock: Clock) -> None:
    cluster = FakeCluster()
    cluster.put(fakes.service({"replicas": 3}))
    operator = Operator(cluster)
    await operator.settle()
    for name in ("chat-1", "chat-2", "chat-3"):
        cluster.put(fakes.pod(name, ready=True))
    await operator.settle()
    cluster.edit(names.KIND, lambda body: body["spec"].update(replicas=2))
    await operator.reconcile()
    assert cluster.objects["Deployment", KEY]["spec"]["replicas"] == 3
    assert len(cluster.marked) == 1
    await operator.reconcile(catch_up=False)  # the mark has not been seen yet
    assert cluster.objects["Deployment", KEY]["spec"]["replicas"] == 3
    await operator.reconcile()
    assert cluster.objects["Deployment", KEY]["spec"]["replicas"] == 2


async def test_a_pod_that_was_to_go_and_stayed_is_unmarked_at_the_next_scale_in(
    clock: Clock,
) -> None:
    cluster = FakeCluster()
    cluster.put(fakes.service({"replicas": 3}))
    operator = Operator(cluster)
    await operator.settle()
    for name in ("chat-1", "chat-2", "chat-3"):
        cluster.put(fakes.pod(name, ready=name != "chat-3"))
    cluster.edit(names.KIND, lambda body: body["spec"].update(replicas=2))
    await operator.reconcile()
    assert [mark.pod for mark in cluster.marked] == ["chat-3"]
    cluster.edit(names.KIND, lambda body: body["spec"].update(replicas=3))
    await operator.settle()
    cluster.put(fakes.pod("chat-3", ready=True, hash="") | {"metadata": _marked("chat-3")})
    cluster.put(fakes.pod("chat-1", ready=False))
    cluster.edit(names.KIND, lambda body: body["spec"].update(replicas=2))
    await operator.settle()
    assert {(mark.pod, mark.cost is None) for mark in cluster.marked[1:]} == {
        ("chat-3", True),
        ("chat-1", False),
    }


def _marked(name: str) -> Manifest:
    metadata: Manifest = fakes.pod(name)["metadata"]
    annotations = {**metadata["annotations"], names.DELETION_COST: "-100"}
    return {**metadata, "annotations": annotations}


async def test_a_missing_report_changes_no_number(clock: Clock) -> None:
    world = World(clock)
    await world.pass_(60)
    await world.pass_(400, BUSY)
    many = world.size
    world.silent = {next(iter(world.pods))}
    await world.pass_(900, 0.0)
    assert world.size == many
    assert world.active()[:2] == ("False", "ReportsMissing")
    assert "1 of " in world.active()[2]


async def test_a_service_whose_number_of_pods_is_held_has_a_series_of_its_own_for_as_long(
    clock: Clock,
) -> None:
    world = World(clock)

    def held() -> list[str]:
        text = world.operator.metrics.text().decode()
        return [line for line in text.splitlines() if line.startswith("aweigh_operator_scaling_h")]

    labels = 'name="chat",namespace="team",reason='
    await world.pass_(120)
    assert held() == []
    world.silent = set(world.pods)
    await world.pass_(90)
    assert held() == [f'aweigh_operator_scaling_held{{{labels}"ReportsMissing"}} 1.0']
    world.silent = set()
    await world.pass_(60)
    assert held() == []
    await world.pass_(300, 100 * BUSY)
    assert held() == [f'aweigh_operator_scaling_held{{{labels}"AtMaximum"}} 1.0']
    world.cluster.remove(names.KIND)
    await world.operator.reconcile()
    assert held() == []


async def test_one_lost_report_is_no_news(clock: Clock) -> None:
    world = World(clock)
    await world.pass_(120)
    for _ in range(6):
        world.silent = set(world.pods)
        await world.pass_(10)
        world.silent = set()
        await world.pass_(20)
    assert "ReportsMissing" not in {each["reason"] for each in world.cluster.events}
    assert world.active()[:2] == ("True", "Steady")


async def test_a_restarted_operator_changes_no_number_that_it_has_not_measured(
    clock: Clock,
) -> None:
    world = World(clock)
    await world.pass_(60)
    await world.pass_(400, BUSY)
    many, history = world.size, world.status()["history"]
    world.operator = Operator(world.cluster)
    await world.pass_(30, BUSY)
    assert world.size == many
    assert world.status()["history"] == history


@pytest.mark.parametrize(
    ("most", "milliseconds", "reason", "told"),
    [
        (6, 12, "Steady", " of 80% with 3"),
        (2, 12, "AtMaximum", "inter-token time would pass the limit with up to 2 pods, and does"),
        (1, 12, "AtMaximum", ""),  # work, too, is too much for it
        (
            4,
            7,
            "ObjectiveUnreachable",
            "would pass the limit with up to 4 pods, and does",
        ),  # 5 keep
        (6, 4, "ObjectiveUnreachable", "would pass the limit with up to 6 pods, and does"),
    ],
)
async def test_the_number_is_called_at_its_maximum_only_where_it_is(
    clock: Clock, most: int, milliseconds: int, reason: str, told: str
) -> None:
    objective = {"interTokenMilliseconds": milliseconds}
    world = World(clock, scaling={**SCALING, "maxReplicas": most, "objective": objective})
    for requests in (3, 8, 20, 40, 62, 62, 62, 62):
        await world.pass_(120, requests)
    assert world.active()[:2] == ("True", reason)
    assert told in world.active()[2]


@pytest.mark.parametrize(
    ("deadline_s", "age_s", "believed"),
    [(300, 600, False), (1800, 600, True), (21_600, 18_000, False)],
)
async def test_no_start_is_believed_of_half_an_hour_or_longer_than_a_rollout_may_take(
    clock: Clock, deadline_s: int, age_s: int, believed: bool
) -> None:
    world = World(clock, rollout={"progressDeadlineSeconds": deadline_s})
    clock.now_s += age_s  # since the pod was created; it is ready as of now
    world.cluster.put(fakes.pod("chat-1", ready=True))
    world.born = 1
    await world.pass_(60)
    known = world.operator.reconciler._memories[KEY].autoscaling.memory.known
    assert known.start_s == (pytest.approx(age_s, abs=15) if believed else None)


async def test_a_dry_run_only_tells(clock: Clock) -> None:
    world = World(clock, scaling={**SCALING, "mode": "DryRun"}, replicas=1)
    await world.pass_(60)
    await world.pass_(120, BUSY)
    assert world.size == 1
    assert world.status()["desiredReplicas"] > 1
    assert world.active()[2].startswith("dry run: ")


async def test_figures_that_change_nothing_are_no_news_within_a_minute(clock: Clock) -> None:
    world = World(clock)
    await world.pass_(300)
    await world.pass_(10, CALM + 1)
    before = world.status()
    await world.pass_(40, CALM + 2)
    assert world.status() == before


async def test_an_autoscaler_that_scales_the_deployment_is_told_and_left_alone(
    clock: Clock,
) -> None:
    for spec in ({"scaling": SCALING}, {"replicas": 2}):
        cluster = FakeCluster()
        cluster.put(fakes.service(spec))
        operator = Operator(cluster)
        await operator.settle()
        cluster.rivals.append(THEIRS)
        for size in (4, 3, 5):
            resize(cluster, size)
            await operator.settle()
            assert cluster.objects["Deployment", KEY]["spec"]["replicas"] == size
        status, reason, message = operator.condition("ScalingActive")
        assert (status, reason) == ("False", "Conflict")
        assert "HorizontalPodAutoscaler theirs" in message
        cluster.rivals.clear()
        clock.now_s += reconcile.AUTOSCALERS_KNOWN_S + 1
        await operator.settle()
        conditions = {each["type"] for each in operator.status()["conditions"]}
        assert ("ScalingActive" in conditions) == ("scaling" in spec)


def resize(cluster: FakeCluster, size: int) -> None:
    cluster.edit("Deployment", lambda body: body["spec"].update(replicas=size))


async def test_an_autoscaler_is_left_alone_whose_pods_are_there_and_after_a_restart() -> None:
    for spec in ({"replicas": 2}, {"scaling": SCALING}, DRY_RUN):
        cluster = FakeCluster()
        cluster.put(fakes.service(spec))
        operator = Operator(cluster)
        await operator.settle()
        cluster.rivals.append(THEIRS)
        resize(cluster, 5)
        for number in range(5):
            cluster.put(fakes.pod(f"chat-{number}", ready=True))
        await operator.settle()
        for _ in range(2):
            assert cluster.objects["Deployment", KEY]["spec"]["replicas"] == 5
            assert operator.condition("ScalingActive")[1] == "Conflict"
            assert cluster.marked == []
            operator = Operator(cluster)
            resize(cluster, 4)
            await operator.settle()
            resize(cluster, 5)
            await operator.settle()


def tell(cluster: FakeCluster, status: Manifest) -> None:
    cluster.edit(names.KIND, lambda body: body.update(status=status))


async def test_a_status_of_another_version_stops_nothing(clock: Clock) -> None:
    for change in ({"reason": "NewWord"}, {"field": "new"}):
        world = World(clock)
        await world.pass_(60)
        status = {**world.operator.status()}
        status["scaling"] = {**status["scaling"], **change}
        tell(world.cluster, status)
        world.operator = Operator(world.cluster)
        await world.pass_(60)
        assert world.status()["reason"] == "Steady"


async def test_a_pod_that_does_not_tell_what_it_has_saved_is_not_the_first_to_go(
    clock: Clock,
) -> None:
    cluster = FakeCluster()
    cluster.put(fakes.service({"replicas": 2}))
    operator = Operator(cluster)
    await operator.settle()
    for name in ("hot", "idle"):
        cluster.put(fakes.pod(name, ready=True))
        operator.reports.states[f"uid-of-{name}"] = report(name, 10.0, clock.now_s, 0.5)
    await operator.settle()
    del operator.reports.states["uid-of-hot"]
    await operator.reconcile()
    cluster.edit(names.KIND, lambda body: body["spec"].update(replicas=1))
    await operator.settle()
    assert [mark.pod for mark in cluster.marked] == ["idle"]


async def test_a_mark_that_is_refused_holds_nothing_up(clock: Clock) -> None:
    cluster = FakeCluster()
    cluster.put(fakes.service({"replicas": 2}))
    operator = Operator(cluster)
    await operator.settle()
    for name in ("one", "two"):
        cluster.put(fakes.pod(name, ready=True))
    cluster.refuse_marks = ApiError("mark a pod", 403, "no")
    cluster.edit(names.KIND, lambda body: body["spec"].update(replicas=1))
    while await operator.reconcile() == 0.0:
        pass
    assert cluster.objects["Deployment", KEY]["spec"]["replicas"] == 1


async def test_a_scale_in_that_is_taken_back_takes_its_marks_back(clock: Clock) -> None:
    cluster = FakeCluster()
    cluster.put(fakes.service({"replicas": 2}))
    operator = Operator(cluster)
    await operator.settle()
    for name in ("one", "two"):
        cluster.put(fakes.pod(name, ready=True))
    await operator.settle()
    cluster.edit(names.KIND, lambda body: body["spec"].update(replicas=1))
    await operator.reconcile()
    cluster.edit(names.KIND, lambda body: body["spec"].update(replicas=2))
    await operator.settle()
    assert [mark.cost for mark in cluster.marked] == [-100, None]


async def test_who_scales_the_deployment_by_hand_is_no_autoscaler(clock: Clock) -> None:
    cluster = FakeCluster()
    cluster.put(fakes.service({"replicas": 2}))
    operator = Operator(cluster)
    await operator.settle()
    asked = cluster.asked_for_autoscalers
    resize(cluster, 7)
    await operator.settle()
    assert cluster.objects["Deployment", KEY]["spec"]["replicas"] == 2
    assert cluster.asked_for_autoscalers == asked + 1


async def test_an_autoscaler_of_a_service_that_scales_is_told_within_a_minute_and_stops_nothing(
    clock: Clock,
) -> None:
    world = World(clock)
    await world.pass_(60)
    world.cluster.rivals.append(OF_THE_SERVICE)
    await world.pass_(reconcile.AUTOSCALERS_KNOWN_S + LOOK_S)
    status, reason, message = world.operator.condition("ScalingActive")
    assert (status, reason, world.size) == ("False", "Conflict", 1)
    assert "HorizontalPodAutoscaler keda-hpa-chat scales the InferenceService chat" in message
    await world.pass_(300, BUSY)
    assert world.size > 1
    assert world.operator.condition("ScalingActive")[1] == "Conflict"
    world.cluster.rivals.clear()
    await world.pass_(reconcile.AUTOSCALERS_KNOWN_S + LOOK_S, BUSY)
    assert world.operator.condition("ScalingActive")[0] == "True"


async def test_an_autoscaler_of_the_deployment_is_told_before_it_has_changed_anything(
    clock: Clock,
) -> None:
    world = World(clock)
    await world.pass_(60)
    world.cluster.rivals += [OF_THE_SERVICE, THEIRS]
    await world.pass_(reconcile.AUTOSCALERS_KNOWN_S + LOOK_S)
    assert "scales the Deployment chat" in world.operator.condition("ScalingActive")[2]


async def test_an_autoscaler_of_a_service_whose_replicas_count_is_welcome(clock: Clock) -> None:
    for spec in ({"replicas": 2}, DRY_RUN):
        cluster = FakeCluster()
        cluster.put(fakes.service(spec))
        operator = Operator(cluster)
        await operator.settle()
        cluster.rivals.append(OF_THE_SERVICE)
        clock.now_s += reconcile.AUTOSCALERS_KNOWN_S + 1
        cluster.edit(names.KIND, lambda body: body["spec"].update(replicas=3))
        await operator.settle()
        assert cluster.objects["Deployment", KEY]["spec"]["replicas"] == 3
        reasons = {each["reason"] for each in operator.status()["conditions"]}
        assert "Conflict" not in reasons


async def test_all_services_of_a_namespace_ask_once_for_its_autoscalers(clock: Clock) -> None:
    cluster = FakeCluster()
    looks = Autoscalers(cluster, clock.monotonic)

    async def all_ask() -> int:
        await asyncio.gather(*(looks.of("team", 60.0) for _ in range(50)))
        return cluster.asked_for_autoscalers

    assert [await all_ask(), await all_ask()] == [1, 1]
    clock.now_s += 61.0
    assert await all_ask() == 2
    await looks.of("team", 0.0)  # before a change of size
    await looks.of("other", 60.0)
    assert cluster.asked_for_autoscalers == 4


async def test_while_nobody_tells_who_else_scales_the_number_stays_and_all_else_goes_on(
    clock: Clock,
) -> None:
    world = World(clock)
    await world.pass_(120)
    cluster, size = world.cluster, world.size
    cluster.refuse_autoscalers = ApiError("list the autoscalers", 500, "no", retry_after_s=7.0)
    cluster.edit(names.KIND, lambda body: body["spec"].update(template={"labels": {"a": "b"}}))
    cluster.edit("Service", lambda body: body["spec"].update(selector={}))
    await world.pass_(120, BUSY)
    template = cluster.objects["Deployment", KEY]["spec"]["template"]
    assert (world.size, template["metadata"]["labels"]["a"]) == (size, "b")
    assert cluster.objects["Service", KEY]["spec"]["selector"]
    assert world.operator.status()["scaling"]["desiredReplicas"] > size  # it is told all the same
    assert world.operator.condition("ScalingActive")[:2] == ("Unknown", "ReportsMissing")
    after_s = await world.operator.reconcile()
    assert after_s is not None
    assert 0.0 < after_s <= AGAIN_S
    cluster.refuse_autoscalers = None
    await world.pass_(30, BUSY)
    assert world.size > size


async def test_a_namespace_that_nobody_asks_for_any_more_is_forgotten(clock: Clock) -> None:
    looks = Autoscalers(FakeCluster(), clock.monotonic)
    for each in range(100):
        clock.now_s += FORGOTTEN_S / 10
        await looks.of(f"preview-{each}", 60.0)
    assert len(looks._looks) <= 12


async def test_an_api_server_that_does_not_tell_is_asked_once_for_all_of_a_namespace(
    clock: Clock,
) -> None:
    cluster = FakeCluster()
    cluster.refuse_autoscalers = ApiError("list the autoscalers", 500, "no")
    looks = Autoscalers(cluster, clock.monotonic)
    for asked, pause_s in ((1, 1.0), (1, AGAIN_S), (2, 0.0)):
        for _ in range(5):
            with pytest.raises(ApiError):
                await looks.of("team", 0.0)
        assert cluster.asked_for_autoscalers == asked
        clock.now_s += pause_s


async def test_a_suspended_service_comes_back_as_large_as_it_was(clock: Clock) -> None:
    world = World(clock)
    await world.pass_(60)
    await world.pass_(400, BUSY)
    many = world.size
    world.cluster.edit(names.KIND, lambda body: body["spec"].update(suspend=True))
    await world.pass_(60)
    assert world.size == 0
    assert world.active()[:2] == ("False", "Suspended")
    world.cluster.edit(names.KIND, lambda body: body["spec"].update(suspend=False))
    await world.operator.reconcile()
    assert world.size == many


async def test_looks_come_every_fifteen_seconds(clock: Clock) -> None:
    world = World(clock)
    await world.pass_(60)
    world.operator.watch.catch_up()
    assert 0 < (await world.operator.reconcile() or 0) <= LOOK_S
