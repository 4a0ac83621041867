"""What a router asks for itself: the room of this server, and to keep what becomes free.

GET /router/report: the room as it changes, a line of JSON each time. POST /router/keep.
"""

import asyncio
from contextlib import suppress

from aiohttp import web

from aweigh_api.routing import REPORT_EVERY_S, Room
from aweigh_runtime.server.auth import router_of
from aweigh_runtime.server.routes import SERVICE
from aweigh_runtime.server.service import Service

_BETWEEN_LINES_S = 0.05


async def report(request: web.Request) -> web.StreamResponse:
    """Tell a router until this server ends, or the router goes."""
    router = router_of(request)
    if router is None:
        raise web.HTTPNotFound
    service = request.app[SERVICE]
    response = web.StreamResponse(
        headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-cache"}
    )
    await response.prepare(request)
    told: Room | None = None
    while not service.ended:
        told = await _news(service, router, told)
        await response.write(f"{told.model_dump_json()}\n".encode())
        await asyncio.sleep(_BETWEEN_LINES_S)
    await response.write_eof()
    return response


async def keep(request: web.Request) -> web.Response:
    """Let no other router have what becomes free, for a while."""
    router = router_of(request)
    if not router:
        raise web.HTTPNotFound
    return web.Response(status=204 if request.app[SERVICE].seats.keep(router) else 409)


async def _news(service: Service, router: str, told: Room | None) -> Room:
    """The room once it is another one than was told, or after some time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(REPORT_EVERY_S - _BETWEEN_LINES_S):
            while service.report(router) == told and not service.ended:
                await service.changed.wait()
    return service.report(router)
