"""From `kubectl apply` to tokens: the installed chart, real pods, the real OpenAI client."""

import threading
import time
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest

from aweigh_api import names
from aweigh_api.termination import ExitCode
from tests.cluster.cluster import Cluster
from tests.e2e import deaths
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster


@pytest.fixture
def service(cluster: Cluster, operator: None, namespace: str) -> Service:
    return Service(cluster, namespace)


@pytest.fixture
def endpoint(service: Service, tell: Callable[[str], None]) -> Iterator[str]:
    applied_s = service.apply(drain={"settleSeconds": 5, "timeoutSeconds": 30})
    service.wait_ready()
    tell(f"apply to Ready: {time.monotonic() - applied_s:.1f} s")
    with service.cluster.endpoint(service.namespace, service.name, 8000) as url:
        # kube-proxy learns of a ready pod a moment after the API server.
        service.cluster.wait(f"{url} to answer", lambda: _answers(url))
        yield f"{url}/v1"


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_an_applied_service_streams_to_the_openai_client(endpoint: str) -> None:
    with openai.OpenAI(base_url=endpoint, api_key="unused") as client:
        (model,) = client.models.list().data
        assert model.id == "chat"

        stream = client.chat.completions.create(
            model="chat",
            messages=[{"role": "user", "content": "What is a Pod?"}],
            temperature=0,
            max_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "containers" in text
    assert len(chunks) > 5, "the answer came in one piece"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 5


def test_kubectl_get_shows_what_matters(service: Service, endpoint: str) -> None:
    head, row = service.cluster.kubectl("get", "infs", "-n", service.namespace).splitlines()
    assert head.split() == ["NAME", "READY", "REASON", "REPLICAS", "HIT%", "ACCEPT%", "URL", "AGE"]
    url = f"http://chat.{service.namespace}.svc:8000/v1"
    assert row.split()[:5] == ["chat", "True", "Ready", "1", url]


def test_a_pod_has_no_token_and_cannot_write_its_image(service: Service, endpoint: str) -> None:
    (pod,) = service.pods()
    container = pod["spec"]["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert not any(mount.startswith("/var/run/secrets") for mount in mounts)


def test_a_rollout_loses_no_request(service: Service, endpoint: str) -> None:
    """Short requests one after the other, and a long stream, while the pod is replaced."""
    client = openai.OpenAI(base_url=endpoint, api_key="unused", max_retries=0)
    stop = threading.Event()
    answered: list[str] = []
    failed: list[BaseException] = []

    def ask(tokens: int) -> None:
        while not stop.is_set():
            try:
                stream = client.chat.completions.create(
                    model="chat",
                    messages=[{"role": "user", "content": "What is a Service?"}],
                    max_tokens=tokens,
                    stream=True,
                )
                answered.append("".join(c.choices[0].delta.content or "" for c in stream))
            except Exception as error:
                failed.append(error)

    askers = [threading.Thread(target=ask, args=(tokens,)) for tokens in (4, 4, 200)]
    for asker in askers:
        asker.start()
    before = {pod["metadata"]["name"] for pod in service.pods()}
    service.apply(
        model={"uri": "builtin://helmsman-8m", "maxModelLen": 1024},
        drain={"settleSeconds": 5, "timeoutSeconds": 30},
    )
    service.cluster.wait(
        "the old pod to be gone",
        lambda: not before & {pod["metadata"]["name"] for pod in service.pods()},
        120,
    )
    time.sleep(1)
    stop.set()
    for asker in askers:
        asker.join(60)
    assert failed == []
    assert len(answered) > 20


def test_a_pod_that_is_deleted_in_its_first_second_goes_at_once(
    service: Service, endpoint: str
) -> None:
    cluster, where = service.cluster, ("-n", service.namespace)
    cluster.kubectl("scale", "infs/chat", "--replicas=3", *where)

    def started() -> bool:
        statuses = [pod["status"].get("containerStatuses", []) for pod in service.pods()]
        return sum("running" in each[0]["state"] for each in statuses if each) == 3

    cluster.wait("two more pods to run", started)
    cluster.kubectl("scale", "infs/chat", "--replicas=1", *where)
    cluster.wait("them to be gone", lambda: len(service.pods()) == 1, timeout_s=20)


def test_a_pod_whose_engine_hangs_is_restarted_and_serves_again(
    service: Service, endpoint: str, tell: Callable[[str], None]
) -> None:
    if not service.cluster.on_this_machine:
        pytest.skip("its engine is stopped on the machine of the node")
    (pod,) = service.pods()
    name = pod["metadata"]["name"]
    live = f"http://{pod['status']['podIP']}:{names.ADMIN_PORT}/livez"
    assert httpx.get(live, timeout=5).status_code == 200
    stopped_s = time.monotonic()
    deaths.stop_engine(pod)
    said = service.cluster.wait("/livez to fail", lambda: _complaint(live), timeout_s=30)
    assert "the engine has been silent" in said
    service.cluster.wait("another container", lambda: service.restarts(name) == 1)
    service.cluster.wait("it to answer", lambda: _answers(endpoint.removesuffix("/v1")))
    tell(f"engine hung to answers again: {time.monotonic() - stopped_s:.1f} s")

    client = openai.OpenAI(base_url=endpoint, api_key="unused", max_retries=0)
    answer = client.completions.create(model="chat", prompt="A Pod is", max_tokens=5)
    assert answer.choices[0].text
    (pod,) = service.pods()
    (container,) = pod["status"]["containerStatuses"]
    assert (pod["metadata"]["name"], container["restartCount"]) == (name, 1)
    ended = container["lastState"]["terminated"]
    assert ended["exitCode"] == ExitCode.BUG
    assert "the engine has been silent" in ended["message"]


def _complaint(live: str) -> str:
    """What a failing /livez says; empty: it does not fail."""
    response = httpx.get(live, timeout=5)
    return response.text if response.status_code == 503 else ""


def test_a_bad_request_gets_openais_error_body_and_harms_nobody(endpoint: str) -> None:
    answer = httpx.post(f"{endpoint}/chat/completions", content=b"{not json", timeout=10)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    unknown = httpx.post(
        f"{endpoint}/completions", json={"model": "gpt-9", "prompt": "x"}, timeout=10
    )
    assert unknown.status_code == 404
    assert "gpt-9" in unknown.json()["error"]["message"]
    assert httpx.get(f"{endpoint}/models", timeout=10).status_code == 200
