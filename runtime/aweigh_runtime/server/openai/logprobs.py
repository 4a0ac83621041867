"""Log-probabilities as clients get them: OpenAI's two forms, and vLLM's for prompts."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import msgspec

from aweigh_runtime.engine.messages import TokenLogprobs
from aweigh_runtime.server.openai.choice import Token
from aweigh_runtime.text.detokenizer import Vocabulary

_LOWEST = -9999.0  # JSON has no infinity; OpenAI's stand-in
_AT_ONCE = 256  # tokens: with 20 alternatives each they take 10 ms
_Item = TypeVar("_Item")


class ChatTop(msgspec.Struct, frozen=True, gc=False):
    """One token that might stand here."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(msgspec.Struct, frozen=True, gc=False):
    """The token that does, and the likeliest ones."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTop]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """The form of chats."""

    content: list[ChatToken]
    refusal: None = None


class TextLogprobs(msgspec.Struct, frozen=True):
    """The form of completions: one item a token in each list; null where there is no prediction."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptLogprob(msgspec.Struct, frozen=True, gc=False):
    """One token at one place of a prompt."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""By token ids; null for the prompt's first token."""


class Logprobs:
    """Writes them with one model's tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def chat(self, tokens: Sequence[Token], alternatives: int) -> ChatLogprobs:
        """For the tokens of an answer."""
        content = []
        for token in tokens:
            if token.logprobs is not None:
                top = token.logprobs.top[:alternatives]
                chosen = self._chat_top(token.id, token.logprobs.logprob)
                tops = [self._chat_top(id, logprob) for id, logprob in top]
                content.append(ChatToken(chosen.token, chosen.logprob, chosen.bytes, tops))
        return ChatLogprobs(content)

    def text(self, tokens: Sequence[Token], alternatives: int) -> TextLogprobs:
        """For the tokens of an answer, and of its prompt where the answer repeats it."""
        return TextLogprobs(
            [self._spelled(token.id) for token in tokens],
            [None if t.logprobs is None else _finite(t.logprobs.logprob) for t in tokens],
            [self._text_top(token, alternatives) for token in tokens],
            [token.offset for token in tokens],
        )

    async def whole_chat(self, tokens: Sequence[Token], alternatives: int) -> ChatLogprobs:
        """The same as `chat`; others have their turn meanwhile."""
        content: list[ChatToken] = []
        async for piece in _pieces(tokens):
            content += self.chat(piece, alternatives).content
        return ChatLogprobs(content)

    async def whole_text(self, tokens: Sequence[Token], alternatives: int) -> TextLogprobs:
        """The same as `text`; others have their turn meanwhile."""
        whole = TextLogprobs([], [], [], [])
        async for piece in _pieces(tokens):
            more = self.text(piece, alternatives)
            whole.tokens.extend(more.tokens)
            whole.token_logprobs.extend(more.token_logprobs)
            whole.top_logprobs.extend(more.top_logprobs)
            whole.text_offset.extend(more.text_offset)
        return whole

    async def prompt(
        self, ids: Sequence[int], listed: Sequence[TokenLogprobs | None], alternatives: int
    ) -> PromptLogprobs:
        """For the tokens of a prompt; others have their turn meanwhile."""
        written: PromptLogprobs = []
        async for piece in _pieces(list(zip(ids, listed, strict=True))):
            written += [self._at(id, one, alternatives) for id, one in piece]
        return written

    def _at(
        self, id: int, one: TokenLogprobs | None, alternatives: int
    ) -> dict[str, PromptLogprob] | None:
        if one is None:
            return None
        top = one.top[:alternatives]
        ranked = [(id, one.logprob, one.rank)]
        ranked += [(other, logprob, rank) for rank, (other, logprob) in enumerate(top, 1)]
        return {
            str(token): PromptLogprob(_finite(logprob), rank, self._spelled(token))
            for token, logprob, rank in ranked
        }

    def _chat_top(self, id: int, logprob: float) -> ChatTop:
        return ChatTop(self._spelled(id), _finite(logprob), list(self._vocabulary.bytes_of(id)))

    def _text_top(self, token: Token, alternatives: int) -> dict[str, float] | None:
        """The token itself stands among its alternatives, one more if need be."""
        if token.logprobs is None:
            return None
        top = token.logprobs.top[:alternatives]
        pairs = [*top, (token.id, token.logprobs.logprob)]
        return {self._spelled(id): _finite(logprob) for id, logprob in pairs}

    def _spelled(self, id: int) -> str:
        """A token that is a part of a character has no text; its bytes are shown as OpenAI does."""
        spelled = self._vocabulary.bytes_of(id)
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


async def _pieces(items: Sequence[_Item]) -> AsyncIterator[Sequence[_Item]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]
        await asyncio.sleep(0)


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST)
