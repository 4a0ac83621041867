"""The public port: who may ask for what, and what is kept of each request."""

from aiohttp import web

from aweigh_api.api_keys import Keys
from aweigh_api.routing import KEEP_PATH, REPORT_PATH, ROOM_HEADER, TENANT_HEADER
from aweigh_http import every_request
from aweigh_http.bodies import Bodies
from aweigh_http.every_request import Handler
from aweigh_runtime.server import errors, tracing
from aweigh_runtime.server.auth import CALLER, ROUTED, TENANT, router_of
from aweigh_runtime.server.openai.generation import GENERATION
from aweigh_runtime.server.openapi import Operation, document
from aweigh_runtime.server.router_report import keep, report
from aweigh_runtime.server.router_secret import RouterSecret
from aweigh_runtime.server.routes import BODIES, DOCUMENT, ROUTES, SERVICE
from aweigh_runtime.server.service import Service

KEYS = web.AppKey("keys", Keys)
SECRET = web.AppKey("secret", RouterSecret)
# Of bodies that are not tokens yet; so much of any one never has to find room.
_HELD_BYTES = 64 << 20
_SMALL_BYTES = 16 << 10

OPEN_ROUTES = web.AppKey("open_routes", frozenset[web.AbstractRoute])


def application(
    service: Service, keys: Keys | None = None, secret: RouterSecret | None = None
) -> web.Application:
    """The OpenAI API; with keys, nobody gets further than /health without one.

    A router has asked for it and names whose it was; where it names nobody, it is asked for here.
    """
    app = web.Application(middlewares=[every_request.middleware(_told), _only_with_key])
    app[BODIES] = Bodies(_HELD_BYTES, _SMALL_BYTES)
    app[SERVICE] = service
    if keys is not None:
        app[KEYS] = keys
    if secret is not None:
        app[SECRET] = secret
        app.router.add_get(REPORT_PATH, report, allow_head=False)
        app.router.add_post(KEEP_PATH, keep)
    app.on_response_prepare.append(_every_response)
    app.on_shutdown.append(_end_reports)
    app[OPEN_ROUTES] = frozenset(
        route for each in ROUTES for route in _added(app.router, each) if each.open
    )
    app[DOCUMENT] = document(ROUTES, with_keys=keys is not None)
    return app


def _added(router: web.UrlDispatcher, operation: Operation) -> list[web.AbstractRoute]:
    """What can be read can be asked for without its body."""
    methods = ("GET", "HEAD") if operation.method == "GET" else (operation.method,)
    return [router.add_route(each, operation.path, operation.handler) for each in methods]


@web.middleware
async def _only_with_key(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Asks the route that was found, never the URL: a URL can be written in many ways."""
    keys, secret = request.app.get(KEYS), request.app.get(SECRET)
    request[ROUTED] = secret is not None and secret.opens(request.headers)
    request[CALLER] = _named_by_router(request) if request[ROUTED] else b""
    request[TENANT] = b""
    # Who is named has shown a key to the router, or was let in by a pod when there were none.
    if keys is not None and not request[CALLER] and not _open_to(request):
        request[CALLER] = every_request.owner(keys, request).digest
        request.app[SERVICE].seats.num_callers = len(keys)
    if request.app[SERVICE].config.prefix_cache_scope == "Key":
        request[TENANT] = request[CALLER]
    return await handler(request)


def _open_to(request: web.Request) -> bool:
    """Whether no key is needed: a router may always ask for itself, as it acts for nobody."""
    found = request.match_info
    own = request[ROUTED] and found.handler in (report, keep)
    return own or found.route in request.app[OPEN_ROUTES]


def _named_by_router(request: web.Request) -> bytes:
    """The tenant; empty: none is named, as by a router that has no keys."""
    given = request.headers.get(TENANT_HEADER, "")
    try:
        return bytes.fromhex(given)
    except ValueError as error:
        raise errors.invalid(
            f"{TENANT_HEADER} is {given[:80]!r}; expected the hex digest of a key, or no such "
            "header."
        ) from error


async def _every_response(request: web.Request, response: web.StreamResponse) -> None:
    service = request.app[SERVICE]
    if request.get(ROUTED):
        response.headers[ROOM_HEADER] = str(service.room_for(router_of(request) or ""))
    every_request.sign(request, response, draining=service.phase == "draining")


async def _end_reports(app: web.Application) -> None:
    app[SERVICE].end()


def _told(request: web.Request, status: int, seconds: float) -> dict[str, object]:
    """Record its trace; returns what only a server knows of a request."""
    fields: dict[str, object] = {}
    trace_id = tracing.record(request, request.app[SERVICE].config.model_name, status, seconds)
    if trace_id is not None:
        fields["trace"] = trace_id
    generation = request.get(GENERATION)
    if generation is not None:
        fields["prompt_tokens"] = generation.num_prompt_tokens
        fields["completion_tokens"] = generation.num_answer_tokens
        fields["finish"] = ",".join(generation.endings)
    return fields
