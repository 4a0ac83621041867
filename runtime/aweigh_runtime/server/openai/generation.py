"""The answers of one HTTP request: tokens become text, ends are found, times are kept."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web

from aweigh_runtime.engine.messages import FinishReason, Output, Sampling
from aweigh_runtime.server.openai.errors import ApiError, invalid, too_long, too_many_bytes
from aweigh_runtime.server.openai.requests import Parameters
from aweigh_runtime.server.service import Model, Service
from aweigh_runtime.text.detokenizer import Detokenizer
from aweigh_runtime.text.stops import StopFinder

_MASK = (1 << 64) - 1
_CHOICE_STEP = 0xD1342543DE82EF95  # odd and far from splitmix64's increment


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of one answer."""

    choice: int
    text: str
    finish: FinishReason | None


@dataclass(slots=True)
class Progress:
    """How far one answer has come."""

    detokenizer: Detokenizer
    stops: StopFinder
    num_tokens: int = 0
    finish: FinishReason | None = None
    last_s: float = field(default=0.0)


class Generation:
    """Use as a context: leaving it frees whatever the engine still computes for it."""

    def __init__(
        self,
        service: Service,
        model: Model,
        prompts: Sequence[list[int]],
        asked: Parameters,
        limit: int | None,
    ) -> None:
        limits = [_limit(prompt, limit, model) for prompt in prompts]
        n = asked.n or 1
        self._service = service
        self._started_s = time.monotonic()
        self.failed = False  # for a reason that is not the client's
        self.num_prompt_tokens = sum(map(len, prompts))
        service.figures.arrived_prompt_tokens += self.num_prompt_tokens
        self._choices = [
            Progress(model.tokenizer.detokenizer(), StopFinder(asked.stops))
            for _ in range(n * len(prompts))
        ]
        self._ticket = service.engine.submit(
            prompts=[prompt for prompt in prompts for _ in range(n)],
            max_tokens=[limit for limit in limits for _ in range(n)],
            stop_tokens=sorted(model.defaults.stop_tokens),
            samplings=[_sampling(asked, model, s) for s in _seeds(asked, n * len(prompts))],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._service.engine.abort(self._ticket.ids)
        self.failed = self.failed or isinstance(error, ApiError)
        self._count()

    @property
    def num_choices(self) -> int:
        """Answers."""
        return len(self._choices)

    @property
    def num_answer_tokens(self) -> int:
        """Tokens generated so far, end tokens among them."""
        return sum(choice.num_tokens for choice in self._choices)

    @property
    def endings(self) -> list[str]:
        """How each answer has ended."""
        return [choice.finish or ("error" if self.failed else "abort") for choice in self._choices]

    @property
    def done(self) -> bool:
        """Every answer has ended."""
        return all(choice.finish is not None for choice in self._choices)

    async def next(self) -> list[Delta]:
        """Wait for news and return all of them, which may be none that shows.

        Raises:
            ApiError: the engine is gone, or the server must end.
        """
        arrived = await self._ticket.next()
        now_s = time.monotonic()
        deltas = [self._advance(choice, output, now_s) for choice, output in arrived]
        return [delta for delta in deltas if delta.text or delta.finish]

    def _advance(self, index: int, output: Output, now_s: float) -> Delta:
        choice = self._choices[index]
        if choice.finish is not None:  # what came with the token that completed a stop string
            return Delta(index, "", None)
        self._observe(choice, now_s)
        choice.num_tokens += 1
        text = "" if output.finish == "stop" else choice.detokenizer.feed(output.token)
        if output.finish is not None:
            text += choice.detokenizer.finish()
        text = choice.stops.feed(text)
        if choice.stops.found:
            choice.finish = "stop"
            self._service.engine.abort([output.id])
        elif output.finish is not None:
            choice.finish = output.finish
            text += choice.stops.finish()
        return Delta(index, text, choice.finish)

    def _observe(self, choice: Progress, now_s: float) -> None:
        figures = self._service.figures
        if choice.num_tokens == 0:
            figures.time_to_first_token.observe(now_s - self._started_s)
        else:
            figures.inter_token_latency.observe(now_s - choice.last_s)
        choice.last_s = now_s

    def _count(self) -> None:
        figures = self._service.figures
        figures.ended.update(self.endings)
        if self.done:
            figures.finished_requests += 1
            figures.finished_output_tokens += self.num_answer_tokens
            figures.request_latency.observe(time.monotonic() - self._started_s)


GENERATION = web.RequestKey("generation", Generation)  # where the log finds a request's figures


def expect_within_reach(model: Model, text: str) -> None:
    """Refuse a prompt that is too long whatever its tokens are; encoding it would take seconds.

    Raises:
        ApiError: it is.
    """
    num_bytes, token_bytes = len(text.encode()), model.tokenizer.longest_token_bytes
    if num_bytes > model.limits.max_model_len * token_bytes:
        raise too_many_bytes(num_bytes, token_bytes, model.limits.max_model_len)


def _limit(prompt: list[int], asked: int | None, model: Model) -> int:
    """Tokens that the answer may have. The engine relies on what is checked here."""
    if not prompt:
        raise invalid("The prompt is empty; expected at least one token.")
    room = model.limits.max_model_len - len(prompt)
    wanted = 1 if asked is None else asked
    if wanted > room:
        raise too_long(len(prompt), wanted, model.limits.max_model_len)
    if min(prompt) < 0 or max(prompt) >= model.limits.vocab_size:
        raise invalid(
            f"The prompt has token ids beyond the vocabulary of {model.limits.vocab_size}; "
            f"expected 0 to {model.limits.vocab_size - 1}.",
            "prompt",
        )
    return room if asked is None else asked


def _seeds(asked: Parameters, count: int) -> list[int]:
    """One per choice, so that choices differ and a seed gives the same ones again."""
    seed = secrets.randbits(64) if asked.seed is None else asked.seed
    return [(seed + choice * _CHOICE_STEP) & _MASK for choice in range(count)]


def _sampling(asked: Parameters, model: Model, seed: int) -> Sampling:
    defaults = model.defaults
    return Sampling(
        temperature=defaults.temperature if asked.temperature is None else asked.temperature,
        top_p=defaults.top_p if asked.top_p is None else asked.top_p,
        top_k=defaults.top_k if asked.top_k is None else max(asked.top_k, 0),
        min_p=asked.min_p or 0.0,
        seed=seed,
    )
