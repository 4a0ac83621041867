"""A server that speaks as much of the OpenAI API as a chat uses, and fails on demand."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class OpenAIServer:
    """Answers every question with the words of `answer`, `pause_s` apart."""

    def __init__(self, answer: str = "A Pod is a group.", pause_s: float = 0.0) -> None:
        self.url = ""
        self.answer = answer
        self.pause_s = pause_s
        self.loading = 0  # requests that are still answered with 503
        self.break_off_after: int | None = None  # words
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.api_key: str | None = None  # that every request needs

    @asynccontextmanager
    async def running(
        self, tls: ssl.SSLContext | None = None, port: int = 0
    ) -> AsyncIterator["OpenAIServer"]:
        """Listen on a port of the loopback interface; 0 takes a free one."""
        app = web.Application()
        app.router.add_get("/v1/models", self._guarded(self._models))
        app.router.add_post("/v1/chat/completions", self._guarded(self._chat))
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls)
        await site.start()
        host, port = runner.addresses[0]
        self.url = f"{'https' if tls else 'http'}://{host}:{port}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self.keys.append(request.headers.get("Authorization"))
            if self.api_key is not None and self.keys[-1] != f"Bearer {self.api_key}":
                return _error(401, "an API key is needed.")
            if self.loading > 0:
                self.loading -= 1
                return _error(503, "the model is loading")
            return await handler(request)

        return guarded

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "helmsman"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        if body["model"] != "helmsman":
            return _error(404, f"the model {body['model']} does not exist")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for index, word in enumerate(self.answer.split(" ")):
            if index == self.break_off_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            text = word if index == 0 else f" {word}"
            await response.write(_event({"choices": [{"delta": {"content": text}}]}))
            await asyncio.sleep(self.pause_s)
        await response.write(b"data: [DONE]\n\n")
        return response


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "x"}}, status=status)
