"""Who asks: what the public port knows of a request's caller."""

from aiohttp import web

from aweigh_api.routing import ALONE_HEADER, ROUTER_HEADER

CALLER = web.RequestKey("caller", bytes)  # who asks: a key's digest; empty without keys
TENANT = web.RequestKey("tenant", bytes)  # whose cached prefixes the request may use; likewise
ROUTED = web.RequestKey("routed", bool)  # the router asks, under its secret


def where_from(request: web.Request) -> bytes:
    """Who asks, as far as it can be told: without keys, by the address."""
    return request[CALLER] or (request.remote or "").encode()


def router_of(request: web.Request) -> str | None:
    """The name of the router that asks; None: it is a client. Older routers have none."""
    return request.headers.get(ROUTER_HEADER, "") if request[ROUTED] else None


def alone(request: web.Request) -> bool:
    """Whether its router wants nothing to run beside it."""
    return request[ROUTED] and ALONE_HEADER in request.headers
