"""A router in a test's own process runs on the event loop that one in a pod runs on."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """For every test of this folder."""
    return {"uvloop": uvloop.new_event_loop}
