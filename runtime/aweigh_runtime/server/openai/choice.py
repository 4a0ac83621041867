"""One answer of a request: the engine's tokens go in, what a client may see comes out."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import accumulate

import msgspec

from aweigh_runtime.engine.messages import FinishReason, Output, TokenLogprobs
from aweigh_runtime.server.openai.requests import Parameters
from aweigh_runtime.server.openai.submissions import Prompt
from aweigh_runtime.text.growing import GrowingText


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the text, and how likely it was."""

    id: int
    offset: int  # of its first character in the text
    logprobs: TokenLogprobs | None  # None: it is the prompt's first


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of one answer."""

    choice: int
    text: str = ""
    finish: FinishReason | None = None
    tokens: Sequence[Token] = ()  # where log-probabilities are asked for
    ids: Sequence[int] = ()  # all tokens that were taken in for it, whether they show or not

    def followed_by(self, later: "Delta") -> "Delta":
        """Both in one."""
        return Delta(
            self.choice,
            self.text + later.text,
            later.finish,
            [*self.tokens, *later.tokens],
            [*self.ids, *later.ids],
        )


class Choice:
    """Feed it every output. It never takes back what it has given out."""

    def __init__(
        self,
        index: int,
        prompt: Prompt,
        asked: Parameters,
        text: GrowingText,
        *,
        whole_tokens: bool = False,
    ) -> None:
        """Args:
        index: among the choices of its request.
        prompt: what it answers.
        asked: how.
        text: what its tokens become.
        whole_tokens: nothing is given out before the log-probabilities of all tokens so far.
        """
        self._index = index
        self._prompt = prompt
        self._asked = asked
        self._text = text
        self._whole_tokens = whole_tokens
        self._late = Delta(index)  # is given out with the next one
        self._unsettled: list[tuple[int, TokenLogprobs]] = []
        self._echoed = 0  # characters
        self._begun = False
        self.num_tokens = 0
        self.cached_tokens = 0  # of the prompt
        self.prompt_logprobs: Sequence[TokenLogprobs | None] | None = None
        self.finish: FinishReason | None = None

    @property
    def stopped_early(self) -> bool:
        """It has ended although the engine would go on."""
        return self._text.stopped

    def advance(self, output: Output) -> Delta:
        """Take in the tokens of one step."""
        if self.finish is not None:  # what came with the token that completed a stop string
            return Delta(self._index)
        delta = self._taken(output)
        if not self._whole_tokens:
            return delta
        delta, nothing = self._late.followed_by(delta), Delta(self._index)
        waits = bool(self._unsettled) and self.finish is None
        self._late = delta if waits else nothing
        return nothing if waits else delta

    def go_on(self, tokens: list[int], ends: Set[int], limit: int) -> Delta:
        """Take in what another server has answered; all that the delta has is out, but for its end.

        Args:
            tokens: the answer's first ones; after one that ends it there are none.
            ends: tokens that end it.
            limit: tokens that it may have.
        """
        finish: FinishReason | None = "length" if len(tokens) == limit else None
        if tokens and tokens[-1] in ends:
            finish = "stop"
        delta = self.advance(Output(0, tokens, finish))
        self._begun = False
        self._text.disown()
        return delta

    def _taken(self, output: Output) -> Delta:
        ids = output.tokens
        echo = Delta(self._index) if self._begun else self._begin(output)
        text = echo.text
        for position, token in enumerate(output.tokens):
            last = position == len(output.tokens) - 1
            ends = output.finish == "stop" and last and not self._asked.include_stop_str_in_output
            text += self._take(token, output, position, ends=ends)
            if self._text.stopped:
                self.finish = "stop"
                ids = ids[: position + 1]
                break
        if self.finish is None and output.finish is not None:
            text += self._text.finish()
            self.finish = "stop" if self._text.stopped else output.finish
        return Delta(self._index, text, self.finish, [*echo.tokens, *self._settled()], ids)

    def _begin(self, output: Output) -> Delta:
        self._begun = True
        self.cached_tokens = min(output.cached_tokens or 0, len(self._prompt.tokens))
        self.prompt_logprobs = output.prompt_logprobs
        if not self._prompt.echo:
            return Delta(self._index)
        text = "".join(self._prompt.echo)
        self._echoed = len(text)
        if self._asked.alternatives is None or output.prompt_logprobs is None:
            return Delta(self._index, text)
        offsets = accumulate(map(len, self._prompt.echo), initial=0)
        listed = zip(self._prompt.tokens, offsets, output.prompt_logprobs, strict=False)
        return Delta(self._index, text, None, [Token(*each) for each in listed])

    def _take(self, token: int, output: Output, position: int, *, ends: bool) -> str:
        self.num_tokens += 1
        if ends:
            return ""
        if output.logprobs is not None:
            self._unsettled.append((token, output.logprobs[position]))
        return self._text.feed(token)

    def _settled(self) -> list[Token]:
        offsets = self._text.settled()
        if not self._unsettled:
            return []
        settled = self._unsettled[: len(offsets)]
        del self._unsettled[: len(offsets)]
        return [
            Token(id, self._echoed + offset, logprobs)
            for offset, (id, logprobs) in zip(offsets, settled, strict=True)
        ]


def single_tokens(output: Output) -> list[Output]:
    """The same as if each token had come by itself."""
    steps = [
        Output(output.id, [token], None, output.logprobs and [output.logprobs[position]])
        for position, token in enumerate(output.tokens)
    ]
    first = {
        name: getattr(output, name) for name in ("cached_tokens", "prompt_logprobs", "queued_s")
    }
    steps[0] = msgspec.structs.replace(steps[0], **first)
    steps[-1] = msgspec.structs.replace(steps[-1], finish=output.finish)
    return steps
