"""POST /v1/chat/completions."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from aiohttp import web

from aweigh_http.bodies import BODY
from aweigh_runtime.server.auth import CALLER, ROUTED, TENANT, alone, router_of, where_from
from aweigh_runtime.server.errors import invalid, worker_lost
from aweigh_runtime.server.openai.answer import Answer
from aweigh_runtime.server.openai.chat_style import ChatStyle
from aweigh_runtime.server.openai.generation import GENERATION, Generation
from aweigh_runtime.server.openai.requests import ChatRequest, Message, Settings
from aweigh_runtime.server.openai.resuming import resume_of
from aweigh_runtime.server.openai.structure import checked, wanted_grammar
from aweigh_runtime.server.openai.submissions import Order, Prompt, expect_within_reach, truncated
from aweigh_runtime.server.openai.tools import Calls, calls_of
from aweigh_runtime.server.openai.turns import turns_of
from aweigh_runtime.server.service import Model, Service
from aweigh_runtime.text.disguise import Disguise
from aweigh_runtime.text.template import RESERVED, CannotRender
from aweigh_runtime.text.tools.events import PlainReader
from aweigh_runtime.text.tools.prompt import explained
from aweigh_runtime.text.worker import Died


async def chat(request: web.Request, service: Service, asked: ChatRequest) -> web.StreamResponse:
    """Answer a chat."""
    model = service.model()
    router = router_of(request)
    with service.seats.take(
        asked.n or 1, request[CALLER], prompts=1, router=router, alone=alone(request)
    ):
        resume = resume_of(request, asked)
        calls = calls_of(asked, model.call_format, model.tokenizer)
        tools = [] if calls is None else calls.shown
        prompt = await chat_prompt(model, asked.messages, tools, asked.chat_template_kwargs)
        order = Order(
            prompts=[Prompt(truncated(prompt, asked, asked.limit, model))],
            asked=asked,
            limit=asked.limit,
            caller=request[CALLER],
            tenant=request[TENANT],
            grammar=await _grammar(model, asked, calls, where_from(request)),
            spelled=frozenset() if calls is None else calls.special.keys(),
            may_call=calls is not None,
            routed=request[ROUTED],
            resume=resume,
        )
        request[BODY].let_go()
        with Generation(service, model, order) as generation:
            request[GENERATION] = generation
            style = ChatStyle(model, order, PlainReader if calls is None else calls.reader)
            return await Answer(style, asked, generation).respond(request)


async def _grammar(
    model: Model, asked: ChatRequest, calls: Calls | None, caller: bytes
) -> str | None:
    form = await wanted_grammar(model, asked, caller)
    grammar = None if calls is None else calls.grammar(form)
    if calls is None or grammar is None:
        return form
    return await checked(model, grammar, partial(calls.refusal, grammar), caller)


async def chat_prompt(
    model: Model,
    messages: list[Message],
    tools: Sequence[dict[str, Any]],
    settings: Settings | None,
) -> list[int]:
    """The prompt of a chat, ending where the assistant's answer begins.

    Raises:
        ApiError: the messages, or the model, are not for this.
    """
    if model.template is None:
        raise invalid(
            "This model has no chat template; send the text to continue to /v1/completions.",
            "messages",
        )
    _expect_free(settings or {})
    turns = turns_of(messages, model.call_format)
    if not model.template.knows_tools:
        turns, tools = explained(turns, tools, model.call_format), ()
    disguise = Disguise(model.tokenizer.specials)
    try:
        rendered = await model.template.render(
            disguise.put_on(turns),
            disguise.put_on(list(tools)) or None,
            disguise.put_on(settings or {}),
        )
    except CannotRender as error:
        raise invalid(
            f"The model's chat template cannot render these messages: {error}", "messages"
        ) from error
    except Died as error:
        raise worker_lost("renders chat templates") from error
    pieces = disguise.take_off(rendered)
    expect_within_reach(model, "".join(piece.text for piece in pieces))
    return await model.tokenizer.encode_pieces(pieces)


def _expect_free(settings: Settings) -> None:
    taken = sorted(RESERVED & settings.keys())
    if taken:
        raise invalid(
            f"'chat_template_kwargs' sets {taken[0]}, which is the server's own; remove it.",
            "chat_template_kwargs",
        )
