import asyncio
import copy
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from kubernetes.aio.client import Configuration

from aweigh_api import crd, names
from aweigh_operator import cluster, main
from aweigh_operator.cluster import ApiError, ApiServer
from aweigh_operator.observe import Autoscaler, Waiting
from aweigh_operator.resources import RESOURCES
from tests.operator import fakes
from tests.operator.fakes import KEY

SETTINGS = replace(fakes.SETTINGS, namespaces=("team",))


class Answers:
    """An API server that answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.recovers_after: int | None = None  # answers of that status
        self.body: Any = {}
        self.page: bytes | None = None  # instead of a body: a proxy's
        self.first: list[Any] = []  # bodies of the first answers, if they are others
        self.delay_s = 0.0
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.content_types: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        text = await request.text()
        body = json.loads(text) if text else None
        self.asked.append((request.method, request.path, dict(request.query), body))
        self.content_types.append(request.headers["Content-Type"])
        await asyncio.sleep(self.delay_s)
        if self.page is not None:
            return web.Response(body=self.page)
        recovered = self.recovers_after is not None and len(self.asked) > self.recovers_after
        status = 200 if recovered else self.status
        body = self.first.pop(0) if self.first else self.body
        return web.json_response(body, status=status, headers=self.headers)


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def counted() -> list[tuple[str, int]]:
    return []


@pytest.fixture
async def api(answers: Answers, counted: list[tuple[str, int]]) -> AsyncIterator[ApiServer]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answers.answer)
    async with TestServer(app) as server:
        client = ApiServer(_at(server.port or 0), lambda *call: counted.append(call))
        yield client
        await client.close()


def _at(port: int) -> Configuration:
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{port}"
    return configuration


async def test_a_child_is_written_by_server_side_apply(api: ApiServer, answers: Answers) -> None:
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "chat", "namespace": "team"},
    }
    await api.apply(manifest)
    path = "/apis/apps/v1/namespaces/team/deployments/chat"
    query = {"fieldManager": "aweigh", "force": "true"}
    assert answers.asked == [("PATCH", path, query, manifest)]
    assert answers.content_types == ["application/apply-patch+yaml"]


async def test_a_child_is_created_without_force(api: ApiServer, answers: Answers) -> None:
    await api.apply({"kind": "Service", "metadata": {"name": "a", "namespace": "b"}}, force=False)
    ((_, _, query, _),) = answers.asked
    assert query == {"fieldManager": "aweigh", "force": "false"}


async def test_an_event_is_repeated_unless_it_has_expired(api: ApiServer, answers: Answers) -> None:
    assert await api.repeat_event("team", "chat.1", {"count": 2})
    assert answers.asked[0][3] == {"series": {"count": 2}}
    assert answers.content_types == ["application/merge-patch+json"]
    answers.status = 404
    assert not await api.repeat_event("team", "chat.1", {"count": 3})


async def test_the_status_is_written_for_this_very_object(api: ApiServer, answers: Answers) -> None:
    answers.body = {"metadata": {"resourceVersion": "7"}}
    assert await api.write_status(fakes.service(), {"replicas": 1}) == answers.body
    ((_, path, query, body),) = answers.asked
    assert path == f"/apis/{names.API_VERSION}/namespaces/team/inferenceservices/chat/status"
    assert query == {"fieldManager": "aweigh-status", "force": "true"}
    assert body["metadata"] == {"name": "chat", "namespace": "team", "uid": "uid-of-chat"}


async def test_a_child_is_deleted_only_if_it_is_still_the_same_object(
    api: ApiServer, answers: Answers
) -> None:
    await api.delete("PodDisruptionBudget", KEY, "uid-1")
    ((method, path, _, body),) = answers.asked
    assert (method, body["preconditions"]) == ("DELETE", {"uid": "uid-1"})
    assert path == "/apis/policy/v1/namespaces/team/poddisruptionbudgets/chat"


async def test_what_is_not_there_is_none_and_no_error(api: ApiServer, answers: Answers) -> None:
    answers.status = 404
    assert await api.read("Service", KEY) is None
    await api.delete("Service", KEY, "uid-1")
    assert await api.write_status(fakes.service(), {}) is None


async def test_a_refusal_carries_the_servers_sentence(
    api: ApiServer, answers: Answers, counted: list[tuple[str, int]]
) -> None:
    answers.status, answers.body = 422, {"kind": "Status", "message": "spec.ports: Required value"}
    with pytest.raises(ApiError) as refused:
        await api.apply({"kind": "Service", "metadata": {"name": "chat", "namespace": "team"}})
    assert str(refused.value) == (
        "cannot apply Service team/chat: the API server answered 422: spec.ports: Required value"
    )
    assert not refused.value.transient
    assert counted == [("PATCH", 422)]


async def test_a_namespace_that_is_being_deleted_is_told_apart(
    api: ApiServer, answers: Answers
) -> None:
    causes = [{"reason": "NamespaceTerminating"}]
    answers.status, answers.body = 403, {"message": "forbidden", "details": {"causes": causes}}
    with pytest.raises(ApiError) as refused:
        await api.read("Service", KEY)
    assert refused.value.namespace_leaves


@pytest.mark.parametrize(("kind", "leaves"), [("namespaces", True), ("roles", False)])
async def test_only_a_namespace_that_is_not_there_is_one_that_leaves(
    api: ApiServer, answers: Answers, kind: str, leaves: bool
) -> None:
    answers.status, answers.body = 404, {"message": "not found", "details": {"kind": kind}}
    with pytest.raises(ApiError) as refused:
        await api.apply({"kind": "Service", "metadata": {"name": "chat", "namespace": "team"}})
    assert refused.value.namespace_leaves is leaves


@pytest.mark.parametrize("body", [[], "x", {"message": "no", "details": {"causes": None}}])
async def test_a_refusal_of_any_shape_is_understood(
    api: ApiServer, answers: Answers, body: Any
) -> None:
    answers.status, answers.body = 400, body
    with pytest.raises(ApiError, match="the API server answered 400"):
        await api.read("Service", KEY)


@pytest.mark.parametrize("page", [b"<html>back soon</html>", b'{"half": ', b"[]", b"\xff\xfe"])
async def test_an_answer_that_is_none_of_an_api_server_is_a_transient_failure(
    api: ApiServer, answers: Answers, page: bytes
) -> None:
    answers.page = page
    with pytest.raises(ApiError, match="answered 200: expected an object as JSON") as failed:
        await api.read("Service", KEY)
    assert failed.value.transient


@pytest.mark.parametrize("status", [409, 429, 500, 503])
async def test_what_may_pass_is_transient(api: ApiServer, answers: Answers, status: int) -> None:
    answers.status = status
    with pytest.raises(ApiError) as failed:
        await api.read("Service", KEY)
    assert failed.value.transient


@pytest.mark.parametrize(
    ("said", "after_s"), [("7", 7.0), ("", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0)]
)
async def test_a_server_that_is_asked_too_much_says_when_to_come_again(
    api: ApiServer, answers: Answers, said: str, after_s: float
) -> None:
    answers.status, answers.headers = 429, {"Retry-After": said}
    with pytest.raises(ApiError) as failed:
        await api.read("Service", KEY)
    assert failed.value.retry_after_s == after_s


async def test_a_server_that_does_not_answer_in_time_is_given_up(
    api: ApiServer, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "REQUEST_TIMEOUT_S", 0.05)
    answers.delay_s = 0.5
    with pytest.raises(ApiError, match="the API server did not answer") as failed:
        await api.read("Service", KEY)
    assert failed.value.transient


async def test_a_server_that_is_gone_is_a_transient_failure() -> None:
    api = ApiServer(_at(unused_port()), lambda *_: None)
    with pytest.raises(ApiError, match="the API server did not answer") as failed:
        await api.read("Service", KEY)
    assert failed.value.transient
    await api.close()


async def test_what_is_there_is_listed_by_our_label_as_metadata_alone(
    api: ApiServer, answers: Answers
) -> None:
    answers.body = {"items": [{"metadata": {"uid": "one"}}, {"metadata": {"uid": "two"}}]}
    assert await api.uids("Pod", "team") == {"one", "two"}
    ((_, path, query, _),) = answers.asked
    assert path == "/api/v1/namespaces/team/pods"
    assert query["labelSelector"] == f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"


async def test_every_page_of_a_listing_is_read(api: ApiServer, answers: Answers) -> None:
    page = {"items": [{"metadata": {"uid": "one"}}], "metadata": {"continue": "more"}}
    answers.first = [page]
    answers.body = {"items": [{"metadata": {"uid": "two"}}], "metadata": {}}
    assert await api.uids(names.KIND, None) == {"one", "two"}
    assert "labelSelector" not in answers.asked[-1][2]


async def test_the_newest_reason_why_a_pod_is_not_created_counts(
    api: ApiServer, answers: Answers
) -> None:
    times = {"FailedMount": "12:00:01", "FailedCreatePodSandBox": "12:00:05", "BackOff": "12:00:09"}
    answers.body = {
        "items": [
            {"reason": reason, "lastTimestamp": f"2026-11-23T{time}Z", "message": f"{reason}!"}
            for reason, time in times.items()
        ]
    }
    answers.body["items"] += [{"reason": "FailedMount", "lastTimestamp": None, "message": "old"}]
    found = await api.stuck("team", "chat-1")
    assert found == Waiting("FailedCreatePodSandBox", "FailedCreatePodSandBox!")
    answers.body = {}
    assert await api.stuck("team", "chat-1") is None


def autoscaler(name: str, api: str, kind: str) -> Any:
    target = {"apiVersion": api, "kind": kind, "name": "chat"}
    return {"metadata": {"name": name}, "spec": {"scaleTargetRef": target}}


async def test_autoscalers_of_deployments_and_of_our_services_are_found(
    api: ApiServer, answers: Answers
) -> None:
    answers.body = {
        "items": [
            autoscaler("one", "apps/v1", "Deployment"),
            autoscaler("two", names.API_VERSION, names.KIND),
            autoscaler("kserve", "serving.kserve.io/v1beta1", "InferenceService"),
            autoscaler("other", "apps/v1", "StatefulSet"),
        ]
    }
    assert await api.autoscalers("team") == [
        Autoscaler("one", "Deployment", "chat"),
        Autoscaler("two", names.KIND, "chat"),
    ]
    ((_, path, _, _),) = answers.asked
    assert path == "/apis/autoscaling/v2/namespaces/team/horizontalpodautoscalers"


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (404, "Install the CustomResourceDefinition inferenceservices.serving.aweigh.dev"),
        (403, "Give the operator's ServiceAccount the role that the Helm chart brings"),
        (500, "Check that the API server can be reached"),
    ],
)
async def test_an_operator_that_cannot_see_its_objects_ends_with_a_remedy(
    api: ApiServer,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    remedy: str,
) -> None:
    monkeypatch.setattr(main, "ACCESS_TIMEOUT_S", 0.02)
    monkeypatch.setattr(main, "ACCESS_RETRY_S", 0.01)
    answers.status = status
    with pytest.raises(main.AccessError, match=remedy):
        await main.check_access(api, SETTINGS)


async def test_an_operator_waits_for_an_api_server_that_comes_up(
    api: ApiServer, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "ACCESS_RETRY_S", 0.01)
    answers.status, answers.recovers_after = 503, 3
    await main.check_access(api, SETTINGS)
    assert len(answers.asked) == len(RESOURCES) + 3


def published(schema: Any) -> Any:
    """The API server's answer to who asks for the schemas of our group."""
    kind = {"group": names.GROUP, "version": names.VERSION, "kind": names.KIND}
    other = {**kind, "kind": f"{names.KIND}List"}
    schemas = {
        "list": {"x-kubernetes-group-version-kind": [other]},
        "one": {**schema, "x-kubernetes-group-version-kind": [kind]},
    }
    return {"components": {"schemas": schemas}}


def older_schema() -> Any:
    """Of a CustomResourceDefinition that has not heard of two fields, one of them in a list."""
    schema = copy.deepcopy(crd.schema())
    spec = schema["properties"]["spec"]["properties"]
    del spec["scaling"]
    del spec["speculativeDecoding"]["properties"]["draftModels"]["items"]["properties"]["revision"]
    return schema


async def test_an_operator_begins_with_a_definition_of_its_version_or_a_newer_one(
    api: ApiServer, answers: Answers
) -> None:
    schema = copy.deepcopy(crd.schema())
    schema["properties"]["spec"]["properties"]["unheardOf"] = {"type": "string"}
    answers.body = published(schema)
    await main.check_schema(api)
    assert [path for _, path, _, _ in answers.asked] == [f"/openapi/v3/apis/{names.API_VERSION}"]


async def test_an_operator_with_an_older_definition_ends_with_the_fields_and_a_remedy(
    api: ApiServer, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "ACCESS_TIMEOUT_S", 0.02)
    monkeypatch.setattr(main, "ACCESS_RETRY_S", 0.01)
    answers.body = published(older_schema())
    with pytest.raises(main.AccessError) as ended:
        await main.check_schema(api)
    fields = ".spec.speculativeDecoding.draftModels[].revision, .spec.scaling:"
    assert f"is older than this operator and lacks {fields}" in str(ended.value)
    assert "kubectl apply -f crds/inferenceservices.yaml" in str(ended.value)


async def test_an_operator_waits_for_a_definition_that_comes_with_it(
    api: ApiServer, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "ACCESS_RETRY_S", 0.01)
    answers.first = [{}, published(older_schema())]
    answers.body = published(crd.schema())
    await main.check_schema(api)
    assert len(answers.asked) == 3


async def test_an_operator_says_that_no_schema_is_published(
    api: ApiServer, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "ACCESS_TIMEOUT_S", 0.02)
    monkeypatch.setattr(main, "ACCESS_RETRY_S", 0.01)
    answers.status = 404
    with pytest.raises(main.AccessError, match="does not publish the schema of InferenceServices"):
        await main.check_schema(api)


async def test_an_operator_that_may_not_read_schemas_begins_all_the_same(
    api: ApiServer, answers: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    answers.status = 403
    await main.check_schema(api)
    assert "nobody checks that it has the fields of this version" in caplog.text


async def test_an_operator_looks_at_every_resource_in_its_namespaces_only(
    api: ApiServer, answers: Answers
) -> None:
    await main.check_access(api, SETTINGS)
    paths = [path for _, path, _, _ in answers.asked]
    assert len(paths) == len(RESOURCES)
    assert all("/namespaces/team/" in path for path in paths)
