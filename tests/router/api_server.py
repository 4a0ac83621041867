"""A small API server of ours: it lists the pods of one Service, and lets them be watched."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


def endpoints(name: str, version: int, **pods: bool) -> dict[str, Any]:
    """A slice; each pod with whether it is ready."""
    return {
        "metadata": {"name": name, "resourceVersion": str(version)},
        "ports": [{"name": "http", "port": 8000}],
        "endpoints": [
            {
                "addresses": [f"10.0.0.{len(pod)}"],
                "conditions": {"ready": ready},
                "targetRef": {"kind": "Pod", "name": pod},
            }
            for pod, ready in pods.items()
        ],
    }


class Lists:
    """Lists and watches EndpointSlices of one Service."""

    url: str  # once it listens

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.lists = 0
        self.fails = False
        self.asked: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == "Bearer the-token"
        assert request.query["labelSelector"] == "kubernetes.io/service-name=chat-pods"
        if self.fails:
            raise web.HTTPInternalServerError
        if "watch" not in request.query:
            self.lists += 1
            return web.json_response({"metadata": {"resourceVersion": "7"}, "items": self.items})
        self.asked.append(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        while (event := await self.events.get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response


@asynccontextmanager
async def listing() -> AsyncIterator[Lists]:
    """One that listens."""
    lists = Lists()
    app = web.Application()
    path = "/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices"
    app.router.add_get(path, lists.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    lists.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield lists
    await runner.cleanup()
