"""Models are fetched by a Job before pods wait for them; what serves stays meanwhile."""

from typing import Any

import pytest

from aweigh_api import names
from aweigh_api.state import Loading, State
from aweigh_operator.observe import Manifest
from tests.operator import fakes
from tests.operator.fakes import KEY, FakeCluster, Operator

HUB = "hf://acme/navigator"


def spec(uri: str = HUB, *, prefetch: bool = True, **more: Any) -> Manifest:
    cache = {"claim": "downloads", "prefetch": prefetch}
    return {"model": {"uri": uri, "cache": cache}, **more}


async def applied(given: Manifest) -> Operator:
    cluster = FakeCluster()
    cluster.jobs_end = False
    cluster.put(fakes.service(given))
    operator = Operator(cluster)
    await operator.settle()
    return operator


def change(operator: Operator, given: Manifest) -> None:
    def edit(body: Manifest) -> None:
        body["spec"] = given
        body["metadata"]["generation"] += 1

    operator.cluster.edit(names.KIND, edit)


def finish(operator: Operator) -> None:
    """The Job has ended well."""

    def edit(job: Manifest) -> None:
        job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}

    operator.cluster.edit("Job", edit)


def fetcher(**status: Any) -> Manifest:
    """The pod of the Job."""
    pod = fakes.pod("chat-fetch", **status)
    pod["metadata"]["labels"] = names.prefetch_labels(KEY.name)
    return pod


def kinds(operator: Operator) -> set[str]:
    return set(operator.children())


async def test_pods_are_made_once_the_job_is_done() -> None:
    operator = await applied(spec())
    assert "Job" in kinds(operator)
    assert "Deployment" not in kinds(operator)
    finish(operator)
    await operator.settle()
    assert {"Job", "Deployment"} <= kinds(operator)


async def test_the_job_has_the_rights_and_the_place_of_a_server_but_no_gpu_and_no_keys() -> None:
    env = [{"name": "HF_ENDPOINT", "value": "https://hub.example"}]
    operator = await applied(
        spec(
            resources={"limits": {"nvidia.com/gpu": 1}},
            auth={"apiKeys": {"secretRef": {"name": "keys"}}},
            template={"env": env, "nodeSelector": {"pool": "gpus"}},
            speculativeDecoding={"draftModels": [{"uri": "hf://acme/mate", "revision": "v2"}]},
        )
    )
    pod = operator.children()["Job"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["args"][:3] == ["fetch", HUB, "hf://acme/mate@v2"]
    assert env[0] in container["env"]
    assert "nvidia.com/gpu" not in str(container["resources"])
    assert [each["name"] for each in pod["spec"]["volumes"]] == ["cache", "tmp"]
    assert pod["spec"]["nodeSelector"] == {"pool": "gpus"}
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert not names.selector(KEY.name).items() <= pod["metadata"]["labels"].items()  # no requests
    policy = operator.children()["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= pod["metadata"]["labels"].items()


async def test_how_far_the_job_is_stands_in_the_status() -> None:
    operator = await applied(spec())
    operator.cluster.put(fetcher(running=True))
    loading = Loading(stage="downloading", done_bytes=3, total_bytes=9)
    operator.reports.states["uid-of-chat-fetch"] = State(
        boot_id="1", uptime_s=1.0, phase="loading", loading=loading
    )
    again_s = await operator.reconcile()
    assert operator.condition("Ready") == (
        "False", "Downloading", "the model is being downloaded: 3 of 9 bytes",
    )  # fmt: skip
    assert operator.status()["model"]["loadedBytes"] == 3
    assert operator.status()["replicas"] == 0  # nobody counts it as a pod that serves
    assert again_s is not None
    assert again_s <= 2.0


async def test_why_the_job_fails_is_said() -> None:
    operator = await applied(spec())
    word = '{"condition": "ModelReady", "reason": "AccessDenied", "message": "hf:// needs a token"}'
    last = {"reason": "Error", "exitCode": 66, "message": word}
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off 10s"}
    operator.cluster.put(fetcher(waiting=waiting, last=last, restarts=2))
    await operator.settle()
    status, reason, message = operator.condition("ModelReady")
    assert (status, reason) == ("False", "AccessDenied")
    assert "hf:// needs a token" in message


async def test_what_serves_stays_until_the_next_model_is_there() -> None:
    operator = await applied(spec())
    finish(operator)
    await operator.settle()
    before = operator.children()["Deployment"]
    hash_ = before["metadata"]["annotations"][names.TEMPLATE_HASH]
    operator.cluster.put(fakes.pod("chat-1", ready=True, hash=hash_))
    change(operator, spec("hf://acme/admiral"))
    await operator.settle()
    job = operator.children()["Job"]
    assert "hf://acme/admiral" in job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert operator.children()["Deployment"] == before
    status, reason, message = operator.condition("Ready")
    assert (status, reason) == ("True", "Downloading")
    assert message.startswith("1 of 1 pods serve; what is new is downloaded")
    finish(operator)
    await operator.settle()
    assert operator.children()["Deployment"] != before


async def test_a_job_that_somebody_has_deleted_holds_up_nobody() -> None:
    operator = await applied(spec())
    finish(operator)
    await operator.settle()
    operator.cluster.remove("Job")
    change(operator, spec(replicas=3))
    await operator.settle()
    assert "Job" in kinds(operator)  # it looks whether all is there
    assert operator.children()["Deployment"]["spec"]["replicas"] == 3


@pytest.mark.parametrize(
    "given",
    [
        spec(prefetch=False),
        spec(suspend=True),
        {"model": {"uri": HUB}},
    ],
)
async def test_where_nothing_is_to_be_fetched_there_is_no_job(given: Manifest) -> None:
    operator = await applied(given)
    assert "Job" not in kinds(operator)
    assert "Deployment" in kinds(operator)


async def test_fetching_ahead_is_no_reason_to_replace_pods() -> None:
    operator = await applied(spec(prefetch=False))
    before = operator.children()["Deployment"]
    change(operator, spec())
    await operator.settle()
    assert "Job" in kinds(operator)
    assert operator.children()["Deployment"] == before
    change(operator, spec(prefetch=False))
    await operator.settle()
    assert "Job" not in kinds(operator)
