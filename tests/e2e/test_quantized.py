"""What `aweigh quantize` writes is served on the cluster, and its status says how."""

import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.cli.command import arguments, environment
from tests.cluster.cluster import Cluster
from tests.e2e.claims import claim
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

FEW_TEXTS = ("--num-texts=8", "--text-tokens=64")
SCHEMES = ("gptq", "fp8")


@pytest.fixture(scope="module")
def models(
    cluster: Cluster, operator: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A namespace with a claim that holds helmsman-8m in each scheme."""
    if not cluster.on_this_machine:
        pytest.skip("the claim is a folder of this machine; the nodes are elsewhere")
    folder = tmp_path_factory.mktemp("quantized")
    for scheme in SCHEMES:
        given = ("--scheme", scheme, "-o", str(folder / scheme), *FEW_TEXTS)
        command = arguments("quantize", "builtin://helmsman-8m", *given)
        subprocess.run(command, check=True, timeout=240, env=environment())
    with cluster.namespace() as namespace:
        volume = claim(cluster, namespace, folder)
        yield namespace
    cluster.kubectl("delete", "pv", volume, "--wait=false")


@pytest.mark.parametrize(("scheme", "kept"), [("gptq", "auto"), ("fp8", "fp8")])
def test_a_quantized_model_answers_and_says_what_it_is(
    cluster: Cluster, models: str, scheme: str, kept: str
) -> None:
    service = Service(cluster, models, scheme)
    service.apply(
        model={"uri": f"pvc://models/{scheme}", "dtype": "fp32"},
        quantization={"scheme": scheme, "kvCacheDtype": kept},
    )
    service.wait_ready(120)
    dtype = "fp32" if kept == "auto" else kept
    assert service.status()["quantization"] == {"scheme": scheme, "kvCacheDtype": dtype}
    wide = cluster.kubectl("get", "infs", scheme, "-n", models, "-o", "wide").splitlines()
    assert "QUANT" in wide[0].split()
    assert scheme in wide[1].split()[1:]
    with cluster.endpoint(models, scheme, 8000) as url:
        cluster.wait(f"{url} to answer", lambda: "containers" in _answer(url, scheme), 30)


def test_another_scheme_is_refused_with_what_the_checkpoint_has(
    cluster: Cluster, models: str
) -> None:
    service = Service(cluster, models, "wrong")
    service.apply(model={"uri": "pvc://models/gptq"}, quantization={"scheme": "awq"})
    found = service.wait_for_reason("SpecValid", "InvalidConfiguration", timeout_s=120)
    assert found["status"] == "False"
    assert "--quantization is awq" in found["message"]
    assert "gptq 4 bit" in found["message"]


def _answer(url: str, model: str) -> str:
    """Of the model; nothing while kube-proxy has not learnt of its pod."""
    question = {"role": "user", "content": "What is a Pod?"}
    body = {"model": model, "messages": [question], "temperature": 0, "max_tokens": 40}
    try:
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)
    except httpx.TransportError:
        return ""
    answer.raise_for_status()
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text
