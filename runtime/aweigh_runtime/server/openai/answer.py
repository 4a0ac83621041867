"""Answers a request whose prompts are known: in one piece or as a stream.

Both are made of the same parts, so a stream's chunks joined are the whole answer.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web
from msgspec import UNSET, UnsetType

from aweigh_api.routing import TOKENS_COMMENT, Resume
from aweigh_http.errors import ApiError
from aweigh_http.every_request import ERROR
from aweigh_runtime.engine.messages import TokenLogprobs
from aweigh_runtime.server.openai.choice import Delta, Token
from aweigh_runtime.server.openai.generation import Generation
from aweigh_runtime.server.openai.logprobs import PromptLogprobs
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
from aweigh_runtime.server.openai.sse import EventStream, event
from aweigh_runtime.text.tools.events import Content, Event, Reader, ToolCallStart

Choices = list[ChatChoice] | list[ChatChunkChoice] | list[TextChoice]


@dataclass(slots=True)
class Whole:
    """One answer, complete once it has a finish."""

    events: list[Event] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    finish: Finish = "length"
    prompt_logprobs: Sequence[TokenLogprobs | None] | None = None


class Style(Protocol):
    """How an endpoint words its replies."""

    id_prefix: str
    object: str
    chunk_object: str

    def reader(self) -> Reader:
        """What reads one answer."""
        ...

    async def whole(self, answers: list[Whole]) -> Choices:
        """All answers of a reply."""
        ...

    async def prompt_logprobs(self, answers: list[Whole]) -> PromptLogprobs | UnsetType:
        """What a reply says of its prompt, besides its choices."""
        ...

    def opening(self, choices: Sequence[int]) -> Choices:
        """What a stream begins answers with; empty: nothing."""
        ...

    def piece(self, choice: int, events: Sequence[Event], tokens: Sequence[Token]) -> Choices:
        """Some more of an answer, all of it in one."""
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
        self._readers = [style.reader() for _ in generation.choices]
        self._calling: set[int] = set()  # choices that call a tool
        self._routed = generation.order.routed
        self._untold: list[list[int]] = [[] for _ in generation.choices]  # tokens, for the router
        resume = generation.order.resume
        self._resume = resume
        self._id = resume.id if resume else f"{style.id_prefix}-{secrets.token_hex(12)}"
        self._created = resume.created if resume else int(time.time())

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """Generate and send."""
        if self._asked.stream:
            return await self._stream(request)
        return await self._whole()

    async def _whole(self) -> web.Response:
        answers = [Whole() for _ in self._generation.choices]
        while not self._generation.done:
            for delta in await self._generation.next():
                answer = answers[delta.choice]
                events, finish = self._read(delta)
                answer.events += events
                answer.tokens += delta.tokens
                answer.finish = finish or answer.finish
        for answer, choice in zip(answers, self._generation.choices, strict=True):
            answer.prompt_logprobs = choice.prompt_logprobs
        reply = self._reply(
            self._style.object,
            await self._style.whole(answers),
            self._usage(),
            await self._style.prompt_logprobs(answers),
        )
        return web.Response(body=reply.json(), content_type="application/json")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        stream = EventStream(request)
        begin = self._openings() if self._resume is None else self._missing_endings(self._resume)
        deltas: list[Delta] = []
        if not self._generation.done:
            deltas = await self._generation.next()  # what fails at once gets a status of its own
        await stream.open()
        try:
            await stream.send(begin)
            await self._send_all(stream, deltas)
        except ApiError as error:  # the status is already sent: say it within the stream
            self._generation.failed = True
            request[ERROR] = error
            await stream.send([event(error.json())])
        return await stream.close()

    async def _send_all(self, stream: EventStream, deltas: list[Delta]) -> None:
        await self._send(stream, deltas)
        while not self._generation.done:
            await self._send(stream, await self._generation.next())
        last = [event(b"[DONE]")]
        if self._asked.wants_usage:
            usage = self._reply(self._style.chunk_object, [], self._usage()).json()
            last.insert(0, event(usage))
        await stream.send(last)  # in one, so that who goes on elsewhere has both to say or neither

    def _openings(self) -> list[bytes]:
        choices = range(len(self._generation.choices))
        groups = [choices] if self._routed else [[choice] for choice in choices]
        openings = [self._style.opening(group) for group in groups]  # routed: all are out, or none
        return [event(self._chunk(opening)) for opening in openings if opening]

    def _missing_endings(self, resume: Resume) -> list[bytes]:
        """Read what other servers have sent; of an answer that is complete the end may not be."""
        endings = []
        for delta, answer in zip(self._generation.resumed, resume.answers, strict=True):
            _, finish = self._read(delta)
            if finish is not None and not answer.finished:
                endings.append(event(self._chunk(self._style.ending(delta.choice, finish))))
        return endings

    async def _send(self, stream: EventStream, deltas: list[Delta]) -> None:
        await stream.send([sent for delta in deltas for sent in self._events(delta)])

    def _events(self, delta: Delta) -> list[bytes]:
        found, finish = self._read(delta)
        if not found and delta.tokens:
            found = [Content("")]
        pieces = [found] if self._routed and found else [[each] for each in found]
        tokens = delta.tokens  # they go with the first event
        bodies = []
        for piece in pieces:
            bodies.append(self._chunk(self._style.piece(delta.choice, piece, tokens)))
            tokens = ()
        if finish is not None:
            bodies.append(self._chunk(self._style.ending(delta.choice, finish)))
        if self._routed:
            return self._told(delta, bodies)
        return [event(body) for body in bodies]

    def _told(self, delta: Delta, bodies: list[bytes]) -> list[bytes]:
        """The events, before the first one the tokens that a pod which goes on has to know.

        They are all that were taken in by then: who takes them in again holds back the same text.
        """
        untold = self._untold[delta.choice]
        untold += delta.ids
        if not bodies:
            return []
        comments = b""
        if untold:
            ids = ",".join(map(str, untold))
            comments = f"{TOKENS_COMMENT}{delta.choice} {ids}\n".encode()
            untold.clear()
        return [event(bodies[0], comments), *map(event, bodies[1:])]

    def _read(self, delta: Delta) -> tuple[list[Event], Finish | None]:
        reader = self._readers[delta.choice]
        events = reader.feed(delta.text)
        if delta.finish is not None:
            events += reader.finish()
        if any(isinstance(event, ToolCallStart) for event in events):
            self._calling.add(delta.choice)
        calls = delta.finish == "stop" and delta.choice in self._calling
        return events, "tool_calls" if calls else delta.finish

    def _chunk(self, choices: Choices) -> bytes:
        """A stream that ends with a usage says `usage: null` until then, as OpenAI's does."""
        usage: Usage | UnsetType | None = None if self._asked.wants_usage else UNSET
        if self._asked.wants_usage_always:
            usage = self._usage()
        return self._reply(self._style.chunk_object, choices, usage).json()

    def _reply(
        self,
        object: str,
        choices: Choices,
        usage: Usage | UnsetType | None,
        prompt_logprobs: PromptLogprobs | UnsetType = UNSET,
    ) -> Reply[Any]:
        return Reply(
            id=self._id,
            object=object,
            created=self._created,
            model=self._asked.model,
            choices=choices,
            usage=usage,
            prompt_logprobs=prompt_logprobs,
        )

    def _usage(self) -> Usage:
        generation = self._generation
        return usage(
            generation.num_prompt_tokens,
            generation.num_cached_tokens,
            generation.num_answer_tokens,
        )
