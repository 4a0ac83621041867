"""Decides what each forward pass computes. Pure Python over integers: no tensors, no clock.

    waiting ──a slot is free──► reading ──prompt is read──► decoding ──finish──► gone
       └────────────abort────────────┴────────────abort─────────┘

Every decoding request gets its token in every step; prompts share what is left of the step's
budget in order of arrival. So a long prompt delays the others' next token by one step at most,
and the oldest prompt moves in every step: a slot that reads is one that does not decode, and
the budget has a token for every slot.
"""

from aweigh_runtime.engine.request import Request
from aweigh_runtime.model.chunks import Chunk


class Scheduler:
    """Continuous batching over a fixed number of slots."""

    def __init__(self, max_running: int, step_tokens: int, max_model_len: int) -> None:
        self._step_tokens = step_tokens
        self._max_model_len = max_model_len
        self._free_slots = list(reversed(range(max_running)))
        self._waiting: dict[int, Request] = {}  # oldest first
        self._running: dict[int, Request] = {}  # by slot, oldest first
        self._slot_of: dict[int, int] = {}
        self.waiting_prompt_tokens = 0

    @property
    def num_running(self) -> int:
        """Requests that hold a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """There is nothing to compute."""
        return not self._running and not self._waiting

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            RequestTooLong: it could never fit into a slot.
        """
        if not request.tokens or request.max_tokens > self._max_model_len:
            raise RequestTooLong(request, self._max_model_len)
        self._waiting[request.id] = request
        self.waiting_prompt_tokens += len(request.tokens)

    def abort(self, id: int) -> None:
        """Drop a request wherever it stands; one that has finished meanwhile is no error."""
        if id in self._waiting:
            self.waiting_prompt_tokens -= len(self._waiting.pop(id).tokens)
        elif id in self._slot_of:
            self.finish(self._running[self._slot_of[id]])

    def finish(self, request: Request) -> None:
        """Drop a running request that is done; its slot is free for the next step."""
        del self._running[request.slot]
        del self._slot_of[request.id]
        self._free_slots.append(request.slot)

    def holder(self, slot: int) -> Request:
        """The request that a chunk belongs to."""
        return self._running[slot]

    def step(self) -> list[Chunk]:
        """Choose the next forward pass: O(running requests)."""
        self._admit()
        decoding = [request for request in self._running.values() if request.pending == 1]
        chunks = [_chunk(request, 1) for request in decoding]
        budget = self._step_tokens - len(chunks)
        for request in self._running.values():
            if request.pending > 1 and budget > 0:
                chunks.append(_chunk(request, min(request.pending, budget)))
                budget -= chunks[-1].num_tokens
        return chunks

    def _admit(self) -> None:
        while self._waiting and self._free_slots:
            request = self._waiting.pop(next(iter(self._waiting)))
            self.waiting_prompt_tokens -= len(request.tokens)
            request.slot = self._free_slots.pop()
            self._running[request.slot] = request
            self._slot_of[request.id] = request.slot


class RequestTooLong(ValueError):
    """A request could never fit, however idle the server."""

    def __init__(self, request: Request, max_model_len: int) -> None:
        super().__init__(
            f"request {request.id} has {len(request.tokens)} prompt tokens and may grow to "
            f"{request.max_tokens}; expected at least 1, and at most {max_model_len} altogether. "
            "Shorten the prompt or lower max_tokens."
        )


def _chunk(request: Request, num_tokens: int) -> Chunk:
    return Chunk(request.slot, request.computed, num_tokens)
