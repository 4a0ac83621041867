"""A small pod for tests: it speaks the contract of routers and pods, and can fail in every way.

Its answers follow from the prompt alone, as greedy ones do: whoever goes on with a stream after
the same tokens gives the same text.
"""

import asyncio
import hashlib
import json
import secrets
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from multidict import CIMultiDictProxy

from aweigh_api.routing import (
    ALONE_HEADER,
    KEEP_PATH,
    KEEP_S,
    NO_ROOM,
    REPORT_PATH,
    RESUME_FIELD,
    ROOM_HEADER,
    ROUTER_HEADER,
    SECRET_HEADER,
    TOKENS_COMMENT,
    Resume,
    Room,
)
from aweigh_api.state import Phase
from aweigh_http.errors import out_of_room, unknown_model

SMALL_BYTES = 16 << 10  # a body that a crowded pod takes, too
SECRET = "router-secret-0123456789"


def token(prompt: str, choice: int, place: int) -> int:
    """The token of an answer at a place."""
    return int(hashlib.sha256(f"{prompt}/{choice}/{place}".encode()).hexdigest()[:4], 16)


def text(prompt: str, choice: int, num_tokens: int) -> str:
    """All of an answer."""
    return "".join(f"{token(prompt, choice, place)} " for place in range(num_tokens))


@dataclass
class Seen:
    """A request that came, with what mattered of it."""

    path: str
    body: dict[str, Any]
    headers: CIMultiDictProxy[str]
    resumed: bool = False


@dataclass
class Fate:
    """The first of the pods that share it dies when it has sent so many events."""

    after: int | None = None


@dataclass
class Pod:
    """One, on a port of its own; what goes wrong tests set."""

    max_running: int = 64
    pace_s: float = 0.0  # between tokens
    phase: Phase = "ready"
    model: str | None = None  # the name that it says, and it serves no other
    revision: str | None = "one"
    reports: bool = True
    refuses: bool = False
    crowded: bool = False  # holds no more bodies, but for small ones
    lies: bool = False  # reports room that it has not
    hangs: bool = False  # takes requests and never answers
    loses: bool = False  # likewise, and counts them nowhere
    wants_key: bool = False  # unless the router names a tenant
    broken: bool = False  # says that it has no engine, while it reports that it is ready
    fate: Fate = field(default_factory=Fate)
    revives: bool = False  # whenever it has died
    dies_of: str = "\0"  # in a prompt
    hands_over_after: int | None = None  # events; then it ends as a draining pod does
    secret: str = SECRET
    tls: ssl.SSLContext | None = None
    url: str = ""
    running: int = 0
    routed: Counter[str] = field(default_factory=Counter)  # of them, by the router's name
    most_running: int = 0
    deaths: list[int] = field(default_factory=list)  # by prompts; how many others it computed
    events: int = 0
    seen: list[Seen] = field(default_factory=list)
    kept_for: str | None = None  # by the router's name
    alone: bool = False  # somebody has it for itself
    boot_id: str = field(default_factory=lambda: secrets.token_hex(4))

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._kept_until: asyncio.TimerHandle | None = None

    def room(self, request: web.Request) -> int:
        others = self.kept_for not in (None, request.headers.get(ROUTER_HEADER))
        taken = self.alone or others or (self.refuses and not self.lies)
        return 0 if taken else self.max_running - self.running

    async def start(self) -> None:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{name:.+}", self._models)
        app.router.add_get(REPORT_PATH, self._report)
        app.router.add_post(KEEP_PATH, self._keep)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        address = ("127.0.0.1", self._port)
        site = web.TCPSite(self._runner, *address, reuse_address=True, ssl_context=self.tls)
        await site.start()
        self._port = self._runner.addresses[0][1]
        scheme = "http" if self.tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._port}"

    async def die(self) -> None:
        """As a process does that is killed: every connection breaks, and nobody listens."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        for site in list(runner.sites):
            await site.stop()
        assert runner.server is not None
        for connection in list(runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()
        self.running, self.alone, self.kept_for = 0, False, None
        self.routed.clear()

    async def shut(self) -> None:
        """Accept no new connection; those that there are stay, its report's among them."""
        assert self._runner is not None
        for site in list(self._runner.sites):
            await site.stop()

    async def restart(self) -> None:
        """A new process on the same port."""
        await self.die()
        self.boot_id = secrets.token_hex(4)
        await self.start()

    def tell(self) -> None:
        """Something has changed that is reported."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _report(self, request: web.Request) -> web.StreamResponse:
        if not self.reports or not self._routed(request):
            raise web.HTTPNotFound
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            changed = self._changed
            room = Room(
                boot_id=self.boot_id,
                phase=self.phase,
                room=self.room(request),
                running=self.running,
                yours=self.routed[request.headers[ROUTER_HEADER]],
                revision=self.revision,
                model=self.model,
            )
            await response.write(room.model_dump_json().encode() + b"\n")
            try:
                async with asyncio.timeout(5.0):
                    await changed.wait()
            except TimeoutError:
                continue

    async def _keep(self, request: web.Request) -> web.Response:
        router = request.headers[ROUTER_HEADER]
        if self.kept_for not in (None, router):
            return web.Response(status=409)
        self._give_free()
        self.kept_for = router
        self._kept_until = asyncio.get_running_loop().call_later(KEEP_S, self._give_free)
        return web.Response(status=204)

    def _give_free(self) -> None:
        if self._kept_until is not None:
            self._kept_until.cancel()
        self.kept_for = self._kept_until = None
        self.tell()

    def _refuses(self, request: web.Request, answers: int) -> bool:
        others = self.kept_for not in (None, request.headers.get(ROUTER_HEADER))
        full = self.running + answers > self.max_running and (answers == 1 or self.running)
        beside = ALONE_HEADER in request.headers and self.running
        return bool(self.refuses or self.alone or others or full or beside)

    def _routed(self, request: web.Request) -> bool:
        return request.headers.get(SECRET_HEADER) == self.secret

    async def _tokenize(self, request: web.Request) -> web.Response:
        self.seen.append(Seen(request.path, {}, request.headers))
        num_bytes = len(await request.read())
        if self.crowded and num_bytes > SMALL_BYTES:
            return out_of_room(num_bytes).response()
        return web.json_response({"count": num_bytes})

    async def _models(self, request: web.Request) -> web.Response:
        self.seen.append(Seen(request.path, {}, request.headers))
        cards = [{"id": self.model or "m"}]
        return web.json_response({"data": cards}, headers={ROOM_HEADER: str(self.room(request))})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen = Seen(request.path, body, request.headers, RESUME_FIELD in body)
        if self.model and body.get("model") not in (None, self.model):
            unknown = unknown_model(body["model"], [self.model])
            unknown.headers[ROOM_HEADER] = str(self.room(request))
            return unknown.response()
        answers = int(body.get("n", 1))
        if self._routed(request) and self._refuses(request, answers):
            error = {"error": {"message": "no room", "code": NO_ROOM}}
            return web.json_response(error, status=429, headers={ROOM_HEADER: "0"})
        if self.wants_key and "Aweigh-Tenant" not in request.headers:
            error = {"error": {"message": "no key", "code": "invalid_api_key"}}
            return web.json_response(
                error, status=401, headers={ROOM_HEADER: str(self.room(request))}
            )
        if self.broken:
            error = {"error": {"message": "no engine", "code": "engine"}}
            return web.json_response(
                error, status=503, headers={ROOM_HEADER: str(self.room(request))}
            )
        if body.get("temperature", 0) > 2:
            bad = {"error": {"message": "temperature is 3; expected 0 to 2", "code": None}}
            return web.json_response(
                bad, status=400, headers={ROOM_HEADER: str(self.room(request))}
            )
        self.seen.append(seen)
        if self.loses:
            await asyncio.Event().wait()
        router = request.headers.get(ROUTER_HEADER, "")
        self.alone = ALONE_HEADER in request.headers
        if self.alone or answers > 1:
            self._give_free()
        self.running += answers
        self.routed[router] += answers
        self.most_running = max(self.most_running, self.running)
        self.tell()
        try:
            return await self._computed(request, body, answers)
        finally:
            self.alone = False
            self.running = max(0, self.running - answers)
            self.routed[router] = max(0, self.routed[router] - answers)
            self.tell()

    async def _computed(
        self, request: web.Request, body: dict[str, Any], answers: int
    ) -> web.StreamResponse:
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        if self.hangs:
            await asyncio.Event().wait()
        if self.dies_of in prompt:
            await asyncio.sleep(0.05)  # others have come meanwhile
            self.deaths.append(self.running - 1)
            await self._end()
        num_tokens = int(body.get("max_tokens", 4))
        if not body.get("stream"):
            await asyncio.sleep(self.pace_s * num_tokens)
            choices = [
                {"index": each, "text": text(prompt, each, num_tokens), "finish_reason": "length"}
                for each in range(answers)
            ]
            headers = {ROOM_HEADER: str(self.room(request))}
            return web.json_response({"id": "whole", "choices": choices}, headers=headers)
        return await self._streamed(request, body, prompt, answers, num_tokens)

    async def _streamed(
        self, request: web.Request, body: dict[str, Any], prompt: str, answers: int, num_tokens: int
    ) -> web.StreamResponse:
        resume = Resume.model_validate(body[RESUME_FIELD]) if RESUME_FIELD in body else None
        known = (
            [[] for _ in range(answers)] if resume is None else [a.tokens for a in resume.answers]
        )
        ended = [resume is not None and resume.answers[i].finished for i in range(answers)]
        for choice, tokens in enumerate(known):
            assert tokens == [token(prompt, choice, place) for place in range(len(tokens))]
        id = f"c-{secrets.token_hex(4)}" if resume is None else resume.id
        created = 1 if resume is None else resume.created
        routed = self._routed(request)
        headers = {"Content-Type": "text/event-stream"}
        response = web.StreamResponse(
            headers={**headers, ROOM_HEADER: str(self.room(request))} if routed else headers
        )
        await response.prepare(request)

        async def send(index: int, piece: str, finish: str | None, ids: str = "") -> None:
            choice = {"index": index, "text": piece, "finish_reason": finish}
            event = {"id": id, "created": created, "choices": [choice]}
            comment = f"{TOKENS_COMMENT}{index} {ids}\n" if ids and routed else ""
            data = json.dumps(event, separators=(",", ":"))
            await response.write(f"{comment}data: {data}\n\n".encode())
            await self._after_event(response)

        for place in range(num_tokens):
            for choice in range(answers):
                if place >= len(known[choice]) and not ended[choice]:
                    each = token(prompt, choice, place)
                    await send(choice, f"{each} ", None, str(each))
            await asyncio.sleep(self.pace_s)
        for choice in range(answers):
            if not ended[choice]:
                await send(choice, "", "length")
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _after_event(self, response: web.StreamResponse) -> None:
        self.events += 1
        if self.hands_over_after is not None and self.events >= self.hands_over_after:
            await response.write(b'data: {"error":{"message":"bye","code":"draining"}}\n\n')
            raise ConnectionResetError
        if self.fate.after is not None and self.events >= self.fate.after:
            self.fate.after = None
            await asyncio.sleep(0.01)  # what was sent has left
            await self._end()

    async def _end(self) -> None:
        """Die within a handler."""
        self._ending = asyncio.create_task(self.restart() if self.revives else self.die())
        await asyncio.sleep(10)
        raise ConnectionResetError


@asynccontextmanager
async def running(*pods: Pod) -> AsyncIterator[tuple[Pod, ...]]:
    """Pods that listen."""
    for pod in pods:
        await pod.start()
    try:
        yield pods
    finally:
        for pod in pods:
            await pod.die()
