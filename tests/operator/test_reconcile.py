import copy
from collections.abc import Callable
from typing import Any

import pytest

from aweigh_api import names
from aweigh_api.state import Loading, ServedModel, Speculation, State
from aweigh_operator.cluster import ApiError
from aweigh_operator.observe import Key, Manifest, Waiting
from aweigh_operator.places import PLACES
from aweigh_operator.reconcile import STUCK_AFTER_S
from aweigh_operator.tell import POLL_CONFLICT_S
from tests.operator import fakes
from tests.operator.fakes import KEY, Clock, FakeCluster, Operator, at


def cluster_with(spec: Manifest | None = None, **metadata: Any) -> FakeCluster:
    cluster = FakeCluster()
    cluster.put(fakes.service(spec, **metadata))
    return cluster


def set_spec(cluster: FakeCluster, **spec: Any) -> None:
    cluster.edit(names.KIND, lambda body: body["spec"].update(spec))


def refusing(kind: str, status: int) -> Any:
    def refuse(manifest: Manifest) -> ApiError | None:
        return ApiError(f"apply {kind}", status, "no") if manifest["kind"] == kind else None

    return refuse


def versions_of_children(cluster: FakeCluster) -> dict[str, str]:
    return {
        place: cluster.objects[at(place)]["metadata"]["resourceVersion"]
        for place in PLACES
        if at(place) in cluster.objects
    }


async def test_the_first_step_creates_all_children_and_reports() -> None:
    operator = Operator(cluster_with({"replicas": 2}))
    await operator.reconcile()
    assert set(operator.children()) == set(PLACES) - {"Job"}  # nothing is fetched first
    assert operator.condition("Ready")[:2] == ("False", "Progressing")
    assert operator.status()["url"] == "http://chat.team.svc:8000/v1"
    assert operator.status()["selector"] == (
        "app.kubernetes.io/name=aweigh-runtime,app.kubernetes.io/instance=chat"
    )


async def test_a_second_step_writes_nothing() -> None:
    operator = Operator(cluster_with({"replicas": 2}))
    await operator.settle()
    writes = operator.cluster.writes
    await operator.reconcile()
    assert operator.cluster.writes == writes


async def test_a_watch_that_lags_changes_no_child() -> None:
    operator = Operator(cluster_with())
    await operator.reconcile()
    versions = versions_of_children(operator.cluster)
    await operator.reconcile(catch_up=False)
    assert versions_of_children(operator.cluster) == versions


async def test_ten_resyncs_and_new_operators_change_no_resource_version() -> None:
    cluster = cluster_with({"replicas": 2, "resources": {"limits": {"cpu": "1000m"}}})
    await Operator(cluster).settle()
    before = {at: each["metadata"]["resourceVersion"] for at, each in cluster.objects.items()}
    for _ in range(5):
        restarted = Operator(cluster, resync_seconds=0)
        await restarted.reconcile()
        await restarted.reconcile()
    after = {at: each["metadata"]["resourceVersion"] for at, each in cluster.objects.items()}
    assert after == before


async def test_a_child_deleted_or_edited_by_hand_is_repaired() -> None:
    operator = Operator(cluster_with())
    await operator.settle()
    before = operator.children()
    operator.cluster.remove("Service")
    operator.cluster.edit("Deployment", lambda body: body["spec"].update(replicas=7))
    operator.cluster.edit("NetworkPolicy", lambda body: body["metadata"].update(labels={}))
    await operator.settle()
    assert operator.children() == before


async def test_what_others_add_stays() -> None:
    operator = Operator(cluster_with())
    await operator.settle()
    operator.cluster.edit("Service", lambda body: body["metadata"]["labels"].update(theirs="1"))
    await operator.settle()
    assert operator.children()["Service"]["metadata"]["labels"]["theirs"] == "1"


async def test_a_field_that_the_spec_no_longer_asks_for_goes() -> None:
    operator = Operator(cluster_with({"template": {"nodeSelector": {"gpu": "h200"}}}))
    await operator.settle()
    set_spec(operator.cluster, template={})
    await operator.settle()
    assert "nodeSelector" not in operator.children()["Deployment"]["spec"]["template"]["spec"]


async def test_replicas_changed_to_two_and_back_end_where_they_began() -> None:
    operator = Operator(cluster_with({"replicas": 3}))
    await operator.settle()
    before = operator.children()
    set_spec(operator.cluster, replicas=2)
    await operator.reconcile()
    set_spec(operator.cluster, replicas=3)
    await operator.settle()
    assert operator.children() == before


async def test_how_many_pods_a_service_lacks_is_measured_until_all_serve() -> None:
    operator = Operator(cluster_with({"replicas": 3}))
    await operator.settle()
    operator.cluster.run_pods()
    pod = operator.cluster.objects.pop(("Pod", Key("team", "chat-1")))
    await operator.settle()
    gauge = 'aweigh_operator_missing_pods{name="chat",namespace="team"}'
    assert f"{gauge} 1.0" in operator.metrics.text().decode()
    operator.cluster.put(pod)
    await operator.settle()
    assert operator.condition("WorkloadReady")[0] == "True"
    assert gauge not in operator.metrics.text().decode()


@pytest.mark.parametrize("no_pods", [{"suspend": True}, {"replicas": 0}])
async def test_a_service_that_shall_not_run_is_not_measured_as_one_that_is_not_ready(
    no_pods: Manifest,
) -> None:
    operator = Operator(cluster_with())
    await operator.settle()
    series = 'aweigh_operator_not_ready{name="chat",namespace="team"}'
    assert series in operator.metrics.text().decode()  # its pod has not come yet
    set_spec(operator.cluster, **no_pods)
    await operator.settle()
    assert operator.condition("Ready")[:2] == ("False", "Suspended")
    assert series not in operator.metrics.text().decode()
    set_spec(operator.cluster, suspend=False, replicas=1)
    await operator.settle()
    assert series in operator.metrics.text().decode()


async def test_the_disruption_budget_goes_when_one_pod_is_left() -> None:
    operator = Operator(cluster_with({"replicas": 2}))
    await operator.settle()
    set_spec(operator.cluster, replicas=1)
    await operator.settle()
    assert "PodDisruptionBudget" not in operator.children()
    assert len(operator.cluster.deleted) == 1


async def test_an_object_of_somebody_else_is_left_alone_and_named() -> None:
    cluster = cluster_with()
    theirs = cluster.put(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "chat",
                "namespace": "team",
                "ownerReferences": [
                    {"kind": "Release", "name": "web", "uid": "u", "controller": True}
                ],
            },
            "spec": {"type": "NodePort"},
        }
    )
    operator = Operator(cluster)
    await operator.settle()
    assert operator.condition("Ready")[:2] == ("False", "NameConflict")
    assert operator.condition("Ready")[2] == (
        "Service chat exists and belongs to Release web: delete the InferenceService and apply it "
        "under another name"
    )
    assert operator.condition("WorkloadReady")[:2] == ("False", "NameConflict")
    assert "url" not in operator.status()
    assert operator.times_told("NameConflict") == 1
    assert cluster.objects["Service", KEY] == theirs
    assert set(operator.children()) == {"Service"}
    cluster.remove("Service")
    await operator.settle()
    assert operator.condition("WorkloadReady")[1] == "Progressing"
    assert operator.status()["url"] == "http://chat.team.svc:8000/v1"


async def test_a_child_of_a_predecessor_is_waited_for() -> None:
    cluster = cluster_with()
    await Operator(cluster).settle()
    cluster.put(fakes.service(uid="uid-of-the-next"))
    operator = Operator(cluster)
    await operator.reconcile()
    assert operator.condition("SpecValid")[0] == "True"
    assert cluster.objects["Service", KEY]["metadata"]["ownerReferences"][0]["uid"] == "uid-of-chat"
    for place in PLACES:
        cluster.remove(place)
    await operator.settle()
    assert cluster.objects["Service", KEY]["metadata"]["ownerReferences"][0]["uid"] == (
        "uid-of-the-next"
    )


def hold(cluster: FakeCluster, kind: str) -> None:
    """Somebody deletes a child, and somebody's finalizer keeps it."""
    leaves = {"deletionTimestamp": fakes.NOW_TEXT, "finalizers": ["example.com/backup"]}
    cluster.edit(kind, lambda body: body["metadata"].update(leaves))


@pytest.mark.parametrize("next_uid", ["uid-of-chat", "uid-of-the-next"])
async def test_a_child_whose_deletion_is_held_up_is_named_with_its_finalizers(
    next_uid: str,
) -> None:
    cluster = cluster_with()
    await Operator(cluster).settle()
    hold(cluster, "Deployment")
    cluster.put(fakes.service({"replicas": 2}, uid=next_uid))
    operator = Operator(cluster)
    await operator.settle()
    status, reason, message = operator.condition("Ready")
    assert (status, reason) == ("False", "ObjectBeingDeleted")
    assert f"Deployment chat was deleted at {fakes.NOW_TEXT}" in message
    assert "finalizers keep it: example.com/backup" in message
    assert "kubectl edit deployment chat" in message
    for place in PLACES:  # it goes, and Kubernetes collects what a predecessor has left
        cluster.remove(place)
    await operator.settle()
    assert operator.condition("SpecValid")[:2] == ("True", "Valid")
    assert cluster.objects["Deployment", KEY]["spec"]["replicas"] == 2


async def test_pods_wait_for_a_policy_whose_deletion_is_held_up() -> None:
    operator = Operator(cluster_with())
    await operator.settle()
    hold(operator.cluster, "NetworkPolicy")
    before = operator.children()["Deployment"]
    set_spec(operator.cluster, template={"labels": {"a": "b"}}, replicas=2)
    await operator.settle()
    assert operator.condition("SpecValid")[:2] == ("False", "ObjectBeingDeleted")
    assert operator.children()["Deployment"] == before
    operator.cluster.remove("NetworkPolicy")
    await operator.settle()
    assert operator.condition("SpecValid")[:2] == ("True", "Valid")
    assert operator.children()["Deployment"] != before


async def test_a_deletion_that_nobody_holds_up_is_no_trouble() -> None:
    operator = Operator(cluster_with())
    await operator.settle()
    hold(operator.cluster, "Deployment")
    operator.cluster.edit("Deployment", lambda body: body["metadata"].pop("finalizers"))
    await operator.settle()
    assert operator.condition("SpecValid")[:2] == ("True", "Valid")


async def test_what_somebody_else_deletes_and_the_service_needs_not_is_no_trouble() -> None:
    operator = Operator(cluster_with({"networkPolicy": {"enabled": False}}))
    operator.cluster.put(
        {
            "kind": "NetworkPolicy",
            "metadata": {
                "name": KEY.name,
                "namespace": KEY.namespace,
                "labels": names.labels(KEY.name),
            },
        }
    )
    hold(operator.cluster, "NetworkPolicy")
    await operator.settle()
    assert operator.condition("SpecValid")[:2] == ("True", "Valid")


async def test_a_refused_child_becomes_a_condition_and_the_others_are_applied() -> None:
    operator = Operator(cluster_with())
    operator.cluster.refuse = refusing("Deployment", 422)
    await operator.settle()
    status, reason, message = operator.condition("Ready")
    assert (status, reason) == ("False", "ObjectRefused")
    assert "the API server answered 422: no" in message
    assert set(operator.children()) == {"ServiceAccount", "NetworkPolicy", "Service"}


async def test_a_change_that_is_refused_takes_nothing_from_what_serves() -> None:
    operator = Operator(cluster_with({"replicas": 2}))
    await operator.settle()
    operator.cluster.run_pods()
    await operator.settle()
    operator.cluster.refuse = refusing("Deployment", 422)
    set_spec(operator.cluster, template={"labels": {"team": "a"}})
    await operator.settle()
    assert operator.condition("SpecValid")[:2] == ("False", "ObjectRefused")
    status, reason, message = operator.condition("Ready")
    assert (status, reason) == ("True", "ObjectRefused")
    assert message.startswith("2 of 2 pods serve, but ")
    assert "the API server answered 422: no" in message
    set_spec(operator.cluster, unheardOf=1)
    await operator.settle()
    assert operator.condition("Ready")[:2] == ("True", "InvalidSpec")


async def test_no_pod_serves_without_the_policy_that_was_asked_for() -> None:
    operator = Operator(cluster_with())
    operator.cluster.refuse = refusing("NetworkPolicy", 422)
    await operator.reconcile()
    assert "Service" in operator.children()
    assert "Deployment" not in operator.children()
    assert operator.condition("SpecValid")[:2] == ("False", "ObjectRefused")


async def test_a_refused_child_is_tried_again_when_the_spec_changes() -> None:
    operator = Operator(cluster_with())
    operator.cluster.refuse = refusing("Deployment", 422)
    await operator.settle()
    operator.cluster.refuse = lambda _: None
    await operator.reconcile()
    assert "Deployment" not in operator.children()
    set_spec(operator.cluster, replicas=2)
    await operator.settle()
    assert operator.children()["Deployment"]["spec"]["replicas"] == 2
    assert operator.condition("SpecValid")[0] == "True"


async def test_a_conflict_or_an_overloaded_api_server_is_left_to_the_queue() -> None:
    operator = Operator(cluster_with())
    operator.cluster.refuse = refusing("Deployment", 409)
    with pytest.raises(ApiError, match="the API server answered 409: no"):
        await operator.reconcile()
    assert operator.condition("SpecValid")[0] == "True"
    operator.cluster.refuse = lambda _: None
    await operator.settle()
    assert "Deployment" in operator.children()


@pytest.mark.parametrize(("status", "cause"), [(403, "NamespaceTerminating"), (404, "namespaces")])
async def test_in_a_namespace_that_is_being_deleted_nothing_is_told_and_the_key_comes_back(
    status: int, cause: str
) -> None:
    operator = Operator(cluster_with())
    ends = ApiError("apply", status, "it is being terminated", cause)
    operator.cluster.refuse = lambda _: ends
    assert await operator.reconcile() == POLL_CONFLICT_S
    assert operator.cluster.events == []
    assert "status" not in operator.cluster.objects[names.KIND, KEY]


async def test_a_status_that_finds_nothing_once_does_not_drop_the_service() -> None:
    operator = Operator(cluster_with())
    await operator.settle()
    operator.cluster.lose_status = 1
    set_spec(operator.cluster, replicas=2)
    assert await operator.reconcile() == POLL_CONFLICT_S
    await operator.settle()
    assert operator.condition("Ready")[2].startswith("0 of 2 pods serve")


async def test_children_are_made_before_any_pod_is_asked() -> None:
    operator = Operator(cluster_with())
    operator.cluster.put(fakes.pod(running=True))
    seen: list[set[str]] = []
    operator.reports.asked = lambda: seen.append(set(operator.children()))
    await operator.reconcile()
    assert seen == [{"ServiceAccount", "NetworkPolicy", "Service", "Deployment"}]


async def test_an_object_that_appears_while_a_child_is_created_is_not_taken_over() -> None:
    operator = Operator(cluster_with())
    theirs = {
        "kind": "Deployment",
        "metadata": {"name": "chat", "namespace": "team"},
        "spec": {"replicas": 9},
    }

    def appear(manifest: Manifest) -> None:
        if manifest["kind"] == "Service":
            operator.cluster.put(theirs)

    operator.cluster.refuse = appear
    with pytest.raises(ApiError, match="409"):
        await operator.reconcile()
    operator.cluster.refuse = lambda _: None
    await operator.settle()
    assert operator.cluster.objects["Deployment", KEY]["spec"] == {"replicas": 9}
    assert operator.condition("Ready")[:2] == ("False", "NameConflict")
    assert "`kubectl delete deployment chat -n team`; else" in operator.condition("Ready")[2]


async def test_a_condition_of_somebody_else_causes_no_write() -> None:
    operator = Operator(cluster_with())
    await operator.settle()
    theirs = {"type": "Approved", "status": "True"}
    operator.cluster.edit(names.KIND, lambda body: body["status"]["conditions"].insert(0, theirs))
    writes = operator.cluster.writes
    await operator.reconcile()
    assert operator.cluster.writes == writes


@pytest.mark.parametrize(("kind", "change"), fakes.NARROWINGS)
async def test_what_somebody_adds_to_a_field_that_is_one_value_is_taken_away(
    kind: str, change: Callable[[Manifest], None]
) -> None:
    operator = Operator(cluster_with({"replicas": 2, "template": {"nodeSelector": {"a": "x"}}}))
    await operator.settle()
    before = operator.children()
    operator.cluster.edit(kind, change)
    assert operator.children() != before
    await operator.settle()
    assert operator.children() == before


async def test_a_report_with_an_endless_name_breaks_nothing() -> None:
    operator = Operator(cluster_with())
    operator.cluster.put(fakes.pod(ready=True))
    served = ServedModel(name="n" * 1000, max_model_len=512, dtype="d" * 100)
    operator.reports.states["uid-of-chat-1"] = State(
        boot_id="b", uptime_s=1, phase="ready", model=served
    )
    await operator.settle()
    assert len(operator.status()["model"]["name"]) == 256


async def test_an_invalid_spec_touches_nothing_that_runs() -> None:
    operator = Operator(cluster_with())
    await operator.settle()
    before = operator.children()
    set_spec(operator.cluster, unheardOf=1)
    await operator.settle()
    assert operator.children() == before
    assert operator.condition("Ready")[:2] == ("False", "InvalidSpec")
    assert "spec.unheardOf" in operator.condition("Ready")[2]


async def test_a_deleted_service_is_forgotten() -> None:
    operator = Operator(cluster_with())
    await operator.settle()
    operator.cluster.edit(
        names.KIND, lambda body: body["metadata"].update(deletionTimestamp=fakes.NOW_TEXT)
    )
    writes = operator.cluster.writes
    assert await operator.reconcile() is None
    operator.cluster.remove(names.KIND)
    assert await operator.reconcile() is None
    assert operator.cluster.writes == writes


async def test_a_service_whose_deletion_no_watch_told_is_found_gone_by_a_sweep() -> None:
    operator = Operator(cluster_with())
    await operator.settle()
    for place in (names.KIND, *PLACES):
        operator.cluster.remove(place)
    await operator.sweep()
    assert await operator.reconcile(catch_up=False) is None
    assert operator.cluster.objects == {}


async def test_a_pod_whose_deletion_no_watch_told_is_found_gone_by_a_sweep() -> None:
    operator = Operator(cluster_with())
    operator.cluster.put(fakes.pod(ready=True))
    await operator.settle()
    assert operator.status()["readyReplicas"] == 1
    operator.cluster.remove("Pod", Key("team", "chat-1"))
    await operator.sweep()
    await operator.reconcile(catch_up=False)
    assert operator.status()["readyReplicas"] == 0


async def test_the_status_tells_the_model_as_the_pods_resolved_it() -> None:
    operator = Operator(cluster_with())
    operator.cluster.put(fakes.pod(ready=True))
    served = ServedModel(
        name="chat", max_model_len=512, dtype="fp32", quantization="gptq", kv_cache_dtype="fp8"
    )
    operator.reports.states["uid-of-chat-1"] = State(
        boot_id="b", uptime_s=1, phase="ready", model=served
    )
    await operator.settle()
    assert operator.status()["model"] == {"name": "chat", "maxModelLen": 512, "dtype": "fp32"}
    assert operator.status()["quantization"] == {"scheme": "gptq", "kvCacheDtype": "fp8"}
    assert operator.status()["runtimeImage"] == fakes.IMAGE


async def test_the_status_tells_how_far_the_download_is() -> None:
    operator = Operator(cluster_with())
    operator.cluster.put(fakes.pod(running=True))
    loading = Loading(stage="downloading", done_bytes=3, total_bytes=9)
    operator.reports.states["uid-of-chat-1"] = State(
        boot_id="b", uptime_s=1, phase="loading", loading=loading
    )
    await operator.settle()
    assert operator.status()["model"] == {"name": "chat", "loadedBytes": 3, "totalBytes": 9}
    assert operator.condition("Ready")[1] == "Downloading"


def report(**figures: Any) -> State:
    return State(boot_id="b", uptime_s=1, phase="ready", **figures)


async def test_the_status_tells_the_hit_rate_of_the_pods_that_serve() -> None:
    operator = Operator(cluster_with())
    operator.cluster.put(fakes.pod(ready=True))
    operator.reports.states["uid-of-chat-1"] = report(
        cached_prompt_tokens=30, computed_prompt_tokens=10, prefix_cache_bytes=4096
    )
    await operator.settle()
    assert operator.status()["prefixCache"] == {"hitRatePercent": 75, "effectiveBytes": 4096}
    assert operator.condition("PrefixCacheWarm")[:2] == ("True", "Warm")
    operator.cluster.remove("Pod", Key("team", "chat-1"))
    await operator.settle()
    assert "prefixCache" not in operator.status()


DRAFTS = {"speculativeDecoding": {"draftModels": [{"uri": "builtin://helmsman-1m-draft"}]}}


async def test_the_status_tells_what_drafts_are_worth() -> None:
    operator = Operator(cluster_with(DRAFTS))
    operator.cluster.put(fakes.pod(ready=True))
    operator.reports.states["uid-of-chat-1"] = report(
        drafted_tokens=400,
        accepted_tokens=284,
        decode_tokens=384,
        decoded_rows=150,
        speculation=Speculation(state="active"),
    )
    await operator.settle()
    assert operator.status()["speculation"] == {
        "state": "active",
        "acceptancePercent": 71,
        "meanAcceptedLength": "2.56",
    }
    assert operator.condition("SpeculationEffective")[:2] == ("True", "Active")


async def test_a_draft_that_fails_is_an_event_and_changes_no_child() -> None:
    operator = Operator(cluster_with(DRAFTS))
    operator.cluster.put(fakes.pod(ready=True))
    operator.reports.states["uid-of-chat-1"] = report(speculation=Speculation(state="active"))
    await operator.settle()
    before = operator.children()
    why = Speculation(state="failed", reason="OutOfMemory", message="there is no room")
    operator.reports.states["uid-of-chat-1"] = report(speculation=why)
    await operator.settle()
    assert operator.children() == before
    assert operator.condition("SpeculationEffective")[:2] == ("False", "OutOfMemory")
    assert operator.status()["readyReplicas"] == 1
    told = [
        (each["type"], each["reason"])
        for each in operator.cluster.events
        if each["reason"] in ("Active", "OutOfMemory")
    ]
    assert told == [("Normal", "Active"), ("Warning", "OutOfMemory")]


async def test_a_service_that_wants_no_drafts_any_more_has_no_condition_of_them() -> None:
    operator = Operator(cluster_with(DRAFTS))
    await operator.settle()
    assert operator.condition("SpeculationEffective")[0] == "Unknown"
    body = operator.cluster.objects[names.KIND, KEY]
    operator.cluster.put({**body, "spec": {"model": body["spec"]["model"]}})
    await operator.settle()
    assert "SpeculationEffective" not in [each["type"] for each in operator.status()["conditions"]]


async def test_the_reports_of_a_service_that_is_gone_are_not_kept() -> None:
    operator = Operator(cluster_with())
    operator.cluster.put(fakes.pod(ready=True))
    operator.reports.states["uid-of-chat-1"] = report(
        cached_prompt_tokens=30, computed_prompt_tokens=10
    )
    await operator.settle()
    body = operator.cluster.objects[names.KIND, KEY]
    operator.cluster.remove(names.KIND)
    await operator.reconcile()
    operator.cluster.put({**body, "status": {}})
    operator.reports.states.clear()
    await operator.settle()
    assert "prefixCache" not in operator.status()


async def test_a_size_above_the_memory_is_told_once_with_both_numbers() -> None:
    operator = Operator(cluster_with({"prefixCache": {"size": "1Ki"}}))
    operator.cluster.put(fakes.pod(ready=True))
    for bound in (1024, 1000, 1000):
        operator.reports.states["uid-of-chat-1"] = report(prefix_cache_bytes=bound)
        await operator.settle()
    (told,) = [
        each for each in operator.cluster.events if each["reason"] == "PrefixCacheSizeClamped"
    ]
    assert told["note"].startswith("prefixCache.size is 1Ki, but a pod has 1000 bytes")
    assert operator.cluster.repeated == []
    assert operator.status()["prefixCache"] == {"effectiveBytes": 1000}


async def test_the_url_says_https_with_a_certificate() -> None:
    operator = Operator(cluster_with({"tls": {"secretRef": {"name": "certificate"}}}))
    await operator.settle()
    assert operator.status()["url"] == "https://chat.team.svc:8000/v1"


@pytest.mark.parametrize("replicas", [1, 2], ids=["straight", "routed"])
async def test_the_url_turns_to_https_once_nothing_answers_without_it(replicas: int) -> None:
    operator = Operator(cluster_with({"replicas": replicas}))
    await operator.settle()
    operator.cluster.run_pods()
    await operator.settle()
    old = [body for (kind, _), body in operator.cluster.objects.items() if kind == "Pod"]
    secret = {"tls": {"secretRef": {"name": "certificate"}}}
    operator.cluster.edit(names.KIND, lambda body: body["spec"].update(secret))
    await operator.settle()
    assert operator.status()["url"] == "http://chat.team.svc:8000/v1"  # old pods alone answer
    operator.cluster.run_pods()
    answers = names.RUNTIME if replicas == 1 else names.ROUTER
    (late,) = [each for each in old if each["metadata"]["labels"][names.LABEL_NAME] == answers][:1]
    late = {**late, "metadata": {**late["metadata"], "name": "late", "uid": "late"}}
    operator.cluster.put(late)
    await operator.settle()
    assert operator.status()["url"] == "http://chat.team.svc:8000/v1"  # one of them still does
    operator.cluster.put({**late, "metadata": {**late["metadata"], "deletionTimestamp": "x"}})
    await operator.settle()
    assert operator.status()["url"] == "https://chat.team.svc:8000/v1"


@pytest.mark.parametrize("wrong_s", [0, 3600, -3600])
async def test_a_pod_stuck_before_its_container_shows_what_cannot_be_mounted(
    clock: Clock, wrong_s: float
) -> None:
    clock.wrong_s = wrong_s
    operator = Operator(cluster_with())
    operator.cluster.put(fakes.pod(waiting={"reason": "ContainerCreating"}))
    missing = Waiting("FailedMount", 'secret "token" not found')
    operator.cluster.stuck_pods["chat-1"] = missing
    await operator.settle()
    assert operator.condition("Ready")[1] == "Progressing"  # a volume takes some seconds
    clock.now_s += STUCK_AFTER_S + 1
    await operator.settle()
    assert operator.condition("Ready")[:2] == ("False", "MountFailed")


async def test_events_tell_each_change_once() -> None:
    operator = Operator(cluster_with())
    await operator.settle()
    told = [(each["type"], each["reason"]) for each in operator.cluster.events]
    assert told == [("Normal", "Created"), ("Normal", "Progressing")]
    (created, _) = operator.cluster.events
    assert created["note"] == "created ServiceAccount, NetworkPolicy, Service, Deployment"
    assert created["regarding"]["uid"] == "uid-of-chat"
    made_from = operator.children()["Deployment"]["metadata"]["annotations"][names.TEMPLATE_HASH]
    operator.cluster.put(fakes.pod(ready=True, hash=made_from))
    await operator.settle()
    assert operator.cluster.events[-1]["reason"] == "Ready"


async def test_serving_pods_are_asked_for_three_times_a_minute_and_starting_ones_often() -> None:
    operator = Operator(cluster_with())
    await operator.settle()
    starting = await operator.reconcile()
    operator.cluster.put(fakes.pod(ready=True))
    await operator.settle()
    assert (starting, await operator.reconcile()) == (2.0, 60.0)  # nobody has asked anything
    told = State(boot_id="a", uptime_s=1.0, phase="ready", computed_prompt_tokens=9)
    operator.reports.states["uid-of-chat-1"] = told.model_copy(update={"cached_prompt_tokens": 0})
    assert await operator.reconcile() == 20.0


async def test_what_others_change_while_pods_are_asked_is_mended_by_the_next_look() -> None:
    operator = Operator(cluster_with())
    await operator.settle()

    def interfere() -> None:
        operator.reports.asked = lambda: None
        found = copy.deepcopy(operator.cluster.objects["Deployment", KEY])
        found["spec"]["replicas"] = 0
        operator.cluster.put(found)
        operator.watch.catch_up()

    operator.reports.asked = interfere
    await operator.reconcile()
    await operator.reconcile()
    assert operator.cluster.objects["Deployment", KEY]["spec"]["replicas"] == 1


async def test_a_spec_that_comes_with_the_answer_to_a_status_is_looked_at_at_once() -> None:
    operator = Operator(cluster_with())

    def change() -> None:
        operator.reports.asked = lambda: None
        found = copy.deepcopy(operator.cluster.objects[names.KIND, KEY])
        found["spec"]["replicas"] = 3
        found["metadata"]["generation"] = found["metadata"].get("generation", 1) + 1
        operator.cluster.put(found)

    operator.reports.asked = change
    assert await operator.reconcile() == 0.0
    await operator.reconcile(catch_up=False)
    assert operator.cluster.objects["Deployment", KEY]["spec"]["replicas"] == 3
