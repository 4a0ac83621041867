"""Sampling on a GPU, beside torch's operations."""

import re
from collections.abc import Sequence

import pytest
import torch

from aweigh_kernels import sampling_gpu
from aweigh_kernels.sampling_gpu import Choice, Settings, sample
from aweigh_runtime.engine.messages import Sampling
from aweigh_runtime.engine.sampling.drawing import Draws, by_torch
from aweigh_runtime.engine.sampling.row import Row
from tests.kernels.sampling_cases import known, random_logits, rows_of_every_kind

pytestmark = pytest.mark.gpu

SIZES = [7, 1000, 50_257, 128_256]
NEAR = 1e-3  # of rows may differ: two tokens run so close together that rounding decides


def draw(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    return Draws().draw(logits, rows).read()


@pytest.mark.parametrize("num_rows", [1, 33, 512])
@pytest.mark.parametrize("size", SIZES)
def test_rows_of_every_kind_get_the_tokens_that_torch_draws(size: int, num_rows: int) -> None:
    kinds = rows_of_every_kind(size)
    few = min(num_rows, 2 * len(kinds) if size > 1000 else num_rows)
    rows = [kinds[index % len(kinds)] for index in range(num_rows)]
    logits = random_logits(few, size, num_rows).cuda()
    logits = logits.repeat(-(-num_rows // few), 1)[:num_rows].contiguous()
    found = draw(logits, rows)
    expected = by_torch(logits[:few], rows[:few]).tokens.tolist()
    wrong = [index for index in range(few) if found[index] != expected[index]]
    assert len(wrong) <= NEAR * few, [(rows[index].sampling, found[index]) for index in wrong]


@pytest.mark.parametrize("size", SIZES)
def test_tokens_that_are_known_come(size: int) -> None:
    names, lines, rows, allowed = zip(*known(size), strict=True)
    tokens = draw(torch.stack(lines).cuda(), rows)
    those = zip(names, tokens, allowed, strict=True)
    assert [(name, token) for name, token, wanted in those if token not in wanted] == []


def test_many_seeds_get_the_tokens_that_torch_draws_on_a_cpu() -> None:
    few, times = random_logits(8, 2000), 500
    rows = [
        Row(Sampling(top_k=40, top_p=0.9, temperature=0.5 + index % 3, seed=index), [1] * index)
        for index in range(8 * times)
    ]
    logits = few.repeat(times, 1)
    found, expected = draw(logits.cuda(), rows), by_torch(logits, rows).tokens.tolist()
    assert sum(one != other for one, other in zip(found, expected, strict=True)) <= NEAR * len(rows)


def test_rows_get_together_what_they_get_alone() -> None:
    rows = rows_of_every_kind(128_256)
    logits = random_logits(len(rows), 128_256, 3).cuda()
    together = draw(logits, rows)
    alone = [draw(logits[i : i + 1], rows[i : i + 1])[0] for i in range(len(rows))]
    assert together == alone
    assert all(draw(logits, rows) == together for _ in range(10))


def test_settings_follow_the_rows_of_each_step() -> None:
    logits = random_logits(2, 1000).cuda()
    draws, first = Draws(), [Row(Sampling(seed=1), [1]), Row(Sampling(seed=2, top_k=9), [1])]
    for rows in (first, first, first[::-1], first[:1], [Row(Sampling(temperature=0), [1])]):
        for row in rows:
            row.append(1)
        given = logits[: len(rows)]
        assert draws.draw(given, rows).read() == by_torch(given, rows).tokens.tolist()


def test_a_captured_chain_reads_the_logits_of_its_replay() -> None:
    rows = rows_of_every_kind(128_256)
    logits = random_logits(len(rows), 128_256, 4).cuda()
    settings = Settings.of(
        [Choice(temperature=1.0, top_k=50, top_p=0.9, seed=3)] * len(rows), 128_256
    )
    packed = settings.at(range(len(rows)), logits.device)
    sample(logits, packed, races=True, weighs=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens, largest = sample(logits, packed, races=True, weighs=True)
    for seed in (5, 6):
        logits.copy_(random_logits(len(rows), 128_256, seed))
        graph.replay()
        again, best = sample(logits, packed, races=True, weighs=True)
        assert torch.equal(tokens, again)
        assert torch.equal(largest, best)


def test_no_rows() -> None:
    empty = torch.empty(0, 6, dtype=torch.int64, device="cuda")
    tokens, _ = sample(torch.empty(0, 9, device="cuda"), empty, races=False, weighs=False)
    assert tokens.shape == (0,)


def test_what_does_not_fit_is_refused_by_name() -> None:
    logits = torch.zeros(2, 9, device="cuda")
    settings = torch.zeros(2, 6, dtype=torch.int64, device="cuda")
    wide = torch.zeros(2, sampling_gpu.MOST_TOKENS + 1, device="cuda")
    for given, those, said in (
        (logits.half(), settings, "logits is float16"),
        (logits[:, ::2], settings, "logits has strides [9, 2]"),
        (logits.cpu(), settings, "logits is on cpu"),
        (logits, settings[:1], "settings is int64 [1, 6]"),
        (wide, settings, "logits have 524289 tokens"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            sample(given, those, races=False, weighs=False)
