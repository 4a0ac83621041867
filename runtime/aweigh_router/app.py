"""The public port: OpenAI's API as pods serve it. Keys are checked before a body is read."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from aiohttp import web
from multidict import CIMultiDict

from aweigh_api.api_keys import CHALLENGE, WRONG_KEY, Keys
from aweigh_api.routing import TENANT_HEADER
from aweigh_router import asked, errors, line
from aweigh_router.asked import Asked, BadBody
from aweigh_router.calls import Call
from aweigh_router.connection import SERVER, Connection
from aweigh_router.errors import ApiError
from aweigh_router.pod_client import passed_on
from aweigh_router.relay import BYTES_PER_TOKEN, Errand
from aweigh_router.service import Service

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CLIENT_GONE = 499  # only in log and metrics

SERVICE = web.AppKey("service", Service)
KEYS = web.AppKey("keys", Keys)
ID = web.RequestKey("id", str)
TENANT = web.RequestKey("tenant", bytes)  # a key's digest; empty without keys
KEY_NAME = web.RequestKey("key_name", str)

# A key whose entry in the Secret is called `batch.low` is of that priority.
_PRIORITIES = {"high": line.HIGH, "low": line.LOW}

# What a pod serves. Nothing else is asked of one.
_ANSWERS = ("/v1/chat/completions", "/v1/completions")
_TOKENS = ("/tokenize", "/detokenize")
_READS = ("/v1/models", "/v1/models/{name:.+}", "/openapi.json", "/", "/page.css", "/page.js")

_READ_S = 10.0  # that a request waits for a pod which wants no answer: nor does it wake one
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_log = logging.getLogger("aweigh.requests")


def application(service: Service, keys: Keys | None) -> web.Application:
    """All routes; with keys, nobody gets further than /health without one."""
    app = web.Application(middlewares=[_every_request, _only_with_key])
    app[SERVICE] = service
    if keys is not None:
        app[KEYS] = keys
    app.on_response_prepare.append(_every_response)
    app.router.add_get("/health", _health)
    for path in _ANSWERS:
        app.router.add_post(path, _answers)
    for path in _TOKENS:
        app.router.add_post(path, _passes)
    for path in _READS:
        app.router.add_get(path, _passes)
    return app


async def _health(request: web.Request) -> web.Response:
    """Whether this router takes requests; at zero pods it does, and holds them."""
    request.app[SERVICE].expect_open()
    return web.json_response({"status": "ok"})


async def _answers(request: web.Request) -> web.StreamResponse:
    """A request for which a pod computes."""
    return await _pass(request, lambda body: asked.read(body, request[TENANT]))


async def _passes(request: web.Request) -> web.StreamResponse:
    """A request that takes no room in a pod."""
    return await _pass(request, lambda _: Asked())


async def _pass(request: web.Request, read: Callable[[bytearray], Asked]) -> web.StreamResponse:
    service = request.app[SERVICE]
    service.expect_open()
    async with _body(request) as body:
        try:
            wanted = read(body)
        except BadBody as bad:
            raise ApiError(400, str(bad), param=bad.param) from bad
        call = _call(request, wanted, len(body))
        service.arrived_requests += wanted.num_prompts  # as pods count them
        errand = Errand(
            call, request.method, request.rel_url.raw_path_qs, _headers(request), body or None
        )
        with service.counted():
            service.dispatch.join(call, len(request.app[KEYS]) if KEYS in request.app else 1)
            return await service.relay.answer(errand, request)


def _body(request: web.Request) -> AbstractAsyncContextManager[bytearray]:
    if not request.body_exists:
        return nullcontext(bytearray())
    return request.app[SERVICE].bodies.read(request, request[TENANT])


def _call(request: web.Request, wanted: Asked, num_bytes: int) -> Call:
    service = request.app[SERVICE]
    now_s = service.dispatch.clock()
    _, _, named = request.get(KEY_NAME, "").rpartition(".")
    priority = _PRIORITIES.get(named, line.NORMAL) if wanted.num_answers else line.NO_ROOM_NEEDED
    return Call(
        request[TENANT],
        now_s,
        priority,
        1 + num_bytes // BYTES_PER_TOKEN,
        asked=wanted,
        deadline_s=now_s + (service.settings.wait_seconds if wanted.num_answers else _READ_S),
    )


def _headers(request: web.Request) -> CIMultiDict[str]:
    """As the client has sent them, with who it is and the request's id."""
    headers = passed_on(request.headers)
    headers["X-Request-Id"] = request[ID]
    headers.popall("Accept-Encoding", None)  # a pod's bytes must be readable here
    if request[TENANT]:
        headers[TENANT_HEADER] = request[TENANT].hex()
    return headers


@web.middleware
async def _every_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever a handler raises into OpenAI's error body, and logs one line."""
    started_s = time.monotonic()
    given = request.headers.get("X-Request-Id", "")
    request[ID] = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
    status = CLIENT_GONE
    try:
        response = await _answered(request, handler)
        status = response.status
        return response
    finally:
        request.app[SERVICE].metrics.ended(status)
        _log_request(request, status, time.monotonic() - started_s)


@web.middleware
async def _only_with_key(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Asks the route that was found, never the URL: a URL can be written in many ways."""
    request[TENANT] = b""
    keys = request.app.get(KEYS)
    if keys is None or request.match_info.handler is _health:
        return await handler(request)
    key = keys.owner(request.headers)
    if key is None:
        raise ApiError(
            401, WRONG_KEY, code="invalid_api_key", headers={"WWW-Authenticate": CHALLENGE}
        )
    request[TENANT], request[KEY_NAME] = key.digest, key.name
    return await handler(request)


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return _refused(request, error)
    except web.HTTPException as error:  # aiohttp's own
        return _refused(request, _of_http(request, error))
    except ConnectionError:
        raise asyncio.CancelledError from None  # there is nobody to answer
    except Exception:
        _log.exception("request %s failed", request[ID])
        return _refused(request, errors.internal())


def _refused(request: web.Request, error: ApiError) -> web.Response:
    response = error.response()
    if request.body_exists and not request.content.is_eof():
        response.force_close()  # a rest that nobody reads must not be taken for a request
    return response


def _of_http(request: web.Request, error: web.HTTPException) -> ApiError:
    match error.status:
        case 404:
            return ApiError(404, f"There is no {request.path[:200]} here; the API is under /v1.")
        case 405:
            allowed = error.headers.get("Allow", "")
            message = f"{request.path} does not take {request.method}; expected {allowed}."
            return ApiError(405, message, headers={"Allow": allowed})
    return ApiError(error.status, error.reason)


async def _every_response(request: web.Request, response: web.StreamResponse) -> None:
    """Runs before headers are sent: the request's id, and the end of old connections."""
    response.headers["X-Request-Id"] = request.get(ID, "")
    response.headers["Server"] = SERVER
    connection = request.protocol
    old = isinstance(connection, Connection) and connection.old
    if old or request.app[SERVICE].phase == "draining":
        response.force_close()
        response.headers["Connection"] = "close"


def _log_request(request: web.Request, status: int, seconds: float) -> None:
    fields: dict[str, object] = {
        "id": request[ID],
        "method": request.method,
        "path": request.rel_url.raw_path[:200],
        "status": status,
        "seconds": round(seconds, 3),
    }
    if KEY_NAME in request:
        fields["key"] = request[KEY_NAME]
    level = logging.DEBUG if request.path == "/health" else logging.INFO
    _log.log(level, "request", extra={"fields": fields})
