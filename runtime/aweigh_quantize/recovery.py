"""Trains a quantized layer, for a few hundred steps, to put out what the dense one does.

Scales, norms and rounding learn together: numbers near the middle between two integers are rounded
the other way where that helps (SignRound, Cheng et al. 2023). The quantized layer sees what the
quantized ones before it put out, and learns what the dense layers put out in its place, so that it
makes up for them, too. The same seed gives the same result.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from aweigh_quantize.calibration import TooShort
from aweigh_quantize.latent import Latent
from aweigh_quantize.one_layer import OneLayer
from aweigh_quantize.passage import Passage
from aweigh_quantize.texts import Text

FEWEST_TOKENS = 16_384  # with fewer, a layer learns the texts by heart and gets worse


def expect_enough(texts: Sequence[Text], *, from_files: bool) -> None:
    """Refuse what a layer would learn by heart.

    Args:
        texts: to train on.
        from_files: somebody has given them; else the model has written them.

    Raises:
        TooShort: says how many tokens there are.
    """
    num_tokens = sum(len(text.tokens) for text in texts)
    if num_tokens < FEWEST_TOKENS:
        files = ", or give more --calibration" if from_files else ""
        raise TooShort(
            f"--recover has {num_tokens:,} tokens to train on; expected at least "
            f"{FEWEST_TOKENS:,}: raise --num-texts or --text-tokens{files}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How long, and how fast. Rates fall to nothing linearly."""

    num_steps: int = 200
    num_tokens: int = 1024  # of a step, about
    rounding_rate: float = 0.01  # integers in a step
    scale_rate: float = 2e-3  # of the logarithm
    norm_rate: float = 1e-3
    seed: int = 0


def recover(
    layer: OneLayer,
    latents: Mapping[str, Latent],
    passage: Passage,
    streams: tuple[torch.Tensor, torch.Tensor],
    training: Training,
) -> None:
    """Train a quantized layer, and put into it what was learned.

    Args:
        layer: with everything quantized that shall be.
        latents: of its matrices, by module.
        passage: the way of the texts.
        streams: [T, N] both: what the layer gets, and what it should put out.
        training: how.
    """
    hidden, wanted = streams
    norms = layer.train({module: latent.values for module, latent in latents.items()})
    groups = [
        {"params": [latent.stretch for latent in latents.values()], "lr": training.scale_rate},
        {"params": list(norms.values()), "lr": training.norm_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1 - step / training.num_steps
    )
    for step, texts in enumerate(_draws(passage, training)):
        chosen = passage.chosen(texts)
        found = passage.trained(layer, hidden, chosen)
        expected = wanted[chosen.rows]
        lost = (found - expected).square().sum(-1)
        loss = (lost / expected.square().sum(-1)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
        rate = training.rounding_rate * (1 - step / training.num_steps)
        for latent in latents.values():
            latent.round_onwards(rate)
    layer.trained({module: latent.weight() for module, latent in latents.items()})


def _draws(passage: Passage, training: Training) -> Iterator[Sequence[int]]:
    """Texts of each step, by number: all of them in turn, in an order by chance."""
    chance = random.Random(training.seed)
    lengths = [len(text.tokens) for text in passage.texts]
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
