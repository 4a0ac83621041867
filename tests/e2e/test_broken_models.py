"""A model that cannot be served: the pod says why in one line, and so does the InferenceService."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
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


@pytest.fixture
def claim(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Path]:
    """A claim `models` that holds the small model in the folder `draft`; yields that folder."""
    if not cluster.on_this_machine:
        pytest.skip("the claim is a folder of this machine; the nodes are elsewhere")
    model = tmp_path / "draft"
    shutil.copytree(HELMSMAN, model)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    volume = f"models-{namespace}"
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "",
                "claimRef": {"name": "models", "namespace": namespace},
                "hostPath": {"path": str(tmp_path)},
            },
        }
    )
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models"},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "",
                "resources": {"requests": {"storage": "1Gi"}},
                "volumeName": volume,
            },
        },
        namespace,
    )
    yield model
    cluster.kubectl("delete", "pv", volume, "--wait=false")


@pytest.mark.parametrize(
    ("spoil", "condition", "reason", "sentence"),
    [
        pytest.param(_truncated, "ModelReady", "ModelUnreadable", WEIGHTS, id="truncated"),
        pytest.param(
            _not_safetensors, "ModelReady", "ModelUnreadable", WEIGHTS, id="not safetensors"
        ),
        pytest.param(_pickled, "ModelReady", "ModelUnreadable", "safetensors", id="pickled"),
        pytest.param(_other_shapes, "ModelReady", "ModelUnreadable", "512", id="other shapes"),
        pytest.param(_no_config, "ModelReady", "ModelUnreadable", "config.json", id="no config"),
        pytest.param(
            _other_architecture,
            "SpecValid",
            "UnsupportedModel",
            "MambaForCausalLM",
            id="other architecture",
        ),
    ],
)
def test_a_spoilt_model_is_named_in_condition_and_event(
    cluster: Cluster,
    operator: None,
    namespace: str,
    claim: Path,
    spoil: Callable[[Path], None],
    condition: str,
    reason: str,
    sentence: str,
) -> None:
    spoil(claim)
    service = Service(cluster, namespace)
    service.apply(model={"uri": "pvc://models/draft"})

    found = service.wait_for_reason(condition, reason)
    assert found["status"] == "False"
    assert sentence in found["message"]
    assert service.condition("Ready")["reason"] == reason

    events = cluster.kubectl("get", "events", "-n", namespace, "-o", "json")
    messages = [e["message"] for e in json.loads(events)["items"] if e["reason"] == reason]
    assert any(sentence in message for message in messages)


def test_a_sound_model_on_a_claim_is_served(
    cluster: Cluster, operator: None, namespace: str, claim: Path
) -> None:
    service = Service(cluster, namespace)
    service.apply(model={"uri": "pvc://models/draft", "dtype": "fp32"})
    service.wait_ready()
    assert service.status()["model"] == {"name": "chat", "maxModelLen": 2048, "dtype": "fp32"}


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
