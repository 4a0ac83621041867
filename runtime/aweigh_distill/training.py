"""Trains a draft so that its target accepts more of what it proposes.

The loss begins as the forward Kullback-Leibler divergence of the draft from the target, which pulls
from any distance, and ends as their total variation distance, which is one minus the acceptance
itself (DistillSpec, Zhou et al. 2023, arXiv 2310.08461). The same seed gives the same steps.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from aweigh_distill.batch import batch_of, in_parts, new_cache
from aweigh_distill.student import Student
from aweigh_quantize.failures import Refusal
from aweigh_quantize.texts import Text, batches
from aweigh_runtime.model.decoder import Decoder

_BETAS = (0.9, 0.98)
_WEIGHT_DECAY = 0.01
_LARGEST_NORM = 1.0  # of all gradients together
_WARM_UP = 0.05  # of the steps, in which the rate rises
_LEAST_RATE = 0.02  # of the highest, at the end
_DIVERGENCE = (0.3, 0.6)  # of the steps: until the first KL alone, from the second TV alone
_AT_ONCE = 1 << 19  # logits that a gradient is computed of
_SPAN = 0.0384  # rate times hidden size, where nobody names a rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long, and how fast."""

    steps: int
    step_tokens: int  # about
    learning_rate: float
    seed: int

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine."""
        warm_up = max(1, round(_WARM_UP * self.steps))
        if step < warm_up:
            return self.learning_rate * (step + 1) / warm_up
        done = (step - warm_up) / max(1, self.steps - warm_up)
        falling = 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * (_LEAST_RATE + (1 - _LEAST_RATE) * falling)

    def share(self, step: int) -> float:
        """Of the total variation distance in the loss."""
        first, last = (edge * self.steps for edge in _DIVERGENCE)
        return min(1.0, max(0.0, (step - first) / (last - first)))


class Diverged(Refusal):
    """The draft has become useless; the message says when."""


def default_rate(hidden_size: int) -> float:
    """Wider models learn with smaller steps."""
    return _SPAN / hidden_size


class Training:
    """A student, its optimizer, and where they are."""

    def __init__(
        self, target: Decoder, student: Student, texts: Sequence[Text], schedule: Schedule
    ) -> None:
        self._target = target
        self._student = student
        self._texts = texts
        self._schedule = schedule
        self._vocab_size = target.config.vocab_size
        self._cache = new_cache(target, texts, self._vocab_size)
        weights = student.weights.values()
        groups: list[dict[str, Any]] = [
            {"params": [each for each in weights if each.dim() > 1]},
            {"params": [each for each in weights if each.dim() == 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(
            groups, lr=0.0, betas=_BETAS, weight_decay=_WEIGHT_DECAY
        )
        self.step = 0  # how many are done

    def run(self, finished: Callable[[], None]) -> None:
        """Do all steps that are left, and call after each.

        Raises:
            Diverged: a gradient is not finite.
        """
        for texts in _draws(self._texts, self._schedule, self.step):
            self._one(texts)
            self.step += 1
            finished()

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that the next steps depend on, by name."""
        found = {}
        for name, weight in self._student.weights.items():
            found[f"weight.{name}"] = weight.detach()
            for moment in ("exp_avg", "exp_avg_sq"):
                found[f"{moment}.{name}"] = self._optimizer.state[weight][moment]
        return found

    def restore(self, step: int, tensors: dict[str, torch.Tensor]) -> None:
        """Go on behind a step; `tensors` as they were there."""
        self.step = step
        for name, weight in self._student.weights.items():
            weight.data.copy_(tensors[f"weight.{name}"])
            self._optimizer.state[weight] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"exp_avg.{name}"].to(weight.device, copy=True),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(weight.device, copy=True),
            }

    def _one(self, texts: Sequence[Text]) -> None:
        num_rows = sum(text.num_predicted for text in texts)
        share = self._schedule.share(self.step)
        for part in in_parts(texts, self._vocab_size):
            batch = batch_of(part, self._target.device)
            wanted = self._target.forward(batch.tokens, batch.chunks, self._cache)
            found = self._student.logits(batch)
            found.backward(gradient(wanted, found, share).div_(num_rows))  # type: ignore[no-untyped-call]
        self._student.share_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self._student.weights.values(), _LARGEST_NORM)
        if not norm.isfinite():
            raise Diverged(
                f"training has diverged in step {self.step + 1} of {self._schedule.steps}: its "
                f"gradient is {norm.item()}; expected a finite one: give a --learning-rate lower "
                f"than {self._schedule.learning_rate:g}, and another --output"
            )
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate(self.step)
        self._optimizer.step()
        self._optimizer.zero_grad()


@torch.no_grad()
def gradient(target: torch.Tensor, draft: torch.Tensor, share: float) -> torch.Tensor:
    """How the loss of each row changes with the draft's logits.

    By hand and a few rows at a time, because a row is as long as the vocabulary: autograd would
    keep several of each, and all of them would leave the processor's caches.

        d KL / d logits = q - p
        d TV / d logits = q (Σ m q - m),   m = 1 where q < p, else 0

    Args:
        target: logits [R, V of the target].
        draft: logits [R, V of the draft]; see `accepted`.
        share: of the total variation distance in the loss; the rest is the KL divergence.

    Returns:
        [R, V of the draft], fp32.
    """
    found = torch.zeros_like(draft, dtype=torch.float32)
    step = max(1, _AT_ONCE // target.shape[-1])
    for first in range(0, len(target), step):
        rows = slice(first, first + step)
        _pull(target[rows], draft[rows], share, found[rows])
    return found


def _pull(target: torch.Tensor, draft: torch.Tensor, share: float, found: torch.Tensor) -> None:
    size = min(target.shape[-1], draft.shape[-1])
    p = target.float().softmax(-1)[:, :size]
    q = draft[:, : target.shape[-1]].float().softmax(-1)
    pull = found[:, : target.shape[-1]]
    if share < 1:
        pull.add_(q, alpha=1 - share)
        pull[:, :size].sub_(p, alpha=1 - share)
    if share > 0:
        short = q.clone()  # m q
        short[:, :size] *= q[:, :size] < p
        short[:, size:] = 0  # no token of the target
        pull.add_(q.mul_(short.sum(-1, keepdim=True)).sub_(short), alpha=share)


def _draws(texts: Sequence[Text], schedule: Schedule, done: int) -> Iterator[Sequence[Text]]:
    """Texts of each step that is left: all in turn, in an order by chance, again and again."""
    chance, step = random.Random(schedule.seed), 0
    while step < schedule.steps:
        order = chance.sample(range(len(texts)), len(texts))
        for run in batches([len(texts[index].tokens) for index in order], schedule.step_tokens):
            if step == schedule.steps:
                return
            if step >= done:
                yield [texts[order[place]] for place in run]
            step += 1
