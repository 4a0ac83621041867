"""A draft on the cluster: `kubectl get infs` shows what it is worth, and a bad one harms nobody."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save_file

from aweigh_api import names
from aweigh_api.state import State
from aweigh_bench.wrong_draft import wrong_draft
from aweigh_runtime.sources.local import builtin
from tests.cluster.cluster import Cluster
from tests.e2e.claims import claim
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

DRAFT = "builtin://helmsman-1m-draft"
QUESTION = "What is a Pod?"
REPORTS_S = 180.0  # the operator reads reports three times a minute; the machine may be busy
OFF_S = 30.0  # from the first bad draft until it is off
TOLD_S = 30.0  # from a pod's report to the status
LOOKS_S = 50.0  # in which the number of pods is decided three times
SCALING = {"minReplicas": 1, "maxReplicas": 3}

# Any of 32 tokens that neither model would say: a draft knows no bias.
BAD = {"temperature": 1, "logit_bias": {str(token): 100 for token in range(4000, 4032)}}
FEWER = 16  # tokens that the bad draft lacks


@pytest.fixture
def service(cluster: Cluster, operator: None, namespace: str) -> Service:
    return Service(cluster, namespace)


def test_what_a_draft_is_worth_shows_in_kubectl_get(
    service: Service, tell: Callable[[str], None]
) -> None:
    service.apply(speculativeDecoding={"draftModels": [{"uri": DRAFT}]})
    service.wait_ready(120)
    _ask(service, times=5)

    def told() -> bool:
        return "acceptancePercent" in service.status().get("speculation", {})

    begun = time.monotonic()
    service.cluster.wait("the acceptance", told, REPORTS_S)
    shown = service.status()["speculation"]
    tell(
        f"ACCEPT% {shown['acceptancePercent']} after {time.monotonic() - begun:.0f} s; an answer "
        f"grew by {shown['meanAcceptedLength']} tokens in a step; {shown['state']}"
    )
    assert 50 <= shown["acceptancePercent"] <= 100
    assert float(shown["meanAcceptedLength"]) >= 1
    head, row = _columns(service)
    start = head.index("ACCEPT%")
    assert row[start : start + len("ACCEPT%")].strip() == str(shown["acceptancePercent"])
    assert service.condition("Ready")["status"] == "True"
    effective = service.condition("SpeculationEffective")
    assert (effective["status"], shown["state"]) in (("True", "active"), ("False", "paused"))


def test_a_draft_with_another_vocabulary_is_turned_off_and_the_service_serves(
    service: Service, models: str, tell: Callable[[str], None]
) -> None:
    bad = Service(service.cluster, models)
    bad.apply(speculativeDecoding={"draftModels": [{"uri": "pvc://models/bad"}]})
    bad.wait_ready(120)
    found = bad.wait_for_reason("SpeculationEffective", "VocabularyMismatch", REPORTS_S)
    tell(found["message"])
    assert found["status"] == "False"
    size = _vocab_size(builtin("helmsman-8m"))
    assert f"{size - FEWER} tokens" in found["message"]
    assert f"{size}, of which {FEWER}" in found["message"]
    assert bad.status()["speculation"]["state"] == "failed"
    assert bad.condition("Ready")["status"] == "True"
    assert len(bad.pods()) == 1
    _ask(bad, times=1)
    wide = service.cluster.kubectl("get", "infs", bad.name, "-n", models, "-o", "wide")
    assert "DRAFT" in wide.splitlines()[0].split()
    assert "failed" in wide.splitlines()[1].split()


def test_a_draft_that_is_never_right_is_turned_off_while_it_serves(
    service: Service, models: str, tell: Callable[[str], None]
) -> None:
    poor = Service(service.cluster, models)
    drafts = [{"uri": "pvc://models/worthless"}]
    poor.apply(speculativeDecoding={"draftModels": drafts}, scaling=SCALING)
    poor.wait_ready(120)
    with _traffic(poor):
        begun = time.monotonic()
        found = poor.wait_for_reason("SpeculationEffective", "LowAcceptance", OFF_S + TOLD_S)
        tell(f"turned off {time.monotonic() - begun:.0f} s after the first question")
        tell(found["message"])
        assert found["status"] == "False"
        assert "of which 0% stay" in found["message"]
        _expect_one_pod_that_serves_without(poor, found["reason"])


def test_drafts_that_go_bad_in_the_middle_of_traffic_are_turned_off_and_no_pod_is_added(
    service: Service, tell: Callable[[str], None]
) -> None:
    service.apply(speculativeDecoding={"draftModels": [{"uri": DRAFT}]}, scaling=SCALING)
    service.wait_ready(120)
    with _traffic(service) as fields:
        service.wait_for_reason("SpeculationEffective", "Active", REPORTS_S)
        service.cluster.wait("good drafts", lambda: _acceptance(service) >= 50, REPORTS_S)
        tell(f"at first: {service.condition('SpeculationEffective')['message']}")
        fields.update(BAD)
        begun = time.monotonic()
        service.cluster.wait("the pod to report that they are off", lambda: _off(service), OFF_S)
        off_s = time.monotonic() - begun

        def told() -> bool:
            return bool(service.condition("SpeculationEffective")["status"] == "False")

        service.cluster.wait("the condition to say so", told, TOLD_S)
        found = service.condition("SpeculationEffective")
        tell(f"off after {off_s:.0f} s, told after {time.monotonic() - begun:.0f} s")
        tell(found["message"])
        assert "does not use drafts, and serves without" in found["message"]
        _expect_one_pod_that_serves_without(service, found["reason"])


def _acceptance(service: Service) -> int:
    percent: int = service.status().get("speculation", {}).get("acceptancePercent", 0)
    return percent


def _off(service: Service) -> bool:
    """What its pod says itself."""
    (pod,) = service.pods()
    there = f"{service.namespace}/pods/{pod['metadata']['name']}:{names.ADMIN_PORT}"
    text = service.cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{there}/proxy/state")
    state = State.model_validate_json(text)
    return state.speculation is not None and state.speculation.state == "paused"


def _expect_one_pod_that_serves_without(service: Service, reason: str) -> None:
    """Status and an event tell of it; the number of pods is decided, and stays."""
    assert service.status()["speculation"]["state"] == "paused"
    assert service.condition("Ready")["status"] == "True"
    events = service.cluster.list("events.events.k8s.io", service.namespace)
    assert reason in {each["reason"] for each in events}
    end = time.monotonic() + LOOKS_S
    while time.monotonic() < end:
        assert service.size() == len(service.pods()) == 1
        time.sleep(2)
    scaling = service.status()["scaling"]
    assert scaling["desiredReplicas"] == 1, scaling["message"]
    assert scaling.get("history", []) == []
    assert service.condition("ScalingActive")["status"] == "True"


@contextmanager
def _traffic(service: Service) -> Iterator[dict[str, Any]]:
    """Questions, one after another, until the context ends; what it holds joins later ones."""
    enough = threading.Event()
    fields: dict[str, Any] = {}

    def ask() -> None:
        while not enough.is_set():
            _ask(service, times=1, **fields)

    with ThreadPoolExecutor(1) as asking:
        asked = asking.submit(ask)
        try:
            yield fields
        finally:
            enough.set()
            asked.result()


@pytest.fixture
def models(
    cluster: Cluster, operator: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A namespace whose claim `models` holds drafts that are no good, each in its way."""
    if not cluster.on_this_machine:
        pytest.skip("the claim is a folder of this machine; the nodes are elsewhere")
    folder = tmp_path_factory.mktemp("drafts")
    _with_fewer_tokens(builtin("helmsman-1m-draft"), folder / "bad")
    with wrong_draft(builtin("helmsman-1m-draft")) as wrong:
        assert wrong is not None
        shutil.copytree(wrong, folder / "worthless")
    for path in folder.glob("*/*"):
        path.chmod(0o644)
    with cluster.namespace() as namespace:
        volume = claim(cluster, namespace, folder)
        yield namespace
    cluster.kubectl("delete", "pv", volume, "--wait=false")


def _with_fewer_tokens(draft: Path, target: Path) -> None:
    """The draft without its last tokens."""
    shutil.copytree(draft, target)
    size = _vocab_size(draft)
    config: dict[str, Any] = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "vocab_size": size - FEWER}))
    for file in target.glob("*.safetensors"):
        tensors = {
            name: tensor[: size - FEWER].clone() if tensor.shape[0] == size else tensor
            for name, tensor in load_file(file).items()
        }
        save_file(tensors, file)
    tokenizer: dict[str, Any] = json.loads((target / "tokenizer.json").read_text())
    model = tokenizer["model"]
    vocabulary = {text: token for text, token in model["vocab"].items() if token < size - FEWER}
    merges = [pair for pair in model["merges"] if "".join(pair) in vocabulary]
    tokenizer["model"] = {**model, "vocab": vocabulary, "merges": merges}
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))


def _vocab_size(directory: Path) -> int:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return int(config["vocab_size"])


def _columns(service: Service) -> list[str]:
    shown = service.cluster.kubectl("get", "infs", service.name, "-n", service.namespace)
    return shown.splitlines()


def _ask(service: Service, times: int, **fields: Any) -> None:
    question = {"role": "user", "content": QUESTION}
    usual = {"model": "chat", "messages": [question], "temperature": 0, "max_tokens": 64}
    body = {**usual, **fields}

    def answered() -> bool:
        """kube-proxy learns of the pod a moment late."""
        try:
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)
        except httpx.TransportError:
            return False
        answer.raise_for_status()
        return len(answer.json()["choices"][0]["message"]["content"]) > 20

    with service.cluster.endpoint(service.namespace, service.name, 8000) as url:
        for _ in range(times):
            service.cluster.wait(f"{url} to answer", answered, 30)
