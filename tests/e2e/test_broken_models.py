"""A model that cannot be served: the pod says why in one line, and so does the InferenceService."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.e2e.claims import claim
from tests.e2e.services import Service

pytestmark = pytest.mark.cluster

HELMSMAN = Path(__file__).parents[2] / "runtime/aweigh_runtime/builtin/helmsman-1m-draft"
WEIGHTS = "model.safetensors"


def _truncated(model: Path) -> None:
    weights = model / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1_000_000])


def _not_safetensors(model: Path) -> None:
    (model / WEIGHTS).write_bytes(b"PK\x03\x04" + b"\x00" * 4096)


def _pickled(model: Path) -> None:
    (model / WEIGHTS).rename(model / "pytorch_model.bin")


def _other_shapes(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 512}))


def _other_architecture(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    changed = {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
    (model / "config.json").write_text(json.dumps(config | changed))


def _no_config(model: Path) -> None:
    (model / "config.json").unlink()


SPOILT = {
    "truncated": (_truncated, "ModelReady", "ModelUnreadable", WEIGHTS),
    "not-safetensors": (_not_safetensors, "ModelReady", "ModelUnreadable", WEIGHTS),
    "pickled": (_pickled, "ModelReady", "ModelUnreadable", "safetensors"),
    "other-shapes": (_other_shapes, "ModelReady", "ModelUnreadable", "512"),
    "no-config": (_no_config, "ModelReady", "ModelUnreadable", "config.json"),
    "other-architecture": (
        _other_architecture,
        "SpecValid",
        "UnsupportedModel",
        "MambaForCausalLM",
    ),
}  # name: how it is spoilt, the condition, its reason, a part of its sentence


@pytest.fixture(scope="module")
def models(
    cluster: Cluster, operator: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A namespace with a claim `models` that holds the small model, sound and spoilt."""
    if not cluster.on_this_machine:
        pytest.skip("the claim is a folder of this machine; the nodes are elsewhere")
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(HELMSMAN, folder / "sound")
    for name, (spoil, *_) in SPOILT.items():
        shutil.copytree(HELMSMAN, folder / name)
        spoil(folder / name)
    with cluster.namespace() as namespace:
        volume = claim(cluster, namespace, folder)
        for name in (*SPOILT, "sound"):  # at once: each takes a while to start
            Service(cluster, namespace, name).apply(
                model={"uri": f"pvc://models/{name}", "dtype": "fp32"},
                resources={"requests": {"cpu": "10m"}},
            )
        yield namespace
    cluster.kubectl("delete", "pv", volume, "--wait=false")


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_model_is_named_in_condition_and_event(
    cluster: Cluster, models: str, name: str
) -> None:
    _, condition, reason, sentence = SPOILT[name]
    service = Service(cluster, models, name)
    found = service.wait_for_reason(condition, reason, timeout_s=120)
    assert found["status"] == "False"
    assert sentence in found["message"]
    assert service.condition("Ready")["reason"] == reason

    def told() -> bool:
        events = json.loads(cluster.kubectl("get", "events", "-n", models, "-o", "json"))["items"]
        return any(
            event["reason"] == reason and sentence in event["message"]
            for event in events
            if event["involvedObject"]["name"] == name
        )

    cluster.wait("the event", told, 10)


def test_a_sound_model_on_a_claim_is_served(cluster: Cluster, models: str) -> None:
    service = Service(cluster, models, "sound")
    service.wait_ready(120)
    assert service.status()["model"] == {"name": "sound", "maxModelLen": 2048, "dtype": "fp32"}


@pytest.mark.parametrize(
    ("uri", "condition", "reason", "sentence"),
    [
        pytest.param(
            "file:///models/none", "ModelReady", "ModelNotFound", "/models/none", id="no folder"
        ),
        pytest.param(
            "builtin://helmsman-9m", "ModelReady", "ModelNotFound", "helmsman-8m", id="no builtin"
        ),
        pytest.param("pvc://absent/llama", "WorkloadReady", "MountFailed", "absent", id="no claim"),
    ],
)
def test_a_model_that_is_not_there_is_named(
    cluster: Cluster, operator: None, namespace: str, uri: str, condition: str, reason: str,
    sentence: str,
) -> None:  # fmt: skip
    service = Service(cluster, namespace)
    service.apply(model={"uri": uri})
    found = service.wait_for_reason(condition, reason)
    assert sentence in found["message"]
