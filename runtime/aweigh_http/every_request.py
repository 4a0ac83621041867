"""What holds for every request of a public port, whatever its route."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from aiohttp.typedefs import Middleware

from aweigh_api.api_keys import CHALLENGE, WRONG_KEY, Key, Keys
from aweigh_http import errors
from aweigh_http.connection import SERVER, Connection
from aweigh_http.errors import ApiError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
OnEnd = Callable[[web.Request, int, float], Mapping[str, object]]

CLIENT_GONE = 499  # only in logs and metrics
REQUEST_ID_PATTERN = r"[A-Za-z0-9._-]{1,128}"

ID = web.RequestKey("id", str)
ERROR = web.RequestKey("error", ApiError)  # where the log finds what a client was told
KEY_NAME = web.RequestKey("key_name", str)  # for the log

_REQUEST_ID = re.compile(REQUEST_ID_PATTERN)
_log = logging.getLogger("aweigh.requests")


def middleware(on_end: OnEnd) -> Middleware:
    """Names a request, turns what a handler raises into OpenAI's error body, and logs one line.

    Args:
        on_end: called with the request, the status that was sent and the seconds that it took;
            returns what the log's line shall have besides.
    """

    @web.middleware
    async def every_request(request: web.Request, handler: Handler) -> web.StreamResponse:
        started_s = time.monotonic()
        _identify(request)
        status = CLIENT_GONE
        try:
            response = await _answered(request, handler)
            status = response.status
            return response
        finally:
            seconds = time.monotonic() - started_s
            _log_line(request, status, seconds, on_end(request, status, seconds))

    return every_request


def outcome(request: web.Request, status: int) -> int:
    """What a request came to: a stream that fails has sent its status long before."""
    return request[ERROR].status if ERROR in request else status


def _identify(request: web.Request) -> None:
    """Name a request as its client does, or by chance."""
    given = request.headers.get("X-Request-Id", "")
    request[ID] = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(12)


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
    request[KEY_NAME] = found.name
    return found


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What the handler answers; whatever it raises becomes OpenAI's error body."""
    try:
        return await handler(request)
    except ApiError as error:
        return _refused(request, error)
    except web.HTTPException as error:  # aiohttp's own
        return _refused(request, errors.no_such_route(request, error))
    except ConnectionError:
        raise asyncio.CancelledError from None  # there is nobody to answer
    except Exception:
        _log.exception("request %s failed", request[ID])
        return _refused(request, errors.internal())


def _refused(request: web.Request, error: ApiError) -> web.Response:
    request[ERROR] = error
    response = error.response()
    if request.body_exists and not request.content.is_eof():
        response.force_close()  # a rest that nobody reads must not be taken for a request
    return response


def sign(request: web.Request, response: web.StreamResponse, *, draining: bool) -> None:
    """Before headers are sent: the request's id, and the end of old connections."""
    response.headers["X-Request-Id"] = request.get(ID, "")
    response.headers["Server"] = SERVER
    connection = request.protocol
    old = isinstance(connection, Connection) and connection.old
    if old or draining:
        response.force_close()
        response.headers["Connection"] = "close"


def _log_line(
    request: web.Request, status: int, seconds: float, more: Mapping[str, object]
) -> None:
    fields: dict[str, object] = {
        "id": request[ID],
        "method": request.method,
        "path": request.rel_url.raw_path[:200],
        "status": outcome(request, status),
        "seconds": round(seconds, 3),
    }
    if KEY_NAME in request:
        fields["key"] = request[KEY_NAME]
    fields |= more
    error = request.get(ERROR)
    if error is not None:  # never its message: that may quote what the client has sent
        detail = error.body.error
        fields["error"] = detail.code or detail.type
        fields |= {} if detail.param is None else {"param": detail.param}
    level = logging.DEBUG if request.path == "/health" else logging.INFO
    _log.log(level, "request", extra={"fields": fields})
