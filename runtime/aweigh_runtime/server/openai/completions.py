"""POST /v1/completions: continues texts, or token ids, as they are."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from msgspec import UNSET, UnsetType

from aweigh_api.routing import MAX_PROMPTS
from aweigh_http.bodies import BODY
from aweigh_runtime.server.auth import CALLER, ROUTED, TENANT, alone, router_of, where_from
from aweigh_runtime.server.errors import invalid
from aweigh_runtime.server.openai.answer import Answer, Choices, Whole
from aweigh_runtime.server.openai.choice import Token
from aweigh_runtime.server.openai.generation import GENERATION, Generation
from aweigh_runtime.server.openai.logprobs import Logprobs, PromptLogprobs, TextLogprobs
from aweigh_runtime.server.openai.replies import Finish, TextChoice
from aweigh_runtime.server.openai.requests import CompletionRequest
from aweigh_runtime.server.openai.resuming import resume_of
from aweigh_runtime.server.openai.structure import wanted_grammar
from aweigh_runtime.server.openai.submissions import (
    Order,
    Prompt,
    expect_tokens,
    expect_within_reach,
    truncated,
)
from aweigh_runtime.server.service import Model, Service
from aweigh_runtime.text.tools.events import Content, Event, PlainReader, Reader

DEFAULT_MAX_TOKENS = 16  # OpenAI's


class TextStyle:
    """How texts are continued."""

    id_prefix = "cmpl"
    object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, model: Model, order: Order) -> None:
        self._order = order
        self._asked = order.asked
        self._logprobs = Logprobs(model.tokenizer.vocabulary)

    def reader(self) -> Reader:
        """Text is text."""
        return PlainReader()

    async def whole(self, answers: list[Whole]) -> Choices:
        """All answers of a reply."""
        return [
            TextChoice(
                index,
                _text(answer.events),
                answer.finish,
                await self._of_whole(answer.tokens),
                await self._of_prompt(index, answer),
            )
            for index, answer in enumerate(answers)
        ]

    async def prompt_logprobs(self, answers: list[Whole]) -> UnsetType:
        """The choices have them."""
        return UNSET

    def opening(self, choices: Sequence[int]) -> Choices:
        """Nothing."""
        return []

    def piece(self, choice: int, events: Sequence[Event], tokens: Sequence[Token]) -> Choices:
        """Some more text."""
        return [TextChoice(choice, _text(events), None, self._of(tokens) if tokens else None)]

    def ending(self, choice: int, finish: Finish) -> Choices:
        """The end of an answer."""
        return [TextChoice(choice, "", finish)]

    def _of(self, tokens: Sequence[Token]) -> TextLogprobs | None:
        wanted = self._asked.alternatives
        return None if wanted is None else self._logprobs.text(tokens, wanted)

    async def _of_whole(self, tokens: Sequence[Token]) -> TextLogprobs | None:
        wanted = self._asked.alternatives
        return None if wanted is None else await self._logprobs.whole_text(tokens, wanted)

    async def _of_prompt(self, index: int, answer: Whole) -> PromptLogprobs | UnsetType:
        wanted = self._asked.prompt_logprobs
        if wanted is None or answer.prompt_logprobs is None:
            return UNSET
        prompt = self._order.prompts[index // self._order.n]
        return await self._logprobs.prompt(prompt.tokens, answer.prompt_logprobs, wanted)


def _text(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Content))


async def complete(
    request: web.Request, service: Service, asked: CompletionRequest
) -> web.StreamResponse:
    """Continue one text or several."""
    model = service.model()
    given = _listed(asked.prompt)
    with service.seats.take(
        (asked.n or 1) * len(given),
        request[CALLER],
        prompts=len(given),
        router=router_of(request),
        alone=alone(request),
    ):
        resume = resume_of(request, asked)
        grammar = await wanted_grammar(model, asked, where_from(request))
        order = Order(
            prompts=[await _prompt(model, asked, prompt) for prompt in given],
            asked=asked,
            limit=_limit(asked),
            caller=request[CALLER],
            tenant=request[TENANT],
            grammar=grammar,
            routed=request[ROUTED],
            resume=resume,
        )
        request[BODY].let_go()
        with Generation(service, model, order) as generation:
            request[GENERATION] = generation
            return await Answer(TextStyle(model, order), asked, generation).respond(request)


def _limit(asked: CompletionRequest) -> int:
    return DEFAULT_MAX_TOKENS if asked.max_tokens is None else asked.max_tokens


def _listed(prompt: str | list[Any]) -> list[str | list[int]]:
    """One text, one list of token ids, or a list of either."""
    if isinstance(prompt, str):
        return [prompt]
    if _ids(prompt):
        return [prompt]
    if 0 < len(prompt) <= MAX_PROMPTS and all(map(_text_or_ids, prompt)):
        return list(prompt)
    raise invalid(
        "'prompt' is not valid: expected a text, a list of token ids, or a list of up to "
        f"{MAX_PROMPTS} of either.",
        "prompt",
    )


def _text_or_ids(item: Any) -> bool:
    return isinstance(item, str) or (isinstance(item, list) and _ids(item))


def _ids(items: list[Any]) -> bool:
    return bool(items) and all(type(item) is int for item in items)


async def _prompt(model: Model, asked: CompletionRequest, given: str | list[int]) -> Prompt:
    tokens = truncated(await _tokens(model, asked, given), asked, _limit(asked), model)
    if not asked.echo:
        return Prompt(tokens)
    expect_tokens(tokens, model, "prompt")
    keep_special = asked.skip_special_tokens is False
    pieces = await model.tokenizer.decode(tokens, keep_special=keep_special)
    if isinstance(given, str) and asked.truncate_prompt_tokens is None:
        pieces = _as_written(given, pieces)
    return Prompt(tokens, pieces)


def _as_written(text: str, pieces: list[str]) -> list[str]:
    """The pieces of a text that tokenizing has changed: by a space before it, or throughout."""
    decoded = "".join(pieces)
    if decoded == text:
        return pieces
    if decoded == f" {text}":
        first = next(index for index, piece in enumerate(pieces) if piece)
        return [*pieces[:first], pieces[first][1:], *pieces[first + 1 :]]
    return [text, *("" for _ in pieces[1:])]


async def _tokens(model: Model, asked: CompletionRequest, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, list):
        return prompt
    expect_within_reach(model, prompt)
    add_special = asked.add_special_tokens is not False
    return await model.tokenizer.encode(prompt, add_special=add_special)
