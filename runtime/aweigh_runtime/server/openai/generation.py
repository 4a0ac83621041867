"""The answers of one HTTP request: tokens become text, ends are found, times are kept."""

import time
from types import TracebackType
from typing import Self

from aiohttp import web

from aweigh_api import metrics
from aweigh_api.routing import Resume
from aweigh_http.errors import ApiError
from aweigh_runtime.engine.client import LeftUnread, RequestFailed
from aweigh_runtime.engine.messages import Output, Submission
from aweigh_runtime.server.errors import left_unread, request_failed
from aweigh_runtime.server.openai.choice import Choice, Delta, single_tokens
from aweigh_runtime.server.openai.resuming import beyond_the_end
from aweigh_runtime.server.openai.submissions import Order, Prompt, submissions
from aweigh_runtime.server.openai.timing import Timing
from aweigh_runtime.server.service import Model, Service
from aweigh_runtime.text.growing import GrowingText
from aweigh_runtime.text.stops import StopFinder


class Generation:
    """Use as a context: leaving it frees whatever the engine still computes for it."""

    def __init__(self, service: Service, model: Model, order: Order) -> None:
        wanted = submissions(order, model)
        self.order = order
        self._service = service
        self._n = order.n
        self._started_s = time.monotonic()
        self.failed = False  # for a reason that is not the client's
        self.num_prompt_tokens = sum(len(prompt.tokens) for prompt in order.prompts)
        if order.resume is None:  # else it has arrived elsewhere
            service.figures.arrived(len(order.prompts), self.num_prompt_tokens)
        self._choices = [
            _choice(order, model, index, prompt)
            for index, prompt in enumerate(each for each in order.prompts for _ in range(order.n))
        ]
        self._timings = [Timing(self._started_s, service.figures.observe) for _ in self._choices]
        self._prompt_lengths = [len(each.prompt) - each.begun for each in wanted]
        self.resumed = [] if order.resume is None else self._go_on(order.resume, model, wanted)
        self._open = [index for index, each in enumerate(self._choices) if each.finish is None]
        # Of those that may have to wait, by choice, until their first token.
        self._waiting = {i: len(wanted[i].prompt) for i in self._open if not order.routed}
        self._expect_room()
        self._ticket = service.engine.submit(
            [wanted[index] for index in self._open], streamed=bool(order.asked.stream)
        )
        service.waiting_prompts.add(sum(self._waiting.values()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._service.engine.abort(self._ticket.ids)
        self._service.waiting_prompts.remove(sum(self._waiting.values()))
        self.failed = self.failed or isinstance(error, ApiError)
        self._count()

    @property
    def choices(self) -> list[Choice]:
        """The answers, in order."""
        return self._choices

    @property
    def num_answer_tokens(self) -> int:
        """Tokens generated so far, end tokens among them."""
        return sum(choice.num_tokens for choice in self._choices)

    @property
    def num_cached_tokens(self) -> int:
        """Of the prompts. Of several answers to one prompt the first counts: others find its."""
        return sum(choice.cached_tokens for choice in self._choices[:: self._n])

    @property
    def first_token_s(self) -> float | None:
        """From the request's arrival to the first token of any answer."""
        return min(
            (t.first_token_s for t in self._timings if t.first_token_s is not None), default=None
        )

    @property
    def endings(self) -> list[str]:
        """How each answer has ended."""
        return [choice.finish or ("error" if self.failed else "abort") for choice in self._choices]

    @property
    def done(self) -> bool:
        """Every answer has ended."""
        return all(choice.finish is not None for choice in self._choices)

    async def next(self) -> list[Delta]:
        """Wait for news and return them, also what does not show; of many, the first ones.

        Raises:
            ApiError: the engine is gone or cannot do it, the client is too slow, or the server must
                end.
        """
        try:
            arrived = await self._ticket.next()
        except RequestFailed as error:
            raise request_failed(error.kind, str(error)) from error
        except LeftUnread as error:
            raise left_unread() from error
        now_s = time.monotonic()
        return [
            delta
            for index, output in arrived
            for delta in self._advance(self._open[index], output, now_s)
        ]

    def _expect_room(self) -> None:
        """For the prompts that will wait.

        Raises:
            ApiError: too many wait already.
        """
        try:
            self._service.waiting_prompts.expect_room(sum(self._waiting.values()))
        except ApiError:
            self._service.figures.turned_away(len(self.order.prompts))
            raise

    def _go_on(self, resume: Resume, model: Model, wanted: list[Submission]) -> list[Delta]:
        """What each answer has become elsewhere.

        Raises:
            ApiError: one goes on after its end.
        """
        ends = frozenset() if self.order.grammar is None else model.defaults.stop_tokens
        deltas = []
        for choice, answer, each in zip(self._choices, resume.answers, wanted, strict=True):
            delta = choice.go_on(answer.tokens, ends | set(each.stop_tokens), each.max_tokens)
            if choice.num_tokens < len(answer.tokens):
                raise beyond_the_end(delta.choice)
            if answer.finished:
                choice.finish = choice.finish or "length"
            deltas.append(delta)
        return deltas

    def _steps(self, output: Output) -> list[Output]:
        """One for each token where that makes what is told of text and tokens exact."""
        one_by_one = self.order.routed and self.order.may_call and len(output.tokens) > 1
        return single_tokens(output) if one_by_one else [output]

    def _advance(self, index: int, output: Output, now_s: float) -> list[Delta]:
        choice = self._choices[index]
        if choice.finish is not None:
            return []
        self._service.waiting_prompts.remove(self._waiting.pop(index, 0))
        self._timings[index].arrived(now_s, len(output.tokens), output.queued_s)
        deltas = [choice.advance(step) for step in self._steps(output)]
        if choice.stopped_early and output.finish is None:
            self._service.engine.abort([output.id])
        return deltas

    def _count(self) -> None:
        figures = self._service.figures
        figures.ended.update(self.endings)
        for choice, timing, length in zip(
            self._choices, self._timings, self._prompt_lengths, strict=True
        ):
            if choice.finish is not None:
                timing.ended(length)
        if self.done:
            figures.finished_requests += len(self.order.prompts)
            figures.finished_output_tokens += self.num_answer_tokens
            figures.observe(metrics.REQUEST_LATENCY, time.monotonic() - self._started_s)


GENERATION = web.RequestKey("generation", Generation)  # where the log finds a request's figures


def _choice(order: Order, model: Model, index: int, prompt: Prompt) -> Choice:
    asked = order.asked
    detokenizer = model.tokenizer.detokenizer(
        keep_special=asked.skip_special_tokens is False, spelled=order.spelled
    )
    stops = StopFinder(asked.stops, keep=bool(asked.include_stop_str_in_output))
    text = GrowingText(detokenizer, stops, asked.min_tokens or 0)
    exact = order.routed and asked.alternatives is not None  # none can be told later
    return Choice(index, prompt, asked, text, whole_tokens=exact)
