"""POST /v1/chat/completions."""

from typing import Any

from aiohttp import web

from aweigh_runtime.server.openai.answer import Answer, Choices
from aweigh_runtime.server.openai.errors import ApiError, invalid
from aweigh_runtime.server.openai.generation import GENERATION, Generation, expect_within_reach
from aweigh_runtime.server.openai.replies import (
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatMessage,
    Finish,
)
from aweigh_runtime.server.openai.requests import ChatRequest, Message, TextPart
from aweigh_runtime.server.service import Model, Service
from aweigh_runtime.text.disguise import Disguise
from aweigh_runtime.text.template import CannotRender

ROLES = ("system", "developer", "user", "assistant")


class ChatStyle:
    """How chats are answered."""

    id_prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole(self, texts: list[str], finishes: list[Finish]) -> Choices:
        """All answers of a reply."""
        ended = zip(texts, finishes, strict=True)
        return [ChatChoice(i, ChatMessage(text), finish) for i, (text, finish) in enumerate(ended)]

    def opening(self, choice: int) -> Choices:
        """The role comes first."""
        return [ChatChunkChoice(choice, ChatDelta(role="assistant", content=""))]

    def piece(self, choice: int, text: str) -> Choices:
        """Some more text."""
        return [ChatChunkChoice(choice, ChatDelta(content=text))]

    def ending(self, choice: int, finish: Finish) -> Choices:
        """The end of an answer."""
        return [ChatChunkChoice(choice, ChatDelta(), finish)]


async def chat(request: web.Request, service: Service, asked: ChatRequest) -> web.StreamResponse:
    """Answer a chat."""
    model = service.model()
    with service.seats(asked.n or 1):
        prompt = await _prompt(model, asked.messages)
        with Generation(service, model, [prompt], asked, asked.limit) as generation:
            request[GENERATION] = generation
            return await Answer(ChatStyle(), asked, generation).respond(request)


async def _prompt(model: Model, messages: list[Message]) -> list[int]:
    if model.template is None:
        raise invalid(
            "This model has no chat template; send the text to continue to /v1/completions.",
            "messages",
        )
    disguise = Disguise(model.tokenizer.specials)
    turns = [_turn(f"messages[{i}]", message) for i, message in enumerate(messages)]
    try:
        rendered = await model.template.render(disguise.put_on(turns))
    except CannotRender as error:
        raise invalid(
            f"The model's chat template cannot render these messages: {error}", "messages"
        ) from error
    pieces = disguise.take_off(rendered)
    expect_within_reach(model, "".join(piece.text for piece in pieces))
    return await model.tokenizer.encode_pieces(pieces)


def _turn(where: str, message: Message) -> dict[str, Any]:
    """A message as templates know it."""
    if message.role not in ROLES:
        raise invalid(
            f"'{where}.role' is not supported; expected one of {', '.join(ROLES)}.", f"{where}.role"
        )
    if message.tool_calls:
        raise invalid(
            f"'{where}.tool_calls' is not supported yet: remove it.", f"{where}.tool_calls"
        )
    turn = {"role": message.role, "content": _content(where, message)}
    return turn if message.name is None else {**turn, "name": message.name}


def _content(where: str, message: Message) -> str:
    match message.content:
        case str(text):
            return text
        case None if message.role == "assistant":
            return ""
        case None:
            raise invalid(f"'{where}.content' is missing.", f"{where}.content")
        case parts:
            return "".join(_text(f"{where}.content[{i}]", part) for i, part in enumerate(parts))


def _text(where: str, part: TextPart) -> str:
    if part.type != "text":
        raise _unsupported_part(where)
    if part.text is None:
        raise invalid(f"'{where}.text' is missing.", f"{where}.text")
    return part.text


def _unsupported_part(where: str) -> ApiError:
    return invalid(f"'{where}.type' is not supported; expected text.", f"{where}.type")
