from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.hub import Hub

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
