from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.runtime.model.checkpoints import SHIPPED


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than such small models."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def helmsman() -> Path:
    """The small real model, in two shards."""
    return SHIPPED / "helmsman-8m"


@pytest.fixture
def cpu() -> torch.device:
    return torch.device("cpu")
