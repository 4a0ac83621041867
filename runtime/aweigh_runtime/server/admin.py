"""The admin port: probes, metrics and state. Reading only; it answers from the first second on."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from aweigh_http.connection import SERVER
from aweigh_runtime.server.metrics import Metrics
from aweigh_runtime.server.service import Service

SERVICE = web.AppKey("service", Service)
METRICS = web.AppKey("metrics", Metrics)


def application(service: Service) -> web.Application:
    """What the kubelet, Prometheus and the operator read."""
    app = web.Application(client_max_size=1 << 10)
    app.on_response_prepare.append(_every_response)
    app[SERVICE] = service
    app[METRICS] = Metrics(service)
    app.router.add_get("/livez", _livez)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/state", _state)
    return app


async def _every_response(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER


async def _livez(request: web.Request) -> web.Response:
    """Red when only a restart helps. Loading is alive; a startup probe bounds it."""
    return _probe(request.app[SERVICE].trouble())


async def _readyz(request: web.Request) -> web.Response:
    """Green while new requests are wanted."""
    service = request.app[SERVICE]
    return _probe(service.trouble() or (None if service.phase == "ready" else service.phase))


def _probe(trouble: str | None) -> web.Response:
    return web.Response(status=200 if trouble is None else 503, text=f"{trouble or 'ok'}\n")


async def _metrics(request: web.Request) -> web.Response:
    text = request.app[METRICS].text()
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _state(request: web.Request) -> web.Response:
    state = request.app[SERVICE].state()
    return web.Response(text=state.to_json(), content_type="application/json")
