"""Drawn tokens follow the distribution that is asked for: a hundred thousand draws of each kind."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aweigh_runtime.engine.messages import Sampling
from aweigh_runtime.engine.sampling.choice import Sampler
from aweigh_runtime.engine.sampling.row import Row

LOGITS = torch.tensor([1.9, 1.5, 1.5, 1.1, 0.6, 0.2, -0.4, -1.1, -1.7, -2.6, -3.5, -5.0])
SIZE = len(LOGITS)
DRAWS = 100_000
BATCH = 5_000
UNLIKELY = 1e-4
PROMPT, ANSWER = [0, 1, 1, 7], [2, 2, 3, 0]

Probabilities = NDArray[np.float64]
Choose = Callable[[torch.Tensor, Sequence[Row]], list[int]]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sampler(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    return Sampler(SIZE).choose(logits, rows).tokens


def wanted(sampling: Sampling, allowed: Collection[int] = range(SIZE)) -> Probabilities:
    """The distribution by the book: token by token, in double precision.

    Args:
        sampling: what is asked for.
        allowed: tokens that a grammar leaves.
    """
    logits = LOGITS.double().tolist()
    for token in set(PROMPT + ANSWER):
        factor = sampling.repetition_penalty
        logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    for token in set(ANSWER):
        logits[token] -= sampling.presence_penalty
        logits[token] -= sampling.frequency_penalty * ANSWER.count(token)
    for token, bias in sampling.logit_bias.items():
        logits[token] += bias
    weights = np.exp(np.array(logits) / sampling.temperature)
    weights[[token for token in range(SIZE) if token not in allowed]] = 0
    order = sorted(range(SIZE), key=lambda token: (-weights[token], token))
    if sampling.top_k:
        weights[order[sampling.top_k :]] = 0
    before = 0.0
    share = weights / weights.sum()
    for token in order:
        if before >= sampling.top_p:
            weights[token] = 0
        before += share[token]
    weights[weights < sampling.min_p * weights.max()] = 0
    probabilities: Probabilities = weights / weights.sum()
    return probabilities


def counts(sampling: Sampling, choose: Choose) -> NDArray[np.int64]:
    """How often each token is drawn, over many seeds and some positions."""
    fields = {name: getattr(sampling, name) for name in Sampling.__struct_fields__}
    rows = [Row(Sampling(**{**fields, "seed": seed}), PROMPT) for seed in range(BATCH)]
    for row in rows:
        for token in ANSWER:
            row.append(token)
    total = np.zeros(SIZE, np.int64)
    for position in range(DRAWS // BATCH):
        for row in rows:
            row.position = position
        total += np.bincount(choose(LOGITS.repeat(BATCH, 1), rows), minlength=SIZE)
    return total


def likelihood(found: NDArray[np.int64], probabilities: Probabilities) -> float:
    """Of counts at least so far from what is expected: Pearson's chi-square test."""
    possible = probabilities > 0
    if found[~possible].any():
        return 0.0
    expected = found.sum() * probabilities[possible]
    statistic = ((found[possible] - expected) ** 2 / expected).sum()
    freedom = torch.tensor((possible.sum() - 1) / 2, dtype=torch.float64)
    tail = torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64))
    return float(tail)


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param(Sampling(), id="plain"),
        pytest.param(Sampling(temperature=0.6), id="temperature"),
        pytest.param(Sampling(top_k=2), id="top_k between equals"),
        pytest.param(Sampling(top_p=0.8), id="top_p"),
        pytest.param(Sampling(min_p=0.1), id="min_p"),
        pytest.param(
            Sampling(temperature=1.3, top_k=7, top_p=0.9, min_p=0.12), id="all filters together"
        ),
        pytest.param(Sampling(repetition_penalty=1.4), id="repetition penalty"),
        pytest.param(
            Sampling(presence_penalty=0.4, frequency_penalty=-0.3, top_p=0.95),
            id="presence and frequency penalty",
        ),
        pytest.param(Sampling(logit_bias={11: 4.0, 0: -100.0}, temperature=1.2), id="logit_bias"),
    ],
)
def test_tokens_are_drawn_with_their_probabilities(sampling: Sampling, device: str) -> None:
    draws = Sampler(SIZE)

    def choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
        return draws.choose(logits.to(device), rows).tokens

    assert likelihood(counts(sampling, choose), wanted(sampling)) > UNLIKELY


def slightly_too_warm(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    return sampler(logits / 1.03, rows)


def uniform_instead_of_exponential(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    noise = torch.rand(logits.shape, generator=torch.Generator().manual_seed(rows[0].position))
    tokens: list[int] = (logits.exp() / noise).argmax(-1).tolist()
    return tokens


def without_the_unlikeliest(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    return sampler(logits.masked_fill(logits < -3.0, -torch.inf), rows)


@pytest.mark.parametrize(
    "wrong", [slightly_too_warm, uniform_instead_of_exponential, without_the_unlikeliest]
)
def test_a_sampler_that_is_wrong_is_found_out(wrong: Choose) -> None:
    assert likelihood(counts(Sampling(), wrong), wanted(Sampling())) < UNLIKELY


def test_positions_of_one_seed_are_independent_draws() -> None:
    rows = [Row(Sampling(seed=1), [0] * position) for position in range(1, 4001)]
    tokens = np.array(sampler(LOGITS.repeat(len(rows), 1), rows))
    probabilities = wanted(Sampling())
    assert likelihood(np.bincount(tokens, minlength=SIZE), probabilities) > UNLIKELY
    likely = 4  # pairs of rarer tokens are too few to count
    tokens, probabilities = (
        np.minimum(tokens, likely),
        np.append(probabilities[:likely], probabilities[likely:].sum()),
    )
    pairs = np.bincount((likely + 1) * tokens[:-1] + tokens[1:], minlength=(likely + 1) ** 2)
    assert likelihood(pairs, np.outer(probabilities, probabilities).flatten()) > UNLIKELY
