"""The public port: routes, and what holds for every request whatever its route."""

import asyncio
import logging
import random
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

from aiohttp import web

from aweigh_runtime.server.bodies import Bodies
from aweigh_runtime.server.openai import errors
from aweigh_runtime.server.openai.chat import chat
from aweigh_runtime.server.openai.completions import complete
from aweigh_runtime.server.openai.errors import ApiError
from aweigh_runtime.server.openai.generation import GENERATION
from aweigh_runtime.server.openai.replies import ModelCard, ModelList
from aweigh_runtime.server.openai.requests import ChatRequest, CompletionRequest, parse
from aweigh_runtime.server.service import Service

CONNECTION_AGE_S = 60.0  # half to one and a half times that, so that new pods get connections
CLIENT_GONE = 499  # only in the log

ID = web.RequestKey("id", str)
SERVICE = web.AppKey("service", Service)
BODIES = web.AppKey("bodies", Bodies)
AGES = web.AppKey("ages", WeakKeyDictionary[asyncio.BaseTransport, float])
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_log = logging.getLogger("aweigh.requests")


def application(service: Service) -> web.Application:
    """The OpenAI API."""
    app = web.Application(middlewares=[_every_request])
    app[BODIES] = Bodies()
    app[SERVICE] = service
    app[AGES] = WeakKeyDictionary()
    app.on_response_prepare.append(_every_response)
    app.router.add_get("/health", _health)
    app.router.add_get("/v1/models", _models)
    app.router.add_get("/v1/models/{name:.+}", _model)
    app.router.add_post("/v1/chat/completions", _chat)
    app.router.add_post("/v1/completions", _complete)
    return app


async def _health(request: web.Request) -> web.Response:
    request.app[SERVICE].model()
    return web.json_response({"status": "ok"})


async def _models(request: web.Request) -> web.Response:
    cards = ModelList([_card(request.app[SERVICE])])
    return web.Response(body=cards.json(), content_type="application/json")


async def _model(request: web.Request) -> web.Response:
    card = _card(request.app[SERVICE])
    if request.match_info["name"] != card.id:
        raise errors.unknown_model(request.match_info["name"], card.id)
    return web.Response(body=card.json(), content_type="application/json")


def _card(service: Service) -> ModelCard:
    model = service.model()
    return ModelCard(model.name, model.created_s, model.limits.max_model_len)


async def _chat(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    service.model()  # refuse before reading the body
    async with request.app[BODIES].read(request) as body:
        asked = parse(body, ChatRequest)
        _expect_model(service, asked.model)
        return await chat(request, service, asked)


async def _complete(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    service.model()
    async with request.app[BODIES].read(request) as body:
        asked = parse(body, CompletionRequest)
        _expect_model(service, asked.model)
        return await complete(request, service, asked)


def _expect_model(service: Service, asked: str) -> None:
    if asked != service.config.model_name:
        raise errors.unknown_model(asked, service.config.model_name)


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
        _log_request(request, status, time.monotonic() - started_s)


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return _refused(request, error)
    except web.HTTPException as error:  # the router's own
        return _refused(request, _of_http(request, error))
    except ConnectionError:
        raise asyncio.CancelledError from None  # there is nobody to answer
    except Exception:
        _log.exception("request %s failed", request[ID])
        return _refused(request, errors.internal())


def _refused(request: web.Request, error: ApiError) -> web.Response:
    response = error.response()
    if not request.body_exists or request.content.is_eof():
        return response
    response.force_close()  # the rest of a body that nobody reads must not be taken for a request
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
    if request.app[SERVICE].phase == "draining" or _old(request):
        response.force_close()
        response.headers["Connection"] = "close"


def _old(request: web.Request) -> bool:
    if request.transport is None:
        return False
    now_s = time.monotonic()
    lifetime_s = CONNECTION_AGE_S * random.uniform(0.5, 1.5)
    return now_s > request.app[AGES].setdefault(request.transport, now_s + lifetime_s)


def _log_request(request: web.Request, status: int, seconds: float) -> None:
    fields = {
        "id": request[ID],
        "method": request.method,
        "path": request.rel_url.raw_path[:200],
        "status": status,
        "seconds": round(seconds, 3),
    }
    generation = request.get(GENERATION)
    if generation is not None:
        fields["prompt_tokens"] = generation.num_prompt_tokens
        fields["completion_tokens"] = generation.num_answer_tokens
        fields["finish"] = ",".join(generation.endings)
    level = logging.DEBUG if request.path == "/health" else logging.INFO
    _log.log(level, "request", extra={"fields": fields})
