"""The store: newest versions, no news where nothing that is read changes."""

import copy
from typing import Any

from aweigh_api import names
from aweigh_operator.observe import Key, Manifest
from aweigh_operator.places import PLACES
from aweigh_operator.store import MAX_GONE, Store, services_of
from tests.operator import fakes
from tests.operator.fakes import KEY


def deployment(version: int = 5, uid: str = "of-deployment", **parts: Any) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": KEY.name,
            "namespace": KEY.namespace,
            "uid": uid,
            "resourceVersion": str(version),
            "managedFields": [{"manager": "aweigh"}],
        },
        "spec": {"replicas": 1},
        **parts,
    }


def pod(version: int, **status: Any) -> Manifest:
    body = fakes.pod(**status)
    body["metadata"]["resourceVersion"] = str(version)
    return body


def test_what_is_put_is_given_back_without_bookkeeping() -> None:
    store = Store()
    assert store.put("Deployment", deployment())
    (child,) = store.children(KEY, ("Deployment", "Service")).values()
    assert child["spec"] == {"replicas": 1}
    assert "managedFields" not in child["metadata"]
    assert store.body(KEY) is None


def test_an_older_version_is_no_news_and_changes_nothing() -> None:
    store = Store()
    store.put("Deployment", deployment(9, spec={"replicas": 2}))
    changed = store.changed(KEY)
    assert not store.put("Deployment", deployment(8, spec={"replicas": 1}))
    assert store.children(KEY, ("Deployment",))["Deployment"]["spec"] == {"replicas": 2}
    assert store.changed(KEY) == changed


def test_a_listing_counts_though_it_is_older_as_after_a_restore_from_a_backup() -> None:
    store = Store()
    store.put("Deployment", deployment(90, spec={"replicas": 2}))
    store.put("Pod", pod(91))
    store.put("Deployment", deployment(92, uid="deleted since the backup"))
    store.drop("Deployment", KEY, "deleted since the backup", 93)
    restored = deployment(8, spec={"replicas": 1})
    assert store.put("Deployment", restored, listed=True) == [KEY]
    assert store.put("Deployment", restored, listed=True) == []
    assert store.children(KEY, ("Deployment",))["Deployment"]["spec"] == {"replicas": 1}
    assert store.put("Deployment", deployment(9, spec={"replicas": 3})) == [KEY]  # by its watch
    moved = pod(7)
    moved["metadata"]["labels"][names.LABEL_INSTANCE] = "debug"
    assert store.put("Pod", moved, listed=True) == [KEY, Key(KEY.namespace, "debug")]
    back = deployment(6, uid="deleted since the backup")
    assert store.put("Deployment", back, listed=True) == [KEY]


def test_what_was_dropped_comes_back_by_a_listing_alone() -> None:
    store = Store()
    store.put("Deployment", deployment(90, uid="swept"))
    store.drop("Deployment", KEY, "swept", 90)
    assert store.put("Deployment", deployment(90, uid="swept")) == []
    assert store.put("Deployment", deployment(90, uid="swept"), listed=True) == [KEY]


def test_what_others_count_in_a_childs_status_is_no_news() -> None:
    store = Store()
    store.put("Deployment", deployment(5))
    going_well = {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}
    status = {"readyReplicas": 1, "conditions": [going_well]}
    assert not store.put("Deployment", deployment(6, status=status))


def test_a_deployment_that_cannot_go_on_is_news() -> None:
    store = Store()
    store.put("Deployment", deployment(5))
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    assert store.put("Deployment", deployment(6, status={"conditions": [late]}))
    child = store.children(KEY, ("Deployment",))["Deployment"]
    assert child["status"] == {"conditions": [late]}


def test_a_status_that_somebody_writes_on_an_inference_service_is_news() -> None:
    store = Store()
    body = fakes.service(resourceVersion="1")
    assert store.put(names.KIND, body)
    told = {**body, "status": {"replicas": 7}}
    told["metadata"] = {**body["metadata"], "resourceVersion": "2"}
    assert store.put(names.KIND, told)
    assert not store.put(names.KIND, copy.deepcopy(told))


def test_a_pod_is_news_only_when_something_changes_that_is_read() -> None:
    store = Store()
    assert store.put("Pod", pod(1))
    assert not store.put("Pod", pod(2, hostIP="10.0.0.1"))
    assert store.put("Pod", pod(3, ready=True))
    (found,) = store.pods(KEY)
    assert found.ready


def test_an_answer_that_comes_after_the_deletion_brings_nothing_back() -> None:
    store = Store()
    store.put("Deployment", deployment(5))
    store.drop("Deployment", KEY, "of-deployment", 7)
    assert not store.put("Deployment", deployment(6))
    assert store.children(KEY, ("Deployment",)) == {}


def test_a_child_that_bears_our_label_again_is_there_again() -> None:
    store = Store()
    store.put("Deployment", deployment(5))
    store.drop("Deployment", KEY, "of-deployment", 7)
    assert store.put("Deployment", deployment(8))
    assert "Deployment" in store.children(KEY, ("Deployment",))


def test_a_successor_outlives_the_deletion_of_the_one_before() -> None:
    store = Store()
    store.put("Deployment", deployment(5, uid="old"))
    store.put("Deployment", deployment(8, uid="new"))
    store.drop("Deployment", KEY, "old", 7)
    assert store.uids("Deployment") == {"new": [KEY]}


def test_a_service_of_which_nothing_is_left_takes_no_room() -> None:
    store = Store()
    for number in range(MAX_GONE + 10):
        uid = f"uid-{number}"
        store.put("Deployment", deployment(5, uid=uid))
        store.drop("Deployment", KEY, uid, 7)
    assert store.changed(KEY) == 0
    assert store.uids("Deployment") == {}


def test_a_pod_that_gets_the_label_of_another_service_is_that_ones() -> None:
    store = Store()
    store.put("Pod", pod(1))
    moved = pod(2)
    moved["metadata"]["labels"][names.LABEL_INSTANCE] = "debug"
    debug = Key(KEY.namespace, "debug")
    assert store.put("Pod", moved) == [KEY, debug]
    assert store.pods(KEY) == ()
    assert [each.name for each in store.pods(debug)] == ["chat-1"]


def test_the_order_of_fields_is_no_news() -> None:
    store = Store()
    store.put("Deployment", deployment(5))
    other = dict(reversed(deployment(6).items()))
    assert store.put("Deployment", other) == []


def test_what_belongs_to_a_router_is_news_to_whoever_may_own_it() -> None:
    store, router = Store(), Key(KEY.namespace, "chat-router")
    body = deployment(5)
    body["metadata"]["name"] = "chat-router"
    assert set(store.put("Deployment", body)) == {KEY, router}
    assert set(store.children(KEY, PLACES)) == {"Deployment-router"}
    assert set(store.children(router, PLACES)) == {"Deployment"}
    assert store.uids("Deployment") == {"of-deployment": [KEY, router]}
    for key in services_of("Deployment", body):
        store.drop("Deployment", key, "of-deployment", 7)
    assert store.uids("Deployment") == {}


def test_a_routers_pod_is_none_that_serves() -> None:
    store, body = Store(), pod(1, ready=True)
    body["metadata"]["labels"] = names.router_labels(KEY.name)
    store.put("Pod", body)
    assert store.pods(KEY) == ()
    (router,) = store.routers(KEY)
    assert router.ready
