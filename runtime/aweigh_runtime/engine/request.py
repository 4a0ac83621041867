"""One answer in the making, as scheduler and step loop see it. Pure Python."""

from array import array
from collections.abc import Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aweigh_runtime.engine.history import History
from aweigh_runtime.engine.messages import Submission, TokenLogprobs
from aweigh_runtime.engine.naming import Name
from aweigh_runtime.engine.sampling.row import Row

if TYPE_CHECKING:  # scheduling needs no grammar library
    from aweigh_runtime.engine.matcher import Matcher


_PLACEHOLDER = 0  # any token: nobody looks at it


def no_blocks() -> "array[int]":
    """An empty page table; tensor libraries read this kind without touching each number."""
    return array("q")


@dataclass(slots=True, eq=False)
class Request:
    """A prompt and what has been generated after it."""

    id: int
    tokens: list[int]  # the prompt, then the answer; the last one may be `unread`
    num_prompt_tokens: int  # what was there of the answer at its arrival included
    max_tokens: int  # prompt and answer together
    stop_tokens: Set[int]  # any of them ends the answer
    row: Row  # what its tokens are chosen with
    prompt_logprobs: int | None = None
    salt: Name = b""
    caller: bytes = b""
    priority: int = 0  # lower ones first, among the caller's own
    choices: int = 1  # answers to the same prompt
    first: bool = True  # of those: what its prompt costs and finds is counted once

    arrival: int = 0  # counts the requests of this server
    arrived_s: float = 0.0
    started_s: float | None = None  # when its first step began
    running: bool = False
    gone: bool = False  # finished or aborted
    unread: int | None = None  # row of the step that chose the last token, while only it knows it
    blocks: "array[int]" = field(default_factory=no_blocks)  # held; the last may be partly filled
    computed: int = 0  # tokens whose keys and values are in the cache
    names: list[Name] = field(default_factory=list)  # of full blocks, as far as they are known
    settled: int = 0  # blocks whose names are beyond doubt
    cached: int = 0  # prompt tokens that came from the cache, while the prompt was first read
    reached: int = 0  # most tokens that were ever computed; less now after a preemption
    life: int = 0  # times that it has lost its blocks
    history: History | None = None  # of drafts for it; None: there were none
    prompt_scores: list[TokenLogprobs | None] = field(default_factory=lambda: [None])

    @classmethod
    def of(cls, submission: Submission, matcher: "Matcher | None" = None) -> "Request":
        """The request that a message asks for."""
        return cls(
            id=submission.id,
            tokens=submission.prompt,
            num_prompt_tokens=len(submission.prompt),
            max_tokens=len(submission.prompt) - submission.begun + submission.max_tokens,
            stop_tokens=frozenset(submission.stop_tokens),
            row=Row.of(submission, matcher),
            prompt_logprobs=submission.prompt_logprobs,
            salt=submission.salt,
            caller=submission.caller,
            priority=submission.priority,
            choices=submission.choices,
            first=submission.first,
        )

    @property
    def order(self) -> tuple[int, int]:
        """Who keeps its blocks when they run out. No caller can put itself before another."""
        return (0 if self.caller else self.priority, self.arrival)

    @property
    def pending(self) -> int:
        """Tokens that the model has not read yet."""
        return len(self.tokens) - self.computed

    @property
    def answering(self) -> bool:
        """The prompt has been read, if only before a preemption."""
        return len(self.tokens) > self.num_prompt_tokens

    @property
    def num_known(self) -> int:
        """Tokens that the host knows."""
        return len(self.tokens) - (self.unread is not None)

    def expect(self, row: int) -> None:
        """The step under way chooses the next token in its row of this number."""
        self.tokens.append(_PLACEHOLDER)
        self.row.append(_PLACEHOLDER)
        self.unread = row

    def join(self, token: int) -> None:
        """The next token of the answer is known."""
        if self.unread is None:
            self.tokens.append(token)
            self.row.append(token)
        else:
            self.tokens[-1] = token
            self.unread = None
