"""Trains all quantized layers together, until the model predicts what the dense one does.

What is lowered is the KL to the dense model's predictions. Numbers are rounded in every step, and
gradients pass the rounding (straight-through): scales, norms and rounding learn together.

A layer is computed by itself, forwards and then backwards. Where memory does not hold all of them,
one is in memory at a time and the others lie in files. The same seed gives the same result.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch

from aweigh_quantize.calibration import TooShort
from aweigh_quantize.passage import Ends, Passage
from aweigh_quantize.saving import Saving
from aweigh_quantize.state import Steps
from aweigh_quantize.texts import Text, num_tokens
from aweigh_quantize.trained_layer import TrainedLayer

FEWEST_TOKENS = 32_768  # with fewer, a model learns the texts by heart and gets worse


def expect_enough(count: int, *, from_files: bool) -> None:
    """Refuse what a model would learn by heart.

    Args:
        count: tokens to train on.
        from_files: somebody has given them; else the model has written them.

    Raises:
        TooShort: says how many tokens there are.
    """
    if count < FEWEST_TOKENS:
        files = ", or give more --calibration" if from_files else ""
        raise TooShort(
            f"--recover has {count:,} tokens to train on; expected at least {FEWEST_TOKENS:,}: "
            f"raise --num-texts or --text-tokens{files}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How long. Rates rise for some steps, and fall to nothing linearly."""

    num_steps: int = 1200
    num_tokens: int = 2048  # of a step, about
    num_rising: int = 5
    num_passes: int = 3  # over all texts, at most: more, and they are learned by heart

    def within(self, texts: Sequence[Text]) -> "Training":
        """Shorter, where there are few texts."""
        most = self.num_passes * num_tokens(texts) // self.num_tokens
        return replace(self, num_steps=min(self.num_steps, most))

    def rate(self, step: int) -> float:
        """A share of the full one."""
        return min(1.0, (step + 1) / (self.num_rising + 1)) * (1 - step / self.num_steps)


@dataclass(frozen=True, slots=True)
class _Forward:
    """What one layer got and gave in a step."""

    before: torch.Tensor  # [T, N], of the quantized layers
    after: torch.Tensor | None  # with what gradients need; None: to be computed again


class Recovery:
    """Training that may go on where it was killed."""

    def __init__(
        self,
        passage: Passage,
        make: Callable[[int], TrainedLayer],
        num_layers: int,
        steps: Steps,
        *,
        fits: bool,
    ) -> None:
        """`make`: a layer as it was before training; `fits`: memory holds all of them."""
        self._passage = passage
        self._make = make
        self._num_layers = num_layers
        self._steps = steps
        self._fits = fits
        self._held: dict[int, TrainedLayer] = {}
        self._ends = passage.ends()

    def layer(self, index: int) -> TrainedLayer:
        """As training has left it."""
        if index in self._held:
            return self._held[index]
        found = self._make(index)
        tensors = self._steps.tensors(index)
        if tensors:
            found.restore(tensors)
        if self._fits:
            self._held[index] = found
        return found

    def run(self, training: Training, advance: Callable[[], None]) -> None:
        """All steps that are not done yet.

        Raises:
            CannotWrite: the disk is full.
        """
        done = self._steps.num_finished()
        draws = islice(enumerate(_draws(self._passage.texts, training), 1), done, None)
        saving = Saving()
        for step, texts in draws:
            self._step(step, texts, training)
            if not self._fits:  # every layer has been written
                self._steps.finish(step)
            elif saving.is_due or step == training.num_steps:
                with saving.timed():
                    for index in range(self._num_layers):
                        self._steps.write(step, index, self._held[index].tensors())
                    self._steps.finish(step)
            advance()

    def _step(self, step: int, texts: Sequence[int], training: Training) -> None:
        chosen = self._passage.chosen(texts)
        hidden = wanted = self._ends.embed(self._passage.tokens(texts))
        passed = []
        for index in range(self._num_layers):
            layer = self.layer(index)
            before = hidden.detach().requires_grad_()
            with torch.set_grad_enabled(self._fits):
                after = self._passage.trained(layer.layer, before, chosen)
            with torch.no_grad():
                wanted = self._passage.trained(layer.dense, wanted, chosen)
            passed.append(_Forward(before, after if self._fits else None))
            hidden = after.detach()
        gradient = _lost(self._ends, hidden, wanted)
        for index in reversed(range(self._num_layers)):
            layer, each = self.layer(index), passed.pop()
            after = (
                self._passage.trained(layer.layer, each.before, chosen)
                if each.after is None
                else each.after
            )
            after.backward(gradient)  # type: ignore[no-untyped-call]
            assert each.before.grad is not None
            gradient = each.before.grad
            layer.step(training.rate(step - 1))
            if not self._fits:
                self._steps.write(step, index, layer.tensors())


def _lost(ends: Ends, hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The gradient [T, N] of the mean KL of a step's tokens."""
    hidden = hidden.detach().requires_grad_()
    with torch.no_grad():
        expected = ends.logits(wanted).softmax(-1)
    # The entropy of the dense model is left out: it has no gradient.
    loss = -(expected * ends.logits(hidden).log_softmax(-1)).sum(-1).mean()
    return torch.autograd.grad(loss, hidden)[0]


def _draws(texts: Sequence[Text], training: Training) -> Iterator[Sequence[int]]:
    """Texts of each step, by number: all of them in turn, in an order by chance."""
    chance = random.Random(0)
    lengths = [len(text.tokens) for text in texts]
    waiting: list[int] = []
    for _ in range(training.num_steps):
        chosen: list[int] = []
        while sum(lengths[index] for index in chosen) < training.num_tokens:
            if not waiting:
                waiting = chance.sample(range(len(lengths)), len(lengths))
            if waiting[-1] in chosen:
                break
            chosen.append(waiting.pop())
        yield chosen
