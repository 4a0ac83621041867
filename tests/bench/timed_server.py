"""An OpenAI API that answers after known delays, so that measured times can be judged."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class TimedServer:
    """Sends a first token after `ttft_s`, then one every `gap_s`."""

    def __init__(self, ttft_s: float = 0.0, gap_s: float = 0.0) -> None:
        self.url = ""
        self.ttft_s = ttft_s
        self.gap_s = gap_s
        self.tokens_per_event = 1
        self.knows_continuous_usage = True
        self.max_model_len: int | None = 4096
        self.cached_tokens: int | None = None
        self.fail_every: int | None = None  # requests
        self.break_off = False
        self.say_done = True
        self.refusal: str | None = None
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.open = self.most_open = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["TimedServer"]:
        """Listen on a free port of the loopback interface."""
        app = web.Application(client_max_size=1 << 24)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/completions", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        self.url = f"http://{host}:{port}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Authorization"))
        card: dict[str, Any] = {"id": "timed"}
        if self.max_model_len is not None:
            card["max_model_len"] = self.max_model_len
        return web.json_response({"object": "list", "data": [card]})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        options = body["stream_options"]
        if self.refusal is not None:
            return _error(400, self.refusal)
        if "continuous_usage_stats" in options and not self.knows_continuous_usage:
            return _error(400, "unknown parameter continuous_usage_stats")
        self.requests.append(body)
        self.keys.append(request.headers.get("Authorization"))
        if self.fail_every and len(self.requests) % self.fail_every == 0:
            return _error(429, "the queue is full")
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._stream(request, body)
        finally:
            self.open -= 1

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chat, sent, wanted = "messages" in body, 0, body["max_tokens"]
        started_s = asyncio.get_running_loop().time()
        if chat:
            opening = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
            await response.write(self._event(body, opening, 0))
        while sent < wanted:
            due_s = started_s + self.ttft_s + sent // self.tokens_per_event * self.gap_s
            await asyncio.sleep(due_s - asyncio.get_running_loop().time())
            if self.break_off and sent:
                assert request.transport is not None
                request.transport.abort()
                return response
            sent = min(sent + self.tokens_per_event, wanted)
            choice = {"index": 0, "delta": {"content": "a"}} if chat else {"index": 0, "text": "a"}
            await response.write(self._event(body, {"choices": [choice]}, sent))
        await response.write(self._event(body, {"choices": []}, sent, final=True))
        if self.say_done:
            await response.write(b"data: [DONE]\n\n")
        return response

    def _event(
        self, body: dict[str, Any], event: dict[str, Any], sent: int, *, final: bool = False
    ) -> bytes:
        if final or body["stream_options"].get("continuous_usage_stats"):
            event["usage"] = {"prompt_tokens": _tokens(body), "completion_tokens": sent}
            if self.cached_tokens is not None:
                event["usage"]["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        return f"data: {json.dumps(event)}\n\n".encode()


def _tokens(body: dict[str, Any]) -> int:
    """Ids as they are, two tokens for each word of a text."""
    prompt = body.get("prompt") or body["messages"][0]["content"]
    return len(prompt) if isinstance(prompt, list) else 2 * len(prompt.split())


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)
