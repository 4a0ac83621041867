"""Whatever happens in whatever order, the cluster ends as the spec asks, and serving pods stay."""

import asyncio
import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aweigh_api import names
from aweigh_api.state import State
from aweigh_operator import reconcile
from aweigh_operator.autoscaling import Autoscaling, looked
from aweigh_operator.cluster import ApiError
from aweigh_operator.desired import prefetch
from aweigh_operator.observe import Key, Manifest, Observed, Pod, pod_of
from aweigh_operator.places import PLACES
from aweigh_operator.plan import Apply, Delete, Plan, plan
from aweigh_operator.replicas import FIRST_TO_GO
from tests.operator import fakes
from tests.operator.fakes import KEY, Clock, FakeCluster, Operator, at

# A busy machine makes an example slow, not wrong.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

quantities = st.sampled_from(["1", "1000m", "500m", "2Gi", "2048Mi", 1])
specs = st.fixed_dictionaries(
    {"model": st.sampled_from([{"uri": "builtin://a"}, {"uri": "pvc://b/c"}, {"uri": "hf://d/e"}])},
    optional={
        "replicas": st.integers(0, 3),
        "router": st.fixed_dictionaries({}, optional={"replicas": st.integers(0, 2)}),
        "suspend": st.booleans(),
        "resources": st.fixed_dictionaries(
            {}, optional={"limits": st.dictionaries(st.sampled_from(["cpu", "memory"]), quantities)}
        ),
        "prefixCache": st.sampled_from([{}, {"enabled": False}, {"hostMemory": "1Gi"}]),
        "auth": st.just({"apiKeys": {"secretRef": {"name": "keys"}}}),
        "tls": st.just({"secretRef": {"name": "certificate"}}),
        "rollout": st.fixed_dictionaries({}, optional={"allowDowntime": st.booleans()}),
        "networkPolicy": st.fixed_dictionaries({"enabled": st.booleans()}),
        "template": st.fixed_dictionaries(
            {},
            optional={
                "labels": st.dictionaries(st.sampled_from("ab"), st.just("x")),
                "nodeSelector": st.dictionaries(st.sampled_from("ab"), st.just("x")),
                "env": st.sampled_from([[], [{"name": "A"}], [{"name": "A", "value": "1"}]]),
                "tolerations": st.sampled_from([[], [{"operator": "Exists"}]]),
            },
        ),
    },
)
FETCHED = {"uri": "hf://d/e", "cache": {"claim": "downloads", "prefetch": True}}
# Of those that are fetched first, pods come with the plan after the Job's.
all_specs = st.one_of(specs, specs.map(lambda spec: {**spec, "model": FETCHED}))
deeds = st.one_of(
    st.tuples(st.just("spec"), all_specs),
    st.tuples(st.just("annotate"), st.sampled_from("xyz")),
    st.tuples(st.just("delete child"), st.sampled_from(PLACES)),
    st.tuples(st.just("unlabel child"), st.sampled_from(PLACES)),
    st.tuples(st.just("narrow child"), st.sampled_from(fakes.NARROWINGS)),
    st.tuples(st.just("scale by hand"), st.integers(0, 5)),
    st.tuples(st.just("step"), st.booleans()),
    st.tuples(st.just("run pods"), st.none()),
    st.tuples(st.just("restart operator"), st.none()),
)


@pytest.fixture(autouse=True, scope="module")
def clock() -> Iterator[Clock]:
    """The time of all reconcilers, which passes only when it is told to."""
    with pytest.MonkeyPatch.context() as patch:
        found = Clock()
        patch.setattr(reconcile, "time", found)
        patch.setattr(reconcile, "datetime", found)
        yield found


def cluster_with(spec: Manifest) -> FakeCluster:
    cluster = FakeCluster()
    cluster.put(fakes.service(spec))
    return cluster


async def finished(operator: Operator, clock: Clock) -> dict[str, Manifest]:
    """The children once all pods serve, and what takes its time has had it."""
    for _ in range(4):
        await operator.settle()
        operator.cluster.run_pods()
        clock.now_s += 60.0
    await operator.settle()
    return operator.children()


def settled(spec: Manifest, clock: Clock) -> dict[str, Manifest]:
    """What a fresh operator makes of a spec."""
    return asyncio.run(finished(Operator(cluster_with(spec)), clock))


def observe(cluster: FakeCluster) -> Observed:
    children = {
        place: cluster.objects[at(place)] for place in PLACES if at(place) in cluster.objects
    }
    return Observed(body=cluster.objects[names.KIND, KEY], children=children)


@unhurried
@given(spec=specs)
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(spec: Manifest) -> None:
    cluster = cluster_with(spec)
    for action in plan(observe(cluster), fakes.SETTINGS).actions:
        assert isinstance(action, Apply)
        asyncio.run(cluster.apply(action.manifest))
    assert plan(observe(cluster), fakes.SETTINGS).actions == ()


@unhurried
@given(first=specs, second=specs)
def test_a_changed_spec_is_reached_by_one_plan(first: Manifest, second: Manifest) -> None:
    cluster = cluster_with(first)
    for spec in (first, second):
        cluster.put(fakes.service(spec))
        for action in plan(observe(cluster), fakes.SETTINGS).actions:
            if isinstance(action, Delete):
                kind, key = at(action.place)
                asyncio.run(cluster.delete(kind, key, action.uid))
            else:
                asyncio.run(cluster.apply(action.manifest))
        assert plan(observe(cluster), fakes.SETTINGS).actions == ()


@settings(unhurried, max_examples=60)
@given(spec=all_specs, history=st.lists(deeds, max_size=12))
def test_any_order_of_events_ends_in_the_same_cluster(
    clock: Clock, spec: Manifest, history: list[tuple[str, Any]]
) -> None:
    async def play() -> tuple[Operator, dict[str, Manifest]]:
        operator = Operator(cluster_with(spec))
        for deed, value in history:
            operator = await do(operator, deed, value)
        return operator, await finished(operator, clock)

    operator, children = asyncio.run(play())
    wanted = settled(operator.cluster.objects[names.KIND, KEY]["spec"], clock)
    if "Job" in children and "Job" in wanted and prefetch.same(children["Job"], wanted["Job"]):
        children["Job"] = wanted["Job"]  # its pods stay as they were made: it cannot be changed
    # Who takes our labels from a child that nobody wants any more has taken the child from us.
    taken = {kind for kind in children.keys() - wanted.keys() if not labels_of(children[kind])}
    assert {kind: child for kind, child in children.items() if kind not in taken} == wanted


def labels_of(child: Manifest) -> dict[str, str]:
    return dict(child["metadata"]["labels"])


async def do(operator: Operator, deed: str, value: Any) -> Operator:
    cluster = operator.cluster
    if deed == "spec":
        cluster.edit(names.KIND, lambda body: body.update(spec=copy.deepcopy(value)))
    elif deed == "annotate":
        cluster.edit(names.KIND, lambda body: body["metadata"].update(annotations={value: "1"}))
    elif deed == "run pods":
        cluster.run_pods()
    elif deed == "step":
        await step(operator, catch_up=value)
    elif deed == "restart operator":
        return Operator(cluster)
    else:
        meddle(cluster, deed, value)
    return operator


async def step(operator: Operator, catch_up: bool) -> None:
    """As the queue takes one: what may succeed in a moment is tried again later."""
    try:
        await operator.reconcile(catch_up=catch_up)
    except ApiError as error:
        if not error.transient:
            raise


def meddle(cluster: FakeCluster, deed: str, value: Any) -> None:
    """What somebody does to the children."""
    if deed == "delete child":
        cluster.remove(value)
    elif deed == "scale by hand" and at("Deployment") in cluster.objects:
        cluster.edit("Deployment", lambda body: body["spec"].update(replicas=value))
    elif deed == "narrow child" and at(value[0]) in cluster.objects:
        cluster.edit(*value)
    elif deed == "unlabel child" and at(value) in cluster.objects:
        cluster.edit(value, lambda body: body["metadata"].update(labels={}))


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[tuple[Pod, State | None]], int]:
    """Pods, each with its report, and how many of them shall stay."""
    size = draw(st.integers(2, 6))
    fleet = []
    for number in range(size):
        ready, known = draw(st.booleans()), draw(st.booleans())
        pod = pod_of(fakes.pod(f"chat-{number}", ready=ready, running=True))
        marked = draw(st.sampled_from([None, FIRST_TO_GO]))  # by a scale-in that was taken back
        state = State(
            boot_id=pod.uid,
            uptime_s=60.0,
            phase="ready" if ready else "loading",
            running=draw(st.integers(0, 2)),
            saved_prefill_seconds=float(draw(st.integers(0, 3))),
        )
        fleet.append((replace(pod, deletion_cost=marked), state if known or not ready else None))
    return fleet, draw(st.integers(1, size - 1))


@settings(unhurried, max_examples=60)
@given(fleet=fleets())
def test_no_plan_takes_a_pod_that_serves_where_a_colder_or_an_idle_one_could_go(
    fleet: tuple[list[tuple[Pod, State | None]], int],
) -> None:
    pods, stay = fleet
    cluster = cluster_with({"replicas": len(pods)})
    asyncio.run(Operator(cluster).settle())
    cluster.put(fakes.service({"replicas": stay}))
    states = {pod.uid: state for pod, state in pods if state is not None}
    observed = replace(observe(cluster), pods=tuple(pod for pod, _ in pods), states=states)
    looks = looked(Autoscaling(), observed, Plan(replicas=stay), fakes.NOW, 1000.0)
    observed = replace(observed, cheapest=looks.cheapest)

    first = plan(observed, fakes.SETTINGS)
    costs = {mark.uid: mark.cost for mark in first.marks}
    if costs:
        assert size_after(first, len(pods)) == len(pods)  # nobody goes before all are marked
    marked = [replace(pod, deletion_cost=costs.get(pod.uid, pod.deletion_cost)) for pod, _ in pods]
    second = plan(replace(observed, pods=tuple(marked)), fakes.SETTINGS)
    assert (second.marks, size_after(second, len(pods))) == ((), stay)

    # As its ReplicaSet chooses; of equals the worst for us.
    ranked = sorted(
        marked, key=lambda pod: (pod.ready, pod.deletion_cost or 0, _worth(pod, states, -1))
    )
    gone, kept = ranked[: len(pods) - stay], ranked[len(pods) - stay :]
    assert all(_worth(one, states) <= _worth(other, states) for one in gone for other in kept)


def size_after(found: Plan, before: int) -> int:
    """Of the Deployment."""
    applied = {each.place: each.manifest for each in found.actions if isinstance(each, Apply)}
    size: int = applied["Deployment"]["spec"]["replicas"] if "Deployment" in applied else before
    return size


def _worth(pod: Pod, states: Mapping[str, State], sign: int = 1) -> tuple[float, ...]:
    """What goes with a pod: one that does not tell may be worth most."""
    if not pod.ready:
        return (0.0,)
    state = states.get(pod.uid)
    if state is None:
        return (sign * 2.0,)
    return sign * 1.0, sign * (state.saved_prefill_seconds or 0.0), sign * float(state.running or 0)


@unhurried
@given(spec=all_specs, replicas=st.integers(1, 4), annotation=st.sampled_from("xyz"))
def test_what_does_not_concern_the_pods_never_changes_their_template(
    spec: Manifest, replicas: int, annotation: str
) -> None:
    async def play() -> tuple[Manifest, Manifest]:
        cluster = cluster_with(spec)
        await Operator(cluster).settle()
        before = copy.deepcopy(cluster.objects["Deployment", KEY]["spec"]["template"])
        changed = {**spec, "replicas": replicas, "suspend": False}
        cluster.put(
            fakes.service(changed, annotations={annotation: "1"}, labels={"a": "b"}, generation=2)
        )
        await Operator(cluster, image="registry.example/newer").settle()
        return before, cluster.objects["Deployment", KEY]["spec"]["template"]

    before, after = asyncio.run(play())
    assert after == before


@unhurried
@given(spec=all_specs, taken=st.sets(st.sampled_from(PLACES), min_size=1))
def test_objects_of_others_are_never_touched(spec: Manifest, taken: set[str]) -> None:
    cluster = cluster_with(spec)
    for kind, key in map(at, taken):
        cluster.put({"kind": kind, "metadata": {"name": key.name, "namespace": key.namespace}})
    before = {place: copy.deepcopy(cluster.objects[at(place)]) for place in taken}
    asyncio.run(Operator(cluster).settle())
    assert {place: cluster.objects[at(place)] for place in taken} == before
    assert cluster.deleted == []


@unhurried
@given(places=st.sets(st.sampled_from(PLACES)), other=st.sampled_from(["other", "third"]))
def test_only_objects_that_the_service_owns_are_deleted(places: set[str], other: str) -> None:
    """A name conflict can also arise later: what bears our label without our owner stays."""
    cluster = cluster_with({"replicas": 3, "model": FETCHED})
    asyncio.run(Operator(cluster).settle())
    for place in places:
        cluster.edit(place, lambda body: body["metadata"].update(ownerReferences=[]))
    cluster.put({"kind": "Service", "metadata": {"name": other, "namespace": KEY.namespace}})
    cluster.edit(names.KIND, lambda body: body["spec"].update(suspend=True))
    before = {place: copy.deepcopy(cluster.objects[at(place)]) for place in places}
    asyncio.run(Operator(cluster).settle())
    assert {place: cluster.objects[at(place)] for place in places} == before
    assert ("Service", Key(KEY.namespace, other)) in cluster.objects
