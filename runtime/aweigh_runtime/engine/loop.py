"""The step loop: take in what is new, schedule, compute, sample, report."""

import time
from collections.abc import Callable, Sequence

import torch

from aweigh_runtime.engine import sampling
from aweigh_runtime.engine.messages import Counters, FinishReason, Output, Stepped, Work
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling import Row
from aweigh_runtime.engine.scheduler import Scheduler
from aweigh_runtime.model.chunks import Chunk

Forward = Callable[[list[int], Sequence[Chunk]], torch.Tensor]
"""Tokens of all chunks, packed, and the chunks; gives logits [S, V], fp32, one row per chunk."""


class Engine:
    """Runs forward passes for as long as there are requests. One thread owns it."""

    def __init__(self, scheduler: Scheduler, forward: Forward) -> None:
        self._scheduler = scheduler
        self._forward = forward
        self._counters = Counters()

    @property
    def idle(self) -> bool:
        """There is nothing to compute."""
        return self._scheduler.idle

    def take(self, work: Work) -> None:
        """Add new requests and drop those that nobody waits for."""
        for submission in work.submitted:
            self._scheduler.add(Request.of(submission))
        for id in work.aborted:
            self._scheduler.abort(id)

    def step(self) -> Stepped:
        """Run one forward pass, if there is anything to compute."""
        started = time.perf_counter()
        chunks = self._scheduler.step()
        outputs = self._compute(chunks) if chunks else []
        return Stepped(
            outputs=outputs,
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            waiting_prompt_tokens=self._scheduler.waiting_prompt_tokens,
            counters=self._counters,
            duration_s=time.perf_counter() - started if chunks else None,
        )

    def _compute(self, chunks: list[Chunk]) -> list[Output]:
        requests = [self._scheduler.holder(chunk.slot) for chunk in chunks]
        tokens: list[int] = []
        for request, chunk in zip(requests, chunks, strict=True):
            tokens += request.tokens[chunk.start : chunk.end]
        logits = self._forward(tokens, chunks)

        for request, chunk in zip(requests, chunks, strict=True):
            self._count(request, chunk)
            request.computed = chunk.end
        complete = [index for index, request in enumerate(requests) if request.pending == 0]
        if not complete:  # only parts of long prompts: nothing to predict yet
            return []
        rows = [Row(requests[i].sampling, len(requests[i].tokens)) for i in complete]
        chosen = sampling.choose(logits[complete], rows)
        return [self._record(requests[i], t) for i, t in zip(complete, chosen, strict=True)]

    def _count(self, request: Request, chunk: Chunk) -> None:
        if chunk.start < request.num_prompt_tokens:
            self._counters.computed_prompt_tokens += chunk.num_tokens
        else:
            self._counters.decoded_rows += 1
            self._counters.decode_tokens += 1
            self._counters.kv_tokens_read += chunk.end

    def _record(self, request: Request, token: int) -> Output:
        request.tokens.append(token)
        self._counters.generated_tokens += 1
        finish: FinishReason | None = None
        if token in request.stop_tokens:
            finish = "stop"
        elif len(request.tokens) >= request.max_tokens:
            finish = "length"
        if finish is not None:
            self._scheduler.finish(request)
        return Output(request.id, token, finish)
