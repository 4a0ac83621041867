"""Drafts what followed the last tokens when they stood earlier in prompt or answer.

Pure Python (prompt lookup decoding; Saxena, 2023). What is new is read over several steps where it
is much: nobody waits for it.
"""

from collections.abc import Sequence

from aweigh_runtime.engine.repeats import Index
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling.verification import Drafted
from aweigh_runtime.engine.speculation.proposer import Asked, Proposal

READ_AT_ONCE = 8192  # tokens of all answers in one step: about 3 ms


class NGram:
    """Proposes by looking up. It needs no model and no memory of the device."""

    name = "n-gram lookup"
    stops_early = False
    holds_memory = False
    chained = None

    def propose(self, asked: Sequence[Asked], stays: Sequence[float]) -> list[Proposal]:
        """Draft for each answer that asks; a confidence is not known."""
        del stays
        left = READ_AT_ONCE
        proposals = []
        for each in asked:
            index = self._index(each.request)
            unread = index.unread
            index.read(left)
            left -= min(unread, left)
            ready = index.unread == 0
            drafted = Drafted(index.following(each.room) if ready else ())
            proposals.append(Proposal(drafted, ready=ready))
        return proposals

    def release(self) -> None:
        """There is nothing to give back."""

    def _index(self, request: Request) -> Index:
        history = request.history
        assert history is not None
        if history.index is None:
            history.index = Index(request.tokens)
        return history.index
