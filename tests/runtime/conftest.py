"""One server for all tests that leave it as it was."""

from collections.abc import Iterator

import pytest

from tests.runtime.serving import Served, serving

# In fp32 a batch changes logits by so little that no sampled token depends on it.
FLAGS = ("--max-running=8", "--max-waiting=24", "--dtype=fp32")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("server"), *FLAGS) as served:
        served.wait_ready()
        yield served
