from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.distill.jobs import SHARP, write_model, write_prompts


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than such small models."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target, a draft that knows nothing of it, and prompts."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "target", seed=0, sharp=SHARP)
    write_model(folder / "draft", seed=1, tie_word_embeddings=True)
    write_prompts(folder / "prompts.txt")
    return folder
