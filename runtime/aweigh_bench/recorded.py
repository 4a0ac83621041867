"""Drafts answers that were recorded before, right as often as is wanted.

It tells what drafts of a stated acceptance cost and gain, also for a model whose weights are random
and for which no draft can be any good.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling.verification import Drafted, Unread
from aweigh_runtime.engine.speculation.proposer import Asked, Chaining, Proposal, Proposer
from aweigh_runtime.model.step_plan import on_device


@dataclass(slots=True)
class Recorded:
    """Answers, and how often a drafted token shall be the recorded one."""

    acceptance: float  # 0 to 1, of each token by itself
    vocab_size: int
    chance: random.Random
    answers: dict[int, list[int]] = field(default_factory=dict)  # by the id of the request

    def following(self, request: Request, count: int) -> list[int]:
        """At most `count` tokens that come next in the record."""
        place = len(request.tokens) - request.num_prompt_tokens
        return self.answers[request.id][place : place + count]

    def draft(self, request: Request, count: int) -> list[int]:
        """The same, each of them wrong as often as is wanted."""
        return [
            token if self.chance.random() < self.acceptance else (token + 1) % self.vocab_size
            for token in self.following(request, count)
        ]


class Replay:
    """Proposes from a record; where a draft model is given, in the time that the model takes."""

    name = "recorded answers"

    def __init__(self, recorded: Recorded, instead_of: Proposer | None = None) -> None:
        self._recorded = recorded
        self._instead_of = instead_of
        self.stops_early = instead_of is not None and instead_of.stops_early
        self.holds_memory = instead_of is not None and instead_of.holds_memory
        self.chained: Chaining | None = None
        if instead_of is not None and instead_of.chained is not None:
            self.chained = _ReplayedChains(recorded, instead_of.chained)

    def propose(self, asked: Sequence[Asked], stays: Sequence[float]) -> list[Proposal]:
        """Draft for each answer that asks, as many tokens as the draft model would."""
        if self._instead_of is None:
            return [
                Proposal(Drafted(self._recorded.draft(each.request, each.room))) for each in asked
            ]
        proposals = self._instead_of.propose(asked, stays)
        return [
            self._replaced(each.request, proposal, self._instead_of.name)
            for each, proposal in zip(asked, proposals, strict=True)
        ]

    def release(self) -> None:
        """Give the draft model's memory back."""
        if self._instead_of is not None:
            self._instead_of.release()

    def _replaced(self, request: Request, proposal: Proposal, name: str) -> Proposal:
        tokens = self._recorded.draft(request, len(proposal.drafted.tokens))
        if request.history is not None and (followed := request.history.followed.get(name)):
            # It counts as having read what stands in place of its own tokens: else it would read
            # them again, which a draft that is right need not.
            followed.ahead = tokens[: len(followed.ahead)]
        return Proposal(Drafted(tokens), proposal.confidences[: len(tokens)], proposal.ready)


class _ReplayedChains:
    """Chains of a draft model, with recorded tokens in place of its own."""

    def __init__(self, recorded: Recorded, instead_of: Chaining) -> None:
        self._recorded = recorded
        self._instead_of = instead_of
        self.go_on = instead_of.go_on
        self.told = instead_of.told

    def begin(self, asked: Sequence[Asked]) -> Unread | None:
        """As many tokens as the draft model would draft, in its time."""
        drafted = self._instead_of.begin(asked)
        if drafted is not None:
            width = drafted.tokens.shape[1]
            told = [self._recorded.draft(each.request, width) for each in asked]
            told = [[*tokens, *[0] * (width - len(tokens))] for tokens in told]
            # Where the model has put its own, so that it goes on as if these were those.
            drafted.tokens.copy_(on_device(np.array(told, np.int64), drafted.tokens.device))
        return drafted
