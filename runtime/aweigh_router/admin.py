"""The admin port: probes, metrics, state, and the line that stays open to wake a service."""

import asyncio

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from aweigh_api.router_state import WAKE_EVERY_S, WAKE_PATH
from aweigh_http.connection import SERVER
from aweigh_router.service import Service

_BETWEEN_LINES_S = 0.1  # however many requests come

SERVICE = web.AppKey("service", Service)


def application(service: Service) -> web.Application:
    """What the kubelet, Prometheus and the operator read."""
    app = web.Application(client_max_size=1 << 10)
    app.on_response_prepare.append(_every_response)
    app[SERVICE] = service
    app.router.add_get("/livez", _livez)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/state", _state)
    app.router.add_get(WAKE_PATH, _wake, allow_head=False)
    return app


async def _every_response(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER


async def _livez(_: web.Request) -> web.Response:
    """That this is answered is all there is to know."""
    return web.Response(text="ok\n")


async def _readyz(request: web.Request) -> web.Response:
    """Green while new requests are wanted, also with no pod: they are held."""
    phase = request.app[SERVICE].phase
    ready = phase == "ready"
    return web.Response(status=200 if ready else 503, text="ok\n" if ready else f"{phase}\n")


async def _metrics(request: web.Request) -> web.Response:
    text = request.app[SERVICE].metrics.text()
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _state(request: web.Request) -> web.Response:
    state = request.app[SERVICE].state()
    return web.Response(text=state.to_json(), content_type="application/json")


async def _wake(request: web.Request) -> web.StreamResponse:
    """A line at once, at times, and when a request begins to wait for pods that are not there."""
    service = request.app[SERVICE]
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    while True:
        news = service.dispatch.next_in_vain()
        await response.write(service.state().to_json().encode() + b"\n")
        await asyncio.sleep(_BETWEEN_LINES_S)
        await asyncio.wait({news}, timeout=WAKE_EVERY_S - _BETWEEN_LINES_S)
