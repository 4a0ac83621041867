"""POST /tokenize and /detokenize, shaped like vLLM's: what a text costs, and which text ids are."""

from aiohttp import web

from aweigh_runtime.server.auth import CALLER
from aweigh_runtime.server.errors import invalid
from aweigh_runtime.server.openai.chat import chat_prompt
from aweigh_runtime.server.openai.replies import Detokenized, Tokenized
from aweigh_runtime.server.openai.requests import DetokenizeRequest, TokenizeRequest
from aweigh_runtime.server.openai.submissions import expect_tokens, expect_within_reach
from aweigh_runtime.server.openai.tools import calls_of
from aweigh_runtime.server.service import Model, Service


async def tokenize(request: web.Request, service: Service, asked: TokenizeRequest) -> web.Response:
    """Count and list the tokens of a text, or of a chat."""
    model = service.model()
    with service.seats.take(1, request[CALLER]):
        tokens = await _tokens(model, asked)
    names = None
    if asked.return_token_strs:
        names = [model.tokenizer.name_of(token) or "" for token in tokens]
    reply = Tokenized(len(tokens), model.limits.max_model_len, tokens, names)
    return web.Response(body=reply.json(), content_type="application/json")


async def detokenize(
    request: web.Request, service: Service, asked: DetokenizeRequest
) -> web.Response:
    """Turn ids back into the text that they stand for, special tokens among it."""
    model = service.model()
    most = model.limits.max_model_len
    if len(asked.tokens) > most:
        raise invalid(f"'tokens' has {len(asked.tokens)} ids; expected {most} at most.", "tokens")
    expect_tokens(asked.tokens, model, "tokens")
    with service.seats.take(1, request[CALLER]):
        pieces = await model.tokenizer.decode(asked.tokens, keep_special=True)
    return web.Response(body=Detokenized("".join(pieces)).json(), content_type="application/json")


async def _tokens(model: Model, asked: TokenizeRequest) -> list[int]:
    if asked.messages is not None and asked.prompt is None:
        if asked.add_special_tokens:
            raise invalid(
                "'add_special_tokens' cannot be true for 'messages': the chat template adds them.",
                "add_special_tokens",
            )
        calls = calls_of(asked, model.call_format, model.tokenizer)
        tools = [] if calls is None else calls.shown
        return await chat_prompt(model, asked.messages, tools, asked.chat_template_kwargs)
    if asked.prompt is None or asked.messages is not None:
        raise invalid("Expected one of 'prompt' and 'messages'.", "prompt")
    expect_within_reach(model, asked.prompt)
    add_special = asked.add_special_tokens is not False
    return await model.tokenizer.encode(asked.prompt, add_special=add_special)
