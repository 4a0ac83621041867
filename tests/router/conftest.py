"""A router in a test's own process: on the event loop of one in a pod, and with an API server."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from aweigh_router import dispatch
from aweigh_router.cluster import ApiServer
from tests.router.api_server import Lists, listing


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """For every test of this folder."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lists]:
    """The API server that a router of this process asks."""
    monkeypatch.setattr(dispatch, "_BETWEEN_SIGNS_S", 0.05)
    (tmp_path / "token").write_text("the-token\n")
    async with listing() as lists:
        monkeypatch.setattr(ApiServer, "of_this_pod", lambda: ApiServer(lists.url, tmp_path))
        yield lists
