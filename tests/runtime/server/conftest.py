"""Fixtures for the tests of servers."""

from collections.abc import Iterator

import openai
import pytest

from tests.runtime.serving import Served


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client
