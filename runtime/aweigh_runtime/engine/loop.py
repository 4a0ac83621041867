"""The step loop: take in what is new, schedule, compute, sample, report."""

import time
from collections.abc import Callable, Sequence
from math import ceil
from typing import Protocol

import torch

from aweigh_runtime.engine.counting import count_computed, count_new, count_read
from aweigh_runtime.engine.grammars import Compiled
from aweigh_runtime.engine.messages import (
    Failure,
    FinishReason,
    Output,
    Stepped,
    Submission,
    TokenLogprobs,
    Work,
)
from aweigh_runtime.engine.out_of_memory import out_of_memory, return_unused_memory
from aweigh_runtime.engine.prefixes import Copies
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling.choice import Continued, Sampler
from aweigh_runtime.engine.sampling.verification import Drafted
from aweigh_runtime.engine.scheduler import Lookahead, Part, RequestTooLong, Scheduler
from aweigh_runtime.engine.speculation.speculator import Speculator
from aweigh_runtime.engine.speed import PromptSpeed
from aweigh_runtime.engine.step_fit import Load, StepFitter
from aweigh_runtime.model.chunks import Chunk

Forward = Callable[[list[int], Sequence[Chunk]], torch.Tensor]
"""Tokens of all chunks, packed, and the chunks; gives their logits [sum of num_logits, V], fp32."""

_LOGITS_WEIGHT = 8  # a row of logits takes about as much memory as so many tokens
_ROUNDING = 1e-6
IDLE_TICK_S = 1.0
COMPILING_TICK_S = 0.002


class Compiler(Protocol):
    """Compiles grammars beside the loop."""

    @property
    def stop_tokens(self) -> frozenset[int]:
        """Tokens that end an answer whose grammar is complete."""
        ...

    def submit(self, id: int, grammar: str, caller: bytes) -> None:
        """Begin, when it is the caller's turn."""
        ...

    def cancel(self, id: int) -> None:
        """Nobody waits for it any more."""
        ...

    def poll(self) -> Sequence[Compiled]:
        """What has become ready; never waits."""
        ...


class Engine:
    """Runs forward passes for as long as there are requests. One thread owns it."""

    def __init__(
        self,
        scheduler: Scheduler,
        forward: Forward,
        sampler: Sampler,
        compiler: Compiler,
        copy: Callable[[Copies], None],
        speculator: Speculator | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._forward = forward
        self._sampler = sampler
        self._compiler = compiler
        self._copy = copy
        self._speculator = speculator
        self._compiling: dict[int, Submission] = {}
        self._failures: list[Failure] = []  # since the last report
        self._prompt_speed = PromptSpeed()
        self._step_fitter = StepFitter()

    @property
    def patience_s(self) -> float:
        """How long the loop may wait for messages before the next step."""
        if not self._scheduler.idle or self._failures:
            return 0.0
        return COMPILING_TICK_S if self._compiling else IDLE_TICK_S

    def take(self, work: Work) -> None:
        """Add new requests and drop those that nobody waits for."""
        for submission in work.submitted:
            if submission.grammar is None:
                self._add(Request.of(submission))
            else:
                self._compiling[submission.id] = submission
                self._compiler.submit(submission.id, submission.grammar, submission.caller)
        for id in work.aborted:
            if self._compiling.pop(id, None) is not None:
                self._compiler.cancel(id)
            self._scheduler.abort(id)

    @torch.inference_mode()
    def step(self) -> Stepped:
        """Run one forward pass, if there is anything to compute."""
        started_s = time.monotonic()
        self._add_compiled()
        step = self._scheduler.step(started_s, self._lookahead(started_s))
        outputs: list[Output] = []
        if self._copied(step.copies) and step.parts:
            outputs = self._computed(step.parts, started_s)
        return self._report(outputs, started_s, sum(part.num_tokens for part in step.parts))

    def _lookahead(self, now_s: float) -> Lookahead | None:
        if self._speculator is None:
            return None
        return self._speculator.lookahead(self._scheduler.num_running, now_s)

    def _report(self, outputs: list[Output], started_s: float, num_tokens: int) -> Stepped:
        scheduler, now_s = self._scheduler, time.monotonic()
        failures, self._failures = self._failures, []
        return Stepped(
            outputs=outputs,
            failures=failures,
            running=scheduler.num_running,
            waiting=self._waiting_requests(),
            waiting_prompt_tokens=scheduler.waiting_prompt_tokens,
            counters=scheduler.counters,
            kv=scheduler.kv_tokens(now_s),
            unshared_tokens_per_request=scheduler.unshared_tokens_per_request(),
            duration_s=now_s - started_s if num_tokens else None,
            num_tokens=num_tokens,
            step_fit=self._step_fitter.fit,
            speculation=None if self._speculator is None else self._speculator.state,
        )

    def _waiting_requests(self) -> int:
        compiling = sum(1.0 / each.choices for each in self._compiling.values())
        return ceil(self._scheduler.waiting_requests + compiling - _ROUNDING)

    def _add(self, request: Request) -> None:
        try:
            self._scheduler.add(request, time.monotonic())
        except RequestTooLong as error:
            self._failures.append(Failure(request.id, "too_long", str(error)))

    def _add_compiled(self) -> None:
        if not self._compiling:
            return
        for compiled in self._compiler.poll():
            submission = self._compiling.pop(compiled.id, None)
            if submission is None:
                continue
            if compiled.matcher is None:
                self._failures.append(Failure(compiled.id, "grammar", compiled.error))
            else:
                request = Request.of(submission, compiled.matcher)
                request.stop_tokens |= self._compiler.stop_tokens
                self._add(request)

    def _copied(self, copies: Copies) -> bool:
        """Whether the step can be computed; without memory for its copies it is undone.

        It is planned again without them: what was to be loaded is computed, what was to be stored
        is lost. Nobody has to fail, and this ends: each time fewer blocks are left to be copied.
        """
        try:
            if copies:
                self._copy(copies)
        except Exception as error:
            if not out_of_memory(error):
                raise
        else:
            return True
        self._scheduler.undo(lost=copies.stored)
        return_unused_memory()
        return False

    def _computed(self, parts: list[Part], started_s: float) -> list[Output]:
        try:
            return self._compute(parts, started_s)
        except Exception as error:
            if not out_of_memory(error):
                raise
        self._give_up_the_largest(parts)
        return []

    def _give_up_the_largest(self, parts: list[Part]) -> None:
        """There was no memory for this step: it is repeated without the request that needs most.

        Drafts go first, then a draft model that is of no use at present.
        """
        self._scheduler.undo()
        if self._speculator is not None and any(part.room for part in parts):
            self._speculator.rest()
        elif self._speculator is None or not self._speculator.release_idle():
            largest = max(parts, key=_memory)
            self._scheduler.abort(largest.request.id)
            message = (
                f"there is no memory left to compute {largest.num_tokens} tokens of this request"
            )
            self._failures.append(Failure(largest.request.id, "out_of_memory", message))
        return_unused_memory()

    def _compute(self, parts: list[Part], started_s: float) -> list[Output]:
        drafted = self._drafted(parts)
        tokens: list[int] = []
        chunks: list[Chunk] = []
        for index, part in enumerate(parts):
            request, ahead = part.request, drafted[index].tokens if index in drafted else ()
            tokens += request.tokens[part.start : part.end]
            tokens += ahead
            count = part.num_tokens + len(ahead)
            logits = _num_logits(part) + len(ahead)
            chunks.append(Chunk(part.start, count, request.blocks, logits))
        found = self._forward(tokens, chunks)

        complete: list[Part] = []
        behind: list[Drafted] = []  # each of them
        rows: list[int] = []  # of the logits that predict new tokens
        num_rows = 0
        for index, (part, chunk) in enumerate(zip(parts, chunks, strict=True)):
            num_rows += chunk.num_logits
            if _scores_prompt(part):
                self._score_prompt(part, found[num_rows - chunk.num_logits : num_rows])
            if part.end == len(part.request.tokens):
                complete.append(part)
                behind.append(drafted.get(index, _NOTHING))
                rows.extend(range(num_rows - 1 - len(behind[-1].tokens), num_rows))
        wanted = found if len(rows) == num_rows else found[rows]
        outputs = self._continue(parts, complete, behind, wanted)
        self._observe(parts, behind, time.monotonic() - started_s)
        return outputs

    def _drafted(self, parts: list[Part]) -> dict[int, Drafted]:
        if self._speculator is None or not any(part.room for part in parts):
            return {}
        return self._speculator.propose(parts)

    def _continue(
        self,
        parts: list[Part],
        complete: list[Part],
        behind: list[Drafted],
        logits: torch.Tensor,
    ) -> list[Output]:
        """The next tokens of every request whose tokens have all been read."""
        continued = self._continued(complete, behind, logits)
        kept = dict(zip(map(id, complete), continued.kept, strict=True))
        for part in parts:
            count_computed(self._scheduler.counters, part)
            if not kept.get(id(part), 0):  # else when its tokens are known
                self._scheduler.advance(part, 0)
        outputs = []
        stayed: dict[int, int] = {}
        for index, part in enumerate(complete):
            request = part.request
            output = self._record(part, continued, index, len(behind[index].tokens))
            if output is not None:
                outputs.append(output)
            failure = None if request.gone else continued.failures.get(index)
            if failure is None:
                stayed[request.id] = continued.kept[index]
                continue
            if failure.kind == "internal":
                self._scheduler.distrust(request)
            else:
                self._scheduler.finish(request)
            self._failures.append(Failure(request.id, failure.kind, failure.message))
        if self._speculator is not None:
            self._speculator.verified(stayed)
        return outputs

    def _continued(
        self, complete: list[Part], behind: list[Drafted], logits: torch.Tensor
    ) -> Continued:
        rows = [part.request.row for part in complete]
        if any(each.tokens for each in behind):
            return self._sampler.verify(logits, rows, behind)
        chosen = self._sampler.choose(logits, rows)
        return Continued(
            tokens=[
                [] if index in chosen.failures else [token]
                for index, token in enumerate(chosen.tokens)
            ],
            kept=[0] * len(rows),
            logprobs={index: [one] for index, one in chosen.logprobs.items()},
            failures=chosen.failures,
        )

    def _score_prompt(self, part: Part, logits: torch.Tensor) -> None:
        """How likely the prompt's tokens were, each after those before it: [tokens, V]."""
        request, scores = part.request, part.request.prompt_scores
        first = len(scores)  # the token that the next score is for; later ones after a preemption
        targets = request.tokens[first : min(part.end + 1, request.num_prompt_tokens)]
        if targets:
            rows = logits[first - 1 - part.start :][: len(targets)]
            scores += self._sampler.prompt_logprobs(rows, targets, request.prompt_logprobs or 0)

    def _record(self, part: Part, continued: Continued, index: int, drafted: int) -> Output | None:
        """Add new tokens to an answer, up to the one that ends it."""
        request = part.request
        if request.max_tokens == request.num_prompt_tokens:  # only the prompt was to be read
            if index in continued.failures:
                return None
            self._scheduler.finish(request)
            return self._first_output(request, [], "length", None)
        first = not request.answering
        tokens, finish = _append(request, continued.tokens[index])
        kept = min(continued.kept[index], len(tokens))
        count_new(self._scheduler.counters, part, len(tokens), drafted, kept)
        if kept:
            self._scheduler.advance(part, kept)
        if finish is not None:
            self._scheduler.finish(request)
        if not tokens:
            return None
        scores = continued.logprobs.get(index)
        scores = None if scores is None else scores[: len(tokens)]
        if not first:
            return Output(request.id, tokens, finish, scores)
        return self._first_output(request, tokens, finish, scores)

    def _first_output(
        self,
        request: Request,
        tokens: list[int],
        finish: FinishReason | None,
        scores: list[TokenLogprobs] | None,
    ) -> Output:
        looked_up = self._scheduler.prefixes.serves(request)
        token_s = self._prompt_speed.token_s or 0.0
        count_read(self._scheduler.counters, request, looked_up=looked_up, token_s=token_s)
        return Output(
            request.id,
            tokens,
            finish,
            scores,
            cached_tokens=request.cached,
            prompt_logprobs=None if request.prompt_logprobs is None else request.prompt_scores,
            queued_s=(request.started_s or request.arrived_s) - request.arrived_s,
        )

    def _observe(self, parts: list[Part], behind: list[Drafted], seconds: float) -> None:
        answers = sum(part.num_tokens == 1 for part in parts)
        others = sum(part.num_tokens for part in parts) - answers
        undrafted_s = seconds
        if self._speculator is not None:
            undrafted_s = self._speculator.took(len(behind), seconds, others)
        self._prompt_speed.observe(others, answers, undrafted_s)
        kv_tokens = sum(part.end for part in parts if part.num_tokens == 1)
        drafted = sum(len(each.tokens) for each in behind)
        self._step_fitter.observe(Load(others, answers, kv_tokens, drafted), seconds)
        self._scheduler.prefixes.judge_loading(self._prompt_speed.token_s)


_NOTHING = Drafted()


def _memory(part: Part) -> int:
    """What a part needs in a step, in tokens."""
    return part.num_tokens + _LOGITS_WEIGHT * _num_logits(part)


def _append(request: Request, tokens: list[int]) -> tuple[list[int], FinishReason | None]:
    """Those that join the answer: after the one that ends it there are none."""
    joined: list[int] = []
    for token in tokens:
        joined.append(token)
        request.tokens.append(token)
        request.row.append(token)
        if token in request.stop_tokens:
            return joined, "stop"
        if len(request.tokens) >= request.max_tokens:
            return joined, "length"
    return joined, None


def _num_logits(part: Part) -> int:
    """Rows of logits that somebody looks at."""
    if _scores_prompt(part):
        return part.num_tokens
    return 1 if part.end == len(part.request.tokens) else 0


def _scores_prompt(part: Part) -> bool:
    return part.request.prompt_logprobs is not None and not part.request.answering
