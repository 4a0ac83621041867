"""How chats are answered: messages, deltas, tool calls."""

from collections.abc import Callable, Sequence

from msgspec import UNSET, UnsetType

from aweigh_runtime.server.openai.answer import Choices, Whole
from aweigh_runtime.server.openai.choice import Token
from aweigh_runtime.server.openai.logprobs import ChatLogprobs, Logprobs, PromptLogprobs
from aweigh_runtime.server.openai.replies import (
    CalledFunction,
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatMessage,
    Finish,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
)
from aweigh_runtime.server.openai.submissions import Order
from aweigh_runtime.server.service import Model
from aweigh_runtime.text.tools.events import (
    Content,
    Event,
    PlainReader,
    Reader,
    ToolCallArguments,
    ToolCallStart,
)


class ChatStyle:
    """Words the replies to one chat."""

    id_prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(
        self, model: Model, order: Order, new_reader: Callable[[], Reader] = PlainReader
    ) -> None:
        self._order = order
        self._asked = order.asked
        self._new_reader = new_reader
        self._logprobs = Logprobs(model.tokenizer.vocabulary)

    def reader(self) -> Reader:
        """Finds tool calls where there may be some."""
        return self._new_reader()

    async def whole(self, answers: list[Whole]) -> Choices:
        """All answers of a reply."""
        return [
            ChatChoice(
                index, message(answer.events), answer.finish, await self._of_whole(answer.tokens)
            )
            for index, answer in enumerate(answers)
        ]

    async def prompt_logprobs(self, answers: list[Whole]) -> PromptLogprobs | UnsetType:
        """One chat has one prompt, whatever the number of answers."""
        wanted, (prompt,) = self._asked.prompt_logprobs, self._order.prompts
        if wanted is None or answers[0].prompt_logprobs is None:
            return UNSET
        return await self._logprobs.prompt(prompt.tokens, answers[0].prompt_logprobs, wanted)

    def opening(self, choices: Sequence[int]) -> Choices:
        """The role comes first."""
        return [ChatChunkChoice(each, ChatDelta(role="assistant", content="")) for each in choices]

    def piece(self, choice: int, events: Sequence[Event], tokens: Sequence[Token]) -> Choices:
        """Some more of an answer."""
        logprobs = self._of(tokens) if tokens else None
        return [ChatChunkChoice(choice, _delta(events), None, logprobs)]

    def ending(self, choice: int, finish: Finish) -> Choices:
        """The end of an answer."""
        return [ChatChunkChoice(choice, ChatDelta(), finish)]

    def _of(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        wanted = self._asked.alternatives
        return None if wanted is None else self._logprobs.chat(tokens, wanted)

    async def _of_whole(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        wanted = self._asked.alternatives
        return None if wanted is None else await self._logprobs.whole_chat(tokens, wanted)


def message(events: Sequence[Event]) -> ChatMessage:
    """What the deltas of these events come to."""
    text = "".join(event.text for event in events if isinstance(event, Content))
    starts = [event for event in events if isinstance(event, ToolCallStart)]
    if not starts:
        return ChatMessage(text)
    arguments = {start.index: "" for start in starts}
    for event in events:
        if isinstance(event, ToolCallArguments):
            arguments[event.index] += event.text
    calls = [ToolCall(s.id, CalledFunction(s.name, arguments[s.index])) for s in starts]
    return ChatMessage(text or None, tool_calls=calls)


def _delta(events: Sequence[Event]) -> ChatDelta:
    texts: list[str] = []
    calls: dict[int, ToolCallDelta] = {}
    for event in events:
        match event:
            case Content(text):
                texts.append(text)
            case ToolCallStart(index, id, name):
                function = FunctionDelta(name=name, arguments="")
                calls[index] = ToolCallDelta(index, function, id, "function")
            case ToolCallArguments(index, text):
                calls[index] = _longer(calls.get(index), index, text)
    content = "".join(texts) if texts else None
    return ChatDelta(content=content, tool_calls=list(calls.values()) or None)


def _longer(call: ToolCallDelta | None, index: int, text: str) -> ToolCallDelta:
    """The same with more arguments."""
    if call is None:
        return ToolCallDelta(index, FunctionDelta(arguments=text))
    arguments = (call.function.arguments or "") + text
    function = FunctionDelta(name=call.function.name, arguments=arguments)
    return ToolCallDelta(index, function, call.id, call.type)
