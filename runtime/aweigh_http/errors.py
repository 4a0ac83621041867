"""An answer that is an error, as OpenAI writes it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from aiohttp import web


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """OpenAI's error body."""

    error: ErrorDetail


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = ErrorBody(ErrorDetail(message, _kind(status), param, code))

    def json(self) -> bytes:
        """The body."""
        text = json.dumps(asdict(self.body), ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="replace")  # what a client sent may be half a character

    def response(self) -> web.Response:
        """The whole answer."""
        return web.Response(
            status=self.status,
            body=self.json(),
            content_type="application/json",
            headers=self.headers,
        )


def _kind(status: int) -> str:
    kinds = {429: "rate_limit_error", 503: "unavailable_error"}
    return kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")


def not_http() -> ApiError:
    """The bytes of a client make no request."""
    return ApiError(
        400,
        "This is not a valid HTTP/1.1 request; its line or headers are malformed or too long.",
    )


def no_such_route(request: web.Request, error: web.HTTPException) -> ApiError:
    """What aiohttp itself has against a request."""
    match error.status:
        case 404:
            message = f"There is no {request.path[:200]} here; expected what /openapi.json lists."
            return ApiError(404, message)
        case 405:
            allowed = error.headers.get("Allow", "")
            message = f"{request.path} does not take {request.method}; expected {allowed}."
            return ApiError(405, message, headers={"Allow": allowed})
    return ApiError(error.status, error.reason)


def unknown_model(asked: str, served: Iterable[str]) -> ApiError:
    """Another model is asked for than those that are served."""
    names = " and ".join(f"'{name}'" for name in sorted(served))
    return ApiError(
        404,
        f"The model '{asked[:100]}' does not exist here; this server has {names}.",
        param="model",
        code="model_not_found",
    )


def out_of_room(limit_bytes: int) -> ApiError:
    """The bodies of requests take all the memory that they may."""
    return ApiError(
        429,
        f"The bodies of requests exceed {limit_bytes} bytes together; try again shortly.",
        code="overloaded",
        headers={"Retry-After": "1"},
    )


def internal() -> ApiError:
    """A bug; the log has it."""
    return ApiError(500, "The server failed to handle this request; its log has the reason.")
