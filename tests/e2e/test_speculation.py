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

from aweigh_bench.wrong_draft import wrong_draft
from aweigh_runtime.sources.local import builtin
from tests.cluster.cluster import Cluster
from tests.e2e.claims import claim
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

DRAFT = "builtin://helmsman-1m-draft"
QUESTION = "What is a Pod?"
REPORTS_S = 180.0  # the operator reads reports three times a minute; the machine may be busy
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
    poor.apply(speculativeDecoding={"draftModels": [{"uri": "pvc://models/worthless"}]})
    poor.wait_ready(120)
    with _traffic(poor):
        begun = time.monotonic()
        found = poor.wait_for_reason("SpeculationEffective", "LowAcceptance", REPORTS_S)
        tell(f"turned off {time.monotonic() - begun:.0f} s after the first question")
    tell(found["message"])
    assert found["status"] == "False"
    assert "tokens at a time, of which 0% stay" in found["message"]
    assert poor.status()["speculation"]["state"] == "paused"
    assert poor.condition("Ready")["status"] == "True"
    assert len(poor.pods()) == 1
    events = service.cluster.list("events.events.k8s.io", models)
    assert "LowAcceptance" in {each["reason"] for each in events}


@contextmanager
def _traffic(service: Service) -> Iterator[None]:
    """Questions, one after another, until the context ends."""
    enough = threading.Event()

    def ask() -> None:
        while not enough.is_set():
            _ask(service, times=1)

    with ThreadPoolExecutor(1) as asking:
        asked = asking.submit(ask)
        try:
            yield
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


def _ask(service: Service, times: int) -> None:
    question = {"role": "user", "content": QUESTION}
    body = {"model": "chat", "messages": [question], "temperature": 0, "max_tokens": 64}

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
