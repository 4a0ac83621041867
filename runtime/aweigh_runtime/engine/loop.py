"""The step loop: take in what is new, schedule, compute, sample, report.

A step is launched, then read: planned and given to the device, then its tokens are recorded. On a
GPU the next one is launched in between, wherever nothing but those tokens is missing (`run_ahead`).
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import Protocol, TypeVar

import torch

from aweigh_runtime.engine.answers import Answers, score_prompt, scores_prompt
from aweigh_runtime.engine.grammars import Compiled
from aweigh_runtime.engine.messages import Failure, Output, Stepped, Submission, Work
from aweigh_runtime.engine.out_of_memory import out_of_memory, return_unused_memory
from aweigh_runtime.engine.prefixes import Copies
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.run_ahead import Launched, advance, assume, nobody, packed, placeholders
from aweigh_runtime.engine.sampling.choice import Sampler
from aweigh_runtime.engine.sampling.continued import Continued, single
from aweigh_runtime.engine.sampling.pending import Pending
from aweigh_runtime.engine.sampling.row import Way
from aweigh_runtime.engine.sampling.verification import Drafted, Unread
from aweigh_runtime.engine.sampling.verifying import Verifying
from aweigh_runtime.engine.scheduler import Lookahead, Part, RequestTooLong, Scheduler
from aweigh_runtime.engine.speculation.speculator import Speculator
from aweigh_runtime.engine.speed import PromptSpeed
from aweigh_runtime.engine.step_fit import Load, StepFitter
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.step_inputs import Tokens

Forward = Callable[[Tokens, Sequence[Chunk]], torch.Tensor]
"""Tokens of all chunks, packed, and the chunks; gives their logits [sum of num_logits, V], fp32.

Tokens that are on the device are int64. The next call may write over the logits.
"""

T = TypeVar("T")

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
    """Runs forward passes for as long as there are requests. One thread owns it.

    Two may be set before the first step: `runs_ahead`, a step is launched before the last one is
    read, and a `step_fitter` that knows steps already.
    """

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
        self.runs_ahead = False
        self.step_fitter = StepFitter()
        self._next: Launched | None = None  # launched already
        self._wanted: Lookahead | None = None  # drafts of the next step, if that was asked already
        self._finished_s = 0.0  # when the last step's tokens had been recorded
        self._compiling: dict[int, Submission] = {}
        self._answers = Answers(scheduler)
        self._failures = self._answers.failures  # since the last report
        self._prompt_speed = PromptSpeed()

    @property
    def patience_s(self) -> float:
        """How long the loop may wait for messages before the next step."""
        if not self._scheduler.idle or self._next is not None or self._failures:
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
        """Finish one step, if there is anything to compute; the next one may have begun by then."""
        self._add_compiled()
        current, self._next = self._next or self._launch(), None
        if current is None:
            return self._report([], None, 0)
        if current.pending is not None:
            self._wanted = self._lookahead(time.monotonic())
            if self._wanted is None:
                assume(current, self._scheduler)
                self._next = self._launch(current.pending)
            else:  # drafts follow tokens that the host must know
                advance(current.parts, self._scheduler)
        elif current.verifying is not None:
            self._draft_on(current.verifying)
        outputs = self._read(current)
        now_s = time.monotonic()  # a step that was launched ahead has run since the last one ended
        seconds, self._finished_s = now_s - max(current.started_s, self._finished_s), now_s
        if outputs is not None:
            self._observe(current, seconds)
        return self._report(outputs or [], seconds, current.num_tokens)

    def _draft_on(self, verifying: Verifying) -> None:
        """Begin the next step's drafts behind what is still being verified, if there will be some.

        Who is let in will begin a prompt, and no drafts are unread in a step that reads one.
        """
        self._wanted = self._lookahead(time.monotonic()) or nobody
        drafting = self._wanted is not nobody and not self._scheduler.may_admit
        if drafting and self._speculator is not None:
            self._speculator.go_on(verifying.chosen)

    def _lookahead(self, now_s: float) -> Lookahead | None:
        """What is to be drafted in the next step; to be asked once for each."""
        if self._speculator is None:
            return None
        return self._speculator.lookahead(self._scheduler.num_running, now_s)

    def _report(self, outputs: list[Output], duration_s: float | None, num_tokens: int) -> Stepped:
        scheduler = self._scheduler
        failures = self._failures[:]
        self._failures.clear()
        return Stepped(
            outputs=outputs,
            failures=failures,
            running=scheduler.num_running,
            waiting=self._waiting_requests(),
            waiting_prompt_tokens=scheduler.waiting_prompt_tokens,
            counters=scheduler.counters,
            kv=scheduler.kv_tokens(time.monotonic()),
            unshared_tokens_per_request=scheduler.unshared_tokens_per_request(),
            duration_s=duration_s,
            num_tokens=num_tokens,
            step_fit=self.step_fitter.fit,
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

    def _launch(self, last: Pending | None = None) -> Launched | None:
        """Plan the next step and begin it; None: there is nothing to compute, or no memory.

        Args:
            last: what the step before has chosen, if the host has not read it.
        """
        started_s = time.monotonic()
        wanted, self._wanted = self._wanted, None
        if wanted is None and last is None:  # else it was asked, and nothing is to be drafted
            wanted = self._lookahead(started_s)
        step = self._scheduler.step(started_s, wanted)
        parts = step.parts
        if not self._copied(step.copies) or not parts:
            return None
        begin = partial(self._begin, parts, last, started_s)
        return self._within_memory(parts, begin, alone=last is None)

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

    def _within_memory(
        self, parts: list[Part], work: Callable[[], T], *, alone: bool = True
    ) -> T | None:
        """What `work` gives for the step planned last; None: it is undone for lack of memory.

        `alone`: the step before has been read. What that holds may suffice for this one.
        """
        try:
            return work()
        except Exception as error:
            if not out_of_memory(error):
                raise
        self._scheduler.undo()
        if self._speculator is not None:
            self._speculator.undo()
        if alone and not any(part.request.gone for part in parts):  # else it will be smaller
            self._give_up_the_largest(parts)
        return_unused_memory()
        return None

    def _give_up_the_largest(self, parts: list[Part]) -> None:
        """There was no memory for this step: it is repeated without the request that needs most.

        Drafts go first, then a draft model that is of no use at present.
        """
        if self._speculator is not None and any(part.room for part in parts):
            self._speculator.rest()
        elif self._speculator is None or not self._speculator.release_idle():
            largest = max(parts, key=_memory)
            self._scheduler.abort(largest.request.id)
            message = (
                f"there is no memory left to compute {largest.num_tokens} tokens of this request"
            )
            self._failures.append(Failure(largest.request.id, "out_of_memory", message))

    def _begin(self, parts: list[Part], last: Pending | None, started_s: float) -> Launched:
        unread = self._unread(parts) if last is None else None
        if unread is not None and unread.ahead:  # its drafts have run since the last one ended
            started_s = self._finished_s
        drafted = self._drafted(parts) if unread is None else placeholders(unread)
        tokens: list[int] = []
        chunks: list[Chunk] = []
        for index, part in enumerate(parts):
            request, ahead = part.request, drafted[index].tokens if index in drafted else ()
            tokens += request.tokens[part.start : part.end]
            tokens += ahead
            count = part.num_tokens + len(ahead)
            logits = _num_logits(part) + len(ahead)
            chunks.append(Chunk(part.start, count, request.blocks, logits))
        found = self._forward(packed(tokens, parts, last, unread), chunks)

        complete: list[Part] = []
        behind: list[Drafted] = []
        rows: list[int] = []  # of the logits that predict new tokens
        num_rows = 0
        for index, (part, chunk) in enumerate(zip(parts, chunks, strict=True)):
            num_rows += chunk.num_logits
            if scores_prompt(part):
                score_prompt(self._sampler, part, found[num_rows - chunk.num_logits : num_rows])
            if part.end == len(part.request.tokens):
                complete.append(part)
                behind.append(drafted.get(index, _NOTHING))
                rows.extend(range(num_rows - 1 - len(behind[-1].tokens), num_rows))
        wanted = found if len(rows) == num_rows else found[rows]
        plain = self.runs_ahead and not any(part.room for part in parts)
        pending = self._choosing(complete, wanted) if plain else None
        verifying = None if unread is None else self._verifying(complete, wanted, unread)
        if pending is not None or verifying is not None:
            wanted = wanted.new_empty(0)  # what nobody reads is not kept
        return Launched(
            parts, started_s, complete, behind, wanted, pending, verifying, last is not None
        )

    def _unread(self, parts: list[Part]) -> Unread | None:
        """Drafts that nobody looks at before they are verified; None: somebody has to."""
        if self._speculator is None or not self.runs_ahead:
            return None
        rows = [part.request.row for part in parts]
        if any(row.special or row.way is not Way.GREEDY for row in rows):
            return None
        return self._speculator.begin(parts)

    def _verifying(self, complete: list[Part], logits: torch.Tensor, drafted: Unread) -> Verifying:
        return self._sampler.begin_verifying(
            logits, [part.request.row for part in complete], drafted
        )

    def _drafted(self, parts: list[Part]) -> dict[int, Drafted]:
        if self._speculator is None or not any(part.room for part in parts):
            return {}
        return self._speculator.propose(parts)

    def _choosing(self, complete: list[Part], logits: torch.Tensor) -> Pending | None:
        """The new tokens on the device; None: the host has to see each before the next."""
        rows = [part.request.row for part in complete]
        if not rows or any(row.special for row in rows):
            return None
        return self._sampler.begin(logits, rows)

    def _read(self, step: Launched) -> list[Output] | None:
        """Record the new tokens; None: there was no memory to choose them."""
        complete, behind = step.complete, step.behind
        if step.pending is not None:
            continued = single(step.pending.chosen())
        elif step.verifying is not None:
            verified = step.verifying.read()
            continued = verified.continued
            if self._speculator is not None:
                self._speculator.told(verified)
            advance(step.parts, self._scheduler)
        else:
            found = self._within_memory(
                step.parts, lambda: self._continued(complete, behind, step.logits)
            )
            if found is None:
                return None
            continued = found
            advance(step.parts, self._scheduler)
        token_s = self._prompt_speed.token_s or 0.0
        outputs, stayed = self._answers.add(complete, behind, continued, token_s)
        if self._speculator is not None:
            self._speculator.verified(stayed)
        return outputs

    def _continued(
        self, complete: list[Part], behind: list[Drafted], logits: torch.Tensor
    ) -> Continued:
        rows = [part.request.row for part in complete]
        if any(each.tokens for each in behind):
            return self._sampler.verify(logits, rows, behind)
        return single(self._sampler.choose(logits, rows))

    def _observe(self, step: Launched, seconds: float) -> None:
        parts = step.parts
        answers = sum(part.num_tokens == 1 for part in parts)
        others = step.num_tokens - answers
        undrafted_s = seconds
        if self._speculator is not None:
            steady = step.ahead or step.pending is None
            undrafted_s = self._speculator.took(len(step.behind), seconds, others, steady=steady)
        self._prompt_speed.observe(others, answers, undrafted_s)
        kv_tokens = sum(part.end for part in parts if part.num_tokens == 1)
        drafted = sum(len(each.tokens) for each in step.behind)
        self.step_fitter.observe(Load(others, answers, kv_tokens, drafted), seconds)
        self._scheduler.prefixes.judge_loading(self._prompt_speed.token_s)


_NOTHING = Drafted()


def _memory(part: Part) -> int:
    """What a part needs in a step, in tokens."""
    return part.num_tokens + _LOGITS_WEIGHT * _num_logits(part)


def _num_logits(part: Part) -> int:
    """Rows of logits that somebody looks at."""
    if scores_prompt(part):
        return part.num_tokens
    return 1 if part.end == len(part.request.tokens) else 0
