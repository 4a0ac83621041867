"""Rows of every kind, and what has to come out where that is known."""

import math
from collections.abc import Iterator

import torch
from msgspec.structs import replace

from aweigh_runtime.engine.messages import Sampling
from aweigh_runtime.engine.sampling.row import Row

GREEDY = Sampling(temperature=0)


def rows_of_every_kind(size: int) -> list[Row]:
    """Each with a seed and a position of its own."""
    kinds = [
        GREEDY,
        Sampling(),
        Sampling(temperature=0.05),
        Sampling(temperature=0.7, top_p=0.9),
        Sampling(temperature=3.0, top_p=0.99),
        Sampling(temperature=40.0, top_p=0.5),
        Sampling(top_k=5),
        Sampling(top_k=50, top_p=0.9),
        Sampling(top_k=40, top_p=0.95, min_p=0.05, temperature=1.5),
        Sampling(top_k=10 * size, top_p=0.5, min_p=0.01),
        Sampling(top_k=max(2, size - 1), temperature=20.0, top_p=0.8),
        Sampling(min_p=0.2),
        Sampling(min_p=1e-6, temperature=2.0),
    ]
    return [
        Row(replace(kind, seed=2**64 - 1 - 977 * index), [1] * (index + 1))
        for index, kind in enumerate(kinds)
    ]


def random_logits(num_rows: int, size: int, seed: int = 0) -> torch.Tensor:
    return 4 * torch.randn(num_rows, size, generator=torch.Generator().manual_seed(seed))


def known(size: int) -> Iterator[tuple[str, torch.Tensor, Row, set[int]]]:
    """A name, the logits of a row, its settings, and the tokens that may come; -1: none."""
    equal, three, only = torch.zeros(size), torch.zeros(size), torch.full((size,), -math.inf)
    high = [size - 1, size // 2, size // 2 + 1]
    three[high] = 2.0
    only[size // 3] = -3.0
    lowest = {size // 2}
    yield "greedy between equals", three, Row(GREEDY, [1]), lowest
    yield "top_k of 1", three, Row(Sampling(top_k=1, seed=5), [1]), lowest
    yield "a tiny top_p", three, Row(Sampling(top_p=1e-9, seed=6), [1]), lowest
    yield "a top_p of 0", three, Row(Sampling(top_p=0.0, seed=6), [1]), lowest
    yield "a tiny temperature", three, Row(Sampling(temperature=1e-5, seed=7), [1]), set(high)
    yield "a min_p of 1", three, Row(Sampling(min_p=1.0, seed=8), [1]), set(high)
    yield "top_k between equals", equal, Row(Sampling(top_k=3, seed=9), [1]), {0, 1, 2}
    yield "greedy among equals alone", equal, Row(GREEDY, [1]), {0}
    half = set(range(math.ceil(size / 2)))
    yield "half of equals", equal, Row(Sampling(top_p=0.5, seed=10), [1]), half
    one = three.clone()
    one[size // 4] = -math.nan
    for kind in (GREEDY, Sampling(), Sampling(top_k=9), Sampling(top_p=0.5), Sampling(min_p=0.1)):
        row = Row(kind, [1])
        yield f"all ruled out but one, {kind}", only, row, {size // 3}
        for broken in (math.nan, math.inf, -math.inf):
            yield f"logits of {broken}, {kind}", torch.full((size,), broken), row, {-1}
        yield f"one logit that is not a number, {kind}", one, row, {-1}
