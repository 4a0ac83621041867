"""Who asks: what the public port knows of a request's caller."""

from aiohttp import web

CALLER = web.RequestKey("caller", bytes)  # who asks: a key's digest; empty without keys
TENANT = web.RequestKey("tenant", bytes)  # whose cached prefixes the request may use; likewise
ROUTED = web.RequestKey("routed", bool)  # the router asks, under its secret


def where_from(request: web.Request) -> bytes:
    """Who asks, as far as it can be told: without keys, by the address."""
    return request[CALLER] or (request.remote or "").encode()
