from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.hub import Hub
from tests.runtime.sources.artifacts import ArtifactRegistry, files

SHIPPED = Path(__file__).parents[3] / "runtime/aweigh_runtime/builtin"


@pytest.fixture
def model() -> Path:
    """A directory with a model in two shards."""
    return SHIPPED / "helmsman-8m"


@pytest.fixture
def hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that offers the model as `sea/helmsman`; HF_ENDPOINT leads to it."""
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        hub.add("sea/helmsman", model)
        yield hub


@pytest.fixture
def registry(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ArtifactRegistry]:
    """A registry that offers the model as `sea/helmsman:v1`, a layer for each file."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))
    with ArtifactRegistry() as registry:
        registry.push("sea/helmsman", "v1", *files(model))
        yield registry
