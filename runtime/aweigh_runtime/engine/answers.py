"""Adds new tokens to requests, up to the one that ends the answer, and tells what they became."""

from collections.abc import Sequence

import torch

from aweigh_runtime.engine.counting import count_new, count_read
from aweigh_runtime.engine.messages import Failure, FinishReason, Output, TokenLogprobs
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling.choice import Sampler
from aweigh_runtime.engine.sampling.continued import Continued
from aweigh_runtime.engine.sampling.pending import RowFailure
from aweigh_runtime.engine.sampling.verification import Drafted
from aweigh_runtime.engine.scheduler import Part, Scheduler


class Answers:
    """What steps add to the answers of a scheduler's requests."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.failures: list[Failure] = []  # since somebody has taken them

    def add(
        self,
        complete: Sequence[Part],
        behind: Sequence[Drafted],
        continued: Continued,
        token_s: float,
    ) -> tuple[list[Output], dict[int, int]]:
        """Record one step.

        Args:
            complete: parts behind which there are new tokens; what is gone by now is left out.
            behind: what was drafted for each of them.
            continued: the new tokens.
            token_s: that computing a token of a prompt takes.

        Returns:
            What has changed, and how many drafted tokens stayed, by the id of the request; one that
            has failed is missing there.
        """
        outputs = []
        stayed: dict[int, int] = {}
        for index, part in enumerate(complete):
            if part.request.gone:
                continue
            output = self._record(part, continued, index, len(behind[index].tokens), token_s)
            if output is not None:
                outputs.append(output)
            if not self._failed(part.request, continued.failures.get(index)):
                stayed[part.request.id] = continued.kept[index]
        return outputs, stayed

    def _failed(self, request: Request, failure: RowFailure | None) -> bool:
        """End an answer that cannot go on; what befell it behind its end is of no account."""
        if failure is None or request.gone:
            return False
        if failure.kind == "internal":
            self._scheduler.distrust(request)
        else:
            self._scheduler.finish(request)
        self.failures.append(Failure(request.id, failure.kind, failure.message))
        return True

    def _record(
        self, part: Part, continued: Continued, index: int, drafted: int, token_s: float
    ) -> Output | None:
        request = part.request
        if request.max_tokens == request.num_prompt_tokens:  # only the prompt was to be read
            if index in continued.failures:
                return None
            self._scheduler.finish(request)
            return self._first_output(request, [], "length", None, token_s)
        first = request.num_known == request.num_prompt_tokens
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
        return self._first_output(request, tokens, finish, scores, token_s)

    def _first_output(
        self,
        request: Request,
        tokens: list[int],
        finish: FinishReason | None,
        scores: list[TokenLogprobs] | None,
        token_s: float,
    ) -> Output:
        looked_up = self._scheduler.prefixes.serves(request)
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


def scores_prompt(part: Part) -> bool:
    """Whether somebody wants to know how likely the part's tokens were."""
    return part.request.prompt_logprobs is not None and not part.request.answering


def score_prompt(sampler: Sampler, part: Part, logits: torch.Tensor) -> None:
    """How likely the prompt's tokens were, each after those before it.

    Args:
        sampler: of the model's vocabulary.
        part: whose request is told.
        logits: [tokens of the part, V].
    """
    request, scores = part.request, part.request.prompt_scores
    first = len(scores)  # the token that the next score is for; later ones after a preemption
    targets = request.tokens[first : min(part.end + 1, request.num_prompt_tokens)]
    if targets:
        rows = logits[first - 1 - part.start :][: len(targets)]
        scores += sampler.prompt_logprobs(rows, targets, request.prompt_logprobs or 0)


def _append(request: Request, tokens: list[int]) -> tuple[list[int], FinishReason | None]:
    """Those that join the answer: after the one that ends it there are none."""
    joined: list[int] = []
    for token in tokens:
        joined.append(token)
        request.join(token)
        if token in request.stop_tokens:
            return joined, "stop"
        if len(request.tokens) >= request.max_tokens:
            return joined, "length"
    return joined, None
