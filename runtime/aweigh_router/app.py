"""The public port: OpenAI's API as pods serve it. Keys are checked before a body is read."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from multidict import CIMultiDict

from aweigh_api.api_keys import Keys
from aweigh_api.routing import TENANT_HEADER
from aweigh_http import every_request
from aweigh_http.bodies import Body
from aweigh_http.errors import ApiError
from aweigh_http.every_request import ERROR, ID, KEY_NAME, Handler
from aweigh_router import asked, line
from aweigh_router.asked import Asked, BadBody
from aweigh_router.calls import Call
from aweigh_router.pod_client import passed_on
from aweigh_router.relay import BYTES_PER_TOKEN, Errand
from aweigh_router.service import Service

SERVICE = web.AppKey("service", Service)
KEYS = web.AppKey("keys", Keys)
TENANT = web.RequestKey("tenant", bytes)  # a key's digest; empty without keys

# A key whose entry in the Secret is called `batch.low` is of that priority.
_PRIORITIES = {"high": line.HIGH, "low": line.LOW}

# What a pod serves. Nothing else is asked of one.
_ANSWERS = ("/v1/chat/completions", "/v1/completions")
_TOKENS = ("/tokenize", "/detokenize")
_MODELS = "/v1/models"
_READS = ("/v1/models/{name:.+}", "/openapi.json", "/", "/page.css", "/page.js")

_READ_S = 10.0  # that a request waits for a pod which wants no answer: nor does it wake one


def application(service: Service, keys: Keys | None) -> web.Application:
    """All routes; with keys, nobody gets further than /health without one."""
    app = web.Application(middlewares=[every_request.middleware(_count), _only_with_key])
    app[SERVICE] = service
    if keys is not None:
        app[KEYS] = keys
    app.on_response_prepare.append(_every_response)
    app.router.add_get("/health", _health)
    for path in _ANSWERS:
        app.router.add_post(path, _answers)
    for path in _TOKENS:
        app.router.add_post(path, _tokens)
    for path in _READS:
        app.router.add_get(path, _reads)
    app.router.add_get(_MODELS, _models)
    return app


async def _health(request: web.Request) -> web.Response:
    """Whether this router takes requests; at zero pods it does, and holds them."""
    request.app[SERVICE].expect_open()
    return web.json_response({"status": "ok"})


async def _answers(request: web.Request) -> web.StreamResponse:
    """A request for which a pod computes."""
    return await _pass(request, lambda body: asked.read(body, request[TENANT]))


async def _tokens(request: web.Request) -> web.StreamResponse:
    """A request that takes no room in a pod."""
    return await _pass(request, lambda body: Asked(model=asked.model_of(body)))


async def _reads(request: web.Request) -> web.StreamResponse:
    """The same without a body."""
    return await _read(request, request.match_info.get("name"))


async def _read(request: web.Request, model: str | None) -> web.StreamResponse:
    return await _pass(request, lambda _: Asked(model=model))


async def _models(request: web.Request) -> web.StreamResponse:
    """What pods serve: while a name is exchanged, some have one and some another."""
    dispatch = request.app[SERVICE].dispatch
    serving = {pod.model for pod in dispatch.pods.taking(dispatch.clock())}
    if len(serving) < 2 or request.method == "HEAD":
        return await _reads(request)
    cards: list[object] = []
    for name in sorted(filter(None, serving)):
        cards += await _cards(request, name)
    if not cards:
        return await _reads(request)
    return web.json_response({"object": "list", "data": cards})


async def _cards(request: web.Request, name: str) -> list[object]:
    """What one of the pods of this name lists; nothing once none is there: who asks named none."""
    dispatch = request.app[SERVICE].dispatch
    if not dispatch.pods.taking(dispatch.clock(), name):
        return []
    try:
        listed = await _read(request, name)
    except ApiError:
        return []
    if not isinstance(listed, web.Response) or listed.status != 200:
        request.pop(ERROR, None)  # the client is told no error
        return []
    cards: list[object] = json.loads(listed.text or "")["data"]
    return cards


async def _pass(request: web.Request, read: Callable[[bytearray], Asked]) -> web.StreamResponse:
    service = request.app[SERVICE]
    service.expect_open()
    with service.counted():  # while its body arrives, too: it was let in
        # A body is kept until its answer is complete: another pod may have to be asked.
        async with _body(request) as body:
            errand = _errand(request, body.content, read)
            service.dispatch.expect_model(errand.call)  # what nobody has keeps no pod awake
            service.arrived_requests += errand.call.asked.num_prompts  # as pods count them
            num_tenants = len(request.app[KEYS]) if KEYS in request.app else 1
            service.dispatch.join(errand.call, num_tenants)
            return await service.relay.answer(errand, request)


@asynccontextmanager
async def _body(request: web.Request) -> AsyncIterator[Body]:
    """Its body. What is refused for want of memory has arrived all the same: pods are too few."""
    service, read = request.app[SERVICE], False
    try:
        async with service.bodies.read(request, request[TENANT]) as body:
            read = True
            yield body
    except ApiError as error:
        if not read and error.status == 429 and request.match_info.handler is _answers:
            service.arrived_requests += 1  # with how many prompts nobody has read
        raise


def _errand(request: web.Request, body: bytearray, read: Callable[[bytearray], Asked]) -> Errand:
    try:
        wanted = read(body)
    except BadBody as bad:
        raise ApiError(400, str(bad), param=bad.param) from bad
    call, path = _call(request, wanted, len(body)), request.rel_url.raw_path_qs
    return Errand(call, request.method, path, _headers(request), body or None)


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


def _count(request: web.Request, status: int, _: float) -> dict[str, object]:
    request.app[SERVICE].metrics.ended(every_request.outcome(request, status))
    return {}


@web.middleware
async def _only_with_key(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Asks the route that was found, never the URL: a URL can be written in many ways."""
    request[TENANT] = b""
    keys = request.app.get(KEYS)
    if keys is not None and request.match_info.handler is not _health:
        request[TENANT] = every_request.owner(keys, request).digest
    return await handler(request)


async def _every_response(request: web.Request, response: web.StreamResponse) -> None:
    draining = request.app[SERVICE].phase == "draining"
    every_request.sign(request, response, draining=draining)
