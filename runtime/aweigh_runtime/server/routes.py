"""The routes of the public port. A route that is not in this table does not exist."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from aweigh_api.routing import MAX_RESUMED_BYTES
from aweigh_http.bodies import Bodies
from aweigh_http.errors import unknown_model
from aweigh_http.every_request import Handler
from aweigh_runtime.server.auth import CALLER, ROUTED
from aweigh_runtime.server.openai.chat import chat
from aweigh_runtime.server.openai.completions import complete
from aweigh_runtime.server.openai.replies import (
    ChatChoice,
    ChatChunkChoice,
    Detokenized,
    Drafts,
    ModelCard,
    ModelList,
    Reply,
    TextChoice,
    Tokenized,
)
from aweigh_runtime.server.openai.requests import (
    Body,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    parse,
)
from aweigh_runtime.server.openai.tokenization import detokenize, tokenize
from aweigh_runtime.server.openapi import Operation
from aweigh_runtime.server.page import page
from aweigh_runtime.server.service import Service

SERVICE = web.AppKey("service", Service)
BODIES = web.AppKey("bodies", Bodies)
DOCUMENT = web.AppKey("document", bytes)


class Health(msgspec.Struct, frozen=True):
    """Body of /health."""

    status: str = "ok"


async def _health(request: web.Request) -> web.Response:
    request.app[SERVICE].expect_open()
    return _json(msgspec.json.encode(Health()))


async def _models(request: web.Request) -> web.Response:
    return _json(ModelList([_card(request.app[SERVICE])]).json())


async def _model(request: web.Request) -> web.Response:
    card = _card(request.app[SERVICE])
    if request.match_info["name"] != card.id:
        raise unknown_model(request.match_info["name"], [card.id])
    return _json(card.json())


async def _openapi(request: web.Request) -> web.Response:
    return _json(request.app[DOCUMENT])


def _file(name: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return page(name)

    handler.__name__ = name.replace(".", "_")
    return handler


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _card(service: Service) -> ModelCard:
    service.expect_open()
    model = service.model()
    return ModelCard(
        model.name, model.created_s, model.limits.max_model_len, speculation=_drafts(service)
    )


def _drafts(service: Service) -> Drafts | msgspec.UnsetType:
    stepped = service.engine.stepped
    if stepped.speculation is None:
        return msgspec.UNSET
    drafted, accepted = stepped.counters.drafted_tokens, stepped.counters.accepted_tokens
    percent = round(100 * accepted / drafted) if drafted else None
    return Drafts(stepped.speculation.state, percent)


def _answering(
    kind: type[Body],
    answer: Callable[[web.Request, Service, Body], Awaitable[web.StreamResponse]],
) -> Handler:
    """A handler that reads and checks the body first."""

    async def handler(request: web.Request) -> web.StreamResponse:
        service = request.app[SERVICE]
        service.expect_open()  # refuse before reading the body
        with service.seats.opened():
            spare_bytes = MAX_RESUMED_BYTES if request[ROUTED] else 0
            async with request.app[BODIES].read(request, request[CALLER], spare_bytes) as body:
                asked = parse(body.content, kind)
                _expect_model(service, asked.model)
                return await answer(request, service, asked)

    handler.__name__ = answer.__name__
    return handler


def _expect_model(service: Service, asked: str | None) -> None:
    if asked is not None and asked != service.config.model_name:
        raise unknown_model(asked, [service.config.model_name])


ROUTES = (
    Operation(
        method="GET",
        path="/health",
        handler=_health,
        summary="Whether this server can answer.",
        replies=Health,
        errors=(503,),
        open=True,
    ),
    Operation(
        method="GET",
        path="/v1/models",
        handler=_models,
        summary="The one model that is served.",
        replies=ModelList,
        errors=(503,),
    ),
    Operation(
        method="GET",
        path="/v1/models/{name:.+}",
        handler=_model,
        summary="The model of that name.",
        replies=ModelCard,
        errors=(404, 503),
    ),
    Operation(
        method="POST",
        path="/v1/chat/completions",
        handler=_answering(ChatRequest, chat),
        summary="Answer a conversation.",
        asks=ChatRequest,
        replies=Reply[ChatChoice],
        streams=Reply[ChatChunkChoice],
    ),
    Operation(
        method="POST",
        path="/v1/completions",
        handler=_answering(CompletionRequest, complete),
        summary="Continue texts.",
        asks=CompletionRequest,
        replies=Reply[TextChoice],
        streams=Reply[TextChoice],
    ),
    Operation(
        method="POST",
        path="/tokenize",
        handler=_answering(TokenizeRequest, tokenize),
        summary="The tokens of a text or a conversation.",
        asks=TokenizeRequest,
        replies=Tokenized,
    ),
    Operation(
        method="POST",
        path="/detokenize",
        handler=_answering(DetokenizeRequest, detokenize),
        summary="The text of tokens.",
        asks=DetokenizeRequest,
        replies=Detokenized,
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        handler=_openapi,
        summary="This document.",
    ),
    Operation(
        method="GET",
        path="/",
        handler=_file("index.html"),
        summary="A page to talk with the model.",
        media="text/html",
    ),
    Operation(
        method="GET",
        path="/page.css",
        handler=_file("page.css"),
        summary="The page's looks.",
        media="text/css",
    ),
    Operation(
        method="GET",
        path="/page.js",
        handler=_file("page.js"),
        summary="The page's script.",
        media="text/javascript",
    ),
)
