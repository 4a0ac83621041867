"""Answers a request whose prompts are known: in one piece or as a stream."""

import secrets
import time
from typing import Protocol

from aiohttp import web
from msgspec import UNSET, UnsetType

from aweigh_runtime.server.openai.errors import ApiError
from aweigh_runtime.server.openai.generation import Delta, Generation
from aweigh_runtime.server.openai.replies import (
    ChatChoice,
    ChatChunkChoice,
    Finish,
    Reply,
    TextChoice,
    Usage,
    usage,
)
from aweigh_runtime.server.openai.requests import Parameters
from aweigh_runtime.server.openai.sse import EventStream

Choices = list[ChatChoice] | list[ChatChunkChoice] | list[TextChoice]


class Style(Protocol):
    """How an endpoint words its replies."""

    id_prefix: str
    object: str
    chunk_object: str

    def whole(self, texts: list[str], finishes: list[Finish]) -> Choices:
        """All answers of a reply."""
        ...

    def opening(self, choice: int) -> Choices:
        """What a stream begins an answer with; empty: nothing."""
        ...

    def piece(self, choice: int, text: str) -> Choices:
        """Some more text."""
        ...

    def ending(self, choice: int, finish: Finish) -> Choices:
        """The end of an answer."""
        ...


class Answer:
    """One HTTP request's answer in one style."""

    def __init__(self, style: Style, asked: Parameters, generation: Generation) -> None:
        self._style = style
        self._asked = asked
        self._generation = generation
        self._id = f"{style.id_prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """Generate and send."""
        if self._asked.stream:
            return await self._stream(EventStream(request))
        return await self._whole()

    async def _whole(self) -> web.Response:
        texts = [""] * self._generation.num_choices
        finishes: list[Finish] = ["length"] * self._generation.num_choices
        while not self._generation.done:
            for delta in await self._generation.next():
                texts[delta.choice] += delta.text
                finishes[delta.choice] = delta.finish or finishes[delta.choice]
        choices = self._style.whole(texts, finishes)
        reply = self._reply(self._style.object, choices, self._usage())
        return web.Response(body=reply.json(), content_type="application/json")

    async def _stream(self, stream: EventStream) -> web.StreamResponse:
        await stream.open()
        try:
            await self._send_all(stream)
        except ApiError as error:  # the status is already sent: say it within the stream
            self._generation.failed = True
            await stream.send([error.json()])
        return await stream.close()

    async def _send_all(self, stream: EventStream) -> None:
        choices = range(self._generation.num_choices)
        openings = [self._style.opening(choice) for choice in choices]
        await stream.send([self._chunk(opening) for opening in openings if opening])
        while not self._generation.done:
            deltas = await self._generation.next()
            await stream.send([body for delta in deltas for body in self._bodies(delta)])
        if self._asked.wants_usage:
            await stream.send([self._reply(self._style.chunk_object, [], self._usage()).json()])
        await stream.send([b"[DONE]"])

    def _bodies(self, delta: Delta) -> list[bytes]:
        bodies = []
        if delta.text:
            bodies.append(self._chunk(self._style.piece(delta.choice, delta.text)))
        if delta.finish is not None:
            bodies.append(self._chunk(self._style.ending(delta.choice, delta.finish)))
        return bodies

    def _chunk(self, choices: Choices) -> bytes:
        """A stream that ends with a usage says `usage: null` until then, as OpenAI's does."""
        usage = None if self._asked.wants_usage else UNSET
        return self._reply(self._style.chunk_object, choices, usage).json()

    def _reply(
        self, object: str, choices: Choices, usage: Usage | UnsetType | None = UNSET
    ) -> Reply:
        return Reply(
            id=self._id,
            object=object,
            created=self._created,
            model=self._asked.model,
            choices=choices,
            usage=usage,
        )

    def _usage(self) -> Usage:
        return usage(self._generation.num_prompt_tokens, self._generation.num_answer_tokens)
