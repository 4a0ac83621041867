"""POST /v1/completions: continues texts, or token ids, as they are."""

from typing import Any

from aiohttp import web

from aweigh_runtime.server.openai.answer import Answer, Choices
from aweigh_runtime.server.openai.errors import invalid
from aweigh_runtime.server.openai.generation import GENERATION, Generation, expect_within_reach
from aweigh_runtime.server.openai.replies import Finish, TextChoice
from aweigh_runtime.server.openai.requests import MAX_PROMPTS, CompletionRequest
from aweigh_runtime.server.service import Model, Service

DEFAULT_MAX_TOKENS = 16  # OpenAI's


class TextStyle:
    """How texts are continued."""

    id_prefix = "cmpl"
    object = "text_completion"
    chunk_object = "text_completion"

    def whole(self, texts: list[str], finishes: list[Finish]) -> Choices:
        """All answers of a reply."""
        ended = zip(texts, finishes, strict=True)
        return [TextChoice(i, text, finish) for i, (text, finish) in enumerate(ended)]

    def opening(self, choice: int) -> Choices:
        """Nothing."""
        return []

    def piece(self, choice: int, text: str) -> Choices:
        """Some more text."""
        return [TextChoice(choice, text)]

    def ending(self, choice: int, finish: Finish) -> Choices:
        """The end of an answer."""
        return [TextChoice(choice, "", finish)]


async def complete(
    request: web.Request, service: Service, asked: CompletionRequest
) -> web.StreamResponse:
    """Continue one text or several."""
    model = service.model()
    given = _listed(asked.prompt)
    with service.seats((asked.n or 1) * len(given)):
        prompts = [await _tokens(model, prompt) for prompt in given]
        limit = DEFAULT_MAX_TOKENS if asked.max_tokens is None else asked.max_tokens
        with Generation(service, model, prompts, asked, limit) as generation:
            request[GENERATION] = generation
            return await Answer(TextStyle(), asked, generation).respond(request)


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


async def _tokens(model: Model, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, list):
        return prompt
    expect_within_reach(model, prompt)
    return await model.tokenizer.encode(prompt)
