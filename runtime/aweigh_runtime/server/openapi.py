"""The OpenAPI document, made from what serves requests: the route table and the messages' types.

Nothing is described here twice, so nothing can drift: a bound in the document is the bound that
the parser checks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import msgspec

from aweigh_http.errors import ErrorBody
from aweigh_http.every_request import REQUEST_ID_PATTERN, Handler

Message = type[msgspec.Struct]
Json = dict[str, Any]

_PLACE = "#/components/schemas/{name}"
_ERRORS = {
    400: "The request is wrong; `param` names the field.",
    401: "The API key is missing or wrong.",
    404: "There is no such model here.",
    408: "The body did not arrive in time.",
    413: "The body is too long.",
    415: "The body is compressed.",
    429: "The queue is full; try again after `Retry-After` seconds.",
    500: "A bug, or the engine was lost; the log has the reason.",
    503: "The model is loading, the server ends, or its engine does not respond.",
}
_WITH_BODY = (400, 404, 408, 413, 415, 429, 500, 503)
_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string"}},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One route: how it is reached, what serves it, and what goes in and out."""

    method: str
    path: str  # as aiohttp's router takes it
    handler: Handler
    summary: str
    asks: Message | None = None  # the body
    replies: Message | None = None  # JSON; None: `media`
    streams: Message | None = None  # what an event holds when `stream` is true
    media: str = "application/json"
    errors: tuple[int, ...] = ()
    open: bool = False  # to everybody, also when there are API keys

    @property
    def statuses(self) -> tuple[int, ...]:
        """Errors that it may answer with, by itself or by its body."""
        return self.errors if self.asks is None else _WITH_BODY


def document(operations: Sequence[Operation], *, with_keys: bool) -> bytes:
    """The document as JSON."""
    _, components = msgspec.json.schema_components(
        [ErrorBody, *(kind for operation in operations for kind in _messages(operation))],
        ref_template=_PLACE,
    )
    paths: dict[str, Json] = {}
    for operation in operations:
        path = re.sub(r":[^}]*}", "}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, with_keys)
    content: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Aweigh",
            "version": _version(),
            "description": "OpenAI's API for the one model that this server has. Fields that it "
            "does not know are ignored.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if with_keys:
        content["components"]["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer"},
            "password": {"type": "http", "scheme": "basic", "description": "A key, for browsers."},
        }
        content["security"] = [{"key": []}, {"password": []}]
    return msgspec.json.encode(content)


def _messages(operation: Operation) -> list[Message]:
    kinds = (operation.asks, operation.replies, operation.streams)
    return [kind for kind in kinds if kind is not None]


def _operation(operation: Operation, with_keys: bool) -> Json:
    result: Json = {
        "operationId": operation.handler.__name__.strip("_"),
        "summary": operation.summary,
        "parameters": [_request_id(), *_path_parameters(operation.path)],
    }
    if operation.asks is not None:
        result["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(operation.asks)}},
        }
    locked = with_keys and not operation.open
    statuses = sorted({*operation.statuses, *([401] if locked else [])})
    result["responses"] = {
        "200": {"description": "The answer.", "content": _contents(operation)},
        **{str(status): _error(status) for status in statuses},
    }
    if with_keys and operation.open:
        result["security"] = []
    return result


def _contents(operation: Operation) -> Json:
    if operation.replies is None:
        return {operation.media: {}}
    contents: Json = {operation.media: {"schema": _reference(operation.replies)}}
    if operation.streams is not None:
        contents["text/event-stream"] = {"schema": _event(operation.streams)}
    return contents


def _event(kind: Message) -> Json:
    """One event of a stream; an error may come after the status was sent."""
    payload = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [_reference(kind), _reference(ErrorBody)]},
    }
    return {
        "type": "object",
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, payload]}},
        "required": ["data"],
    }


def _error(status: int) -> Json:
    answer: Json = {
        "description": _ERRORS[status],
        "content": {"application/json": {"schema": _reference(ErrorBody)}},
    }
    if status == 429:
        answer["headers"] = _RETRY_AFTER
    return answer


def _request_id() -> Json:
    return {
        "name": "X-Request-Id",
        "in": "header",
        "required": False,
        "description": "Comes back with the answer and stands in the log.",
        "schema": {"type": "string", "pattern": f"^{REQUEST_ID_PATTERN}$"},
    }


def _path_parameters(path: str) -> list[Json]:
    names = re.findall(r"{(\w+)", path)
    schema = {"type": "string", "minLength": 1}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]


def _reference(kind: type) -> Json:
    (reference,), _ = msgspec.json.schema_components([kind], ref_template=_PLACE)
    return reference


def _version() -> str:
    try:
        return metadata.version("aweigh")
    except metadata.PackageNotFoundError:  # on the path, but not installed
        return "unknown"
