"""Who asks: what the public port knows of a request's caller."""

from aiohttp import web

from aweigh_api.api_keys import CHALLENGE, WRONG_KEY, Key, Keys
from aweigh_runtime.server.errors import ApiError

CALLER = web.RequestKey("caller", bytes)  # who asks: a key's digest; empty without keys
TENANT = web.RequestKey("tenant", bytes)  # whose cached prefixes the request may use; likewise
ROUTED = web.RequestKey("routed", bool)  # the router asks, under its secret
KEY_NAME = web.RequestKey("key_name", str)  # for the log


def owner(keys: Keys, request: web.Request) -> Key:
    """Whose key a request carries.

    Raises:
        ApiError: nobody's.
    """
    found = keys.owner(request.headers)
    if found is None:
        raise ApiError(
            401, WRONG_KEY, code="invalid_api_key", headers={"WWW-Authenticate": CHALLENGE}
        )
    return found


def where_from(request: web.Request) -> bytes:
    """Who asks, as far as it can be told: without keys, by the address."""
    return request[CALLER] or (request.remote or "").encode()
