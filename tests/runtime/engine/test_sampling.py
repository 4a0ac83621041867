import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_runtime.engine.messages import Sampling, TokenLogprobs
from aweigh_runtime.engine.sampling.choice import Sampler
from aweigh_runtime.engine.sampling.noise import exponential
from aweigh_runtime.engine.sampling.race import draw_filtered
from aweigh_runtime.engine.sampling.row import Row
from aweigh_runtime.engine.sampling.verification import NO_TOKEN

SIZE = 1000
GREEDY = Sampling(temperature=0)
INFINITE = float("inf")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def random_logits(num_rows: int, seed: int = 0, size: int = SIZE) -> torch.Tensor:
    return 4 * torch.randn(num_rows, size, generator=torch.Generator().manual_seed(seed))


def choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    return Sampler(logits.shape[-1]).choose(logits.clone(), rows).tokens


def answered(sampling: Sampling, prompt: list[int], answer: list[int]) -> Row:
    row = Row(sampling, prompt)
    for token in answer:
        row.append(token)
    return row


def test_rows_of_every_kind_in_one_batch_get_what_they_get_alone(device: str) -> None:
    kinds = [
        GREEDY,
        Sampling(),
        Sampling(temperature=0.7, top_p=0.9),
        Sampling(temperature=3.0, top_p=0.99),
        Sampling(top_k=5),
        Sampling(top_k=10 * SIZE, top_p=0.5, min_p=0.01),
        Sampling(min_p=0.2),
        Sampling(temperature=0, repetition_penalty=1.3),
        Sampling(presence_penalty=1.5, frequency_penalty=0.5, top_p=0.95),
        Sampling(logit_bias={3: 100.0, 7: -100.0}),
        Sampling(min_tokens=5),
    ]

    def row(index: int) -> Row:
        fields = {name: getattr(kinds[index], name) for name in Sampling.__struct_fields__}
        seeded = Sampling(**{**fields, "seed": 2**64 - 1 - index})
        new = Row(seeded, [1, 2, 3, index], [0, 9], logprobs=3 if index % 3 == 0 else None)
        for token in (5, 5, 6, index):
            new.append(token)
        return new

    logits = random_logits(len(kinds)).to(device)
    alone = [choose(logits[i : i + 1], [row(i)])[0] for i in range(len(kinds))]

    @settings(deadline=None)
    @given(st.permutations(range(len(kinds))), st.integers(1, len(kinds)))
    def in_a_batch(order: list[int], count: int) -> None:
        picked = order[:count]
        assert choose(logits[picked], [row(i) for i in picked]) == [alone[i] for i in picked]

    in_a_batch()


def test_greedy_takes_the_lowest_of_equal_tokens_on_every_path(device: str) -> None:
    logits = torch.zeros(6, SIZE, device=device)
    logits[:, [700, 300, 301]] = 2.0
    rows = [
        Row(GREEDY, [1]),
        Row(Sampling(top_k=1, seed=5), [1]),
        Row(Sampling(top_p=1e-9, seed=6), [1]),
        Row(Sampling(temperature=0, logit_bias={0: -1.0}), [1]),
        Row(Sampling(temperature=0), [1], logprobs=2),
        Row(Sampling(top_p=0.0, seed=6), [1]),
    ]
    chosen = Sampler(SIZE).choose(logits, rows)
    assert chosen.tokens == [300] * 6
    assert [token for token, _ in chosen.logprobs[4].top] == [300, 301]
    assert chosen.logprobs[4].rank == 1


def test_top_k_keeps_the_lowest_of_equal_tokens(device: str) -> None:
    logits = torch.zeros(200, SIZE, device=device)
    rows = [Row(Sampling(top_k=3, seed=seed), [1]) for seed in range(200)]
    assert set(choose(logits, rows)) == {0, 1, 2}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_what_top_p_leaves_does_not_depend_on_how_many_candidates_are_looked_at(
    temperature: float, device: str
) -> None:
    logits = random_logits(64).to(device)
    best = logits.amax(-1)
    rows = [
        Row(Sampling(temperature=temperature, top_p=0.05 + 0.0149 * seed, seed=seed), [1])
        for seed in range(64)
    ]
    with_all = draw_filtered(logits, best, rows, nucleus=SIZE).tolist()
    assert with_all == draw_filtered(logits, best, rows, nucleus=3).tolist()
    assert with_all == draw_filtered(logits, best, rows).tolist()


def test_a_token_that_is_ruled_out_never_comes() -> None:
    logits = torch.full((300, SIZE), -INFINITE)
    logits[:, 42] = 0.0
    kinds = [Sampling(seed=s, top_p=[1.0, 0.5][s % 2], top_k=s % 3) for s in range(300)]
    assert set(choose(logits, [Row(sampling, [1]) for sampling in kinds])) == {42}


@pytest.mark.parametrize(
    "broken", [math.nan, INFINITE, -INFINITE], ids=["not a number", "infinite", "nothing left"]
)
@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(seed=1), Sampling(seed=1, top_p=0.9, min_p=0.1)]
)
def test_a_broken_row_fails_alone(broken: float, sampling: Sampling, device: str) -> None:
    logits = random_logits(5).to(device)
    rows = [Row(sampling, [1], logprobs=2) for _ in range(5)]
    expected = Sampler(SIZE).choose(logits.clone(), rows)
    logits[2] = broken
    chosen = Sampler(SIZE).choose(logits, rows)
    assert list(chosen.failures) == [2]
    assert chosen.failures[2].kind == "internal"
    assert chosen.tokens.pop(2) == NO_TOKEN
    expected.tokens.pop(2)
    assert chosen.tokens == expected.tokens
    expected.logprobs.pop(2)
    assert chosen.logprobs == expected.logprobs


def test_one_logit_that_is_not_a_number_spoils_its_row() -> None:
    logits = random_logits(2)
    logits[1, 77] = math.nan
    chosen = Sampler(SIZE).choose(logits, [Row(GREEDY, [1]), Row(Sampling(), [1])])
    assert list(chosen.failures) == [1]
    assert "nan" in chosen.failures[1].message


def test_a_tiny_temperature_takes_the_likeliest() -> None:
    logits = 1000 * random_logits(50)
    rows = [Row(Sampling(temperature=2e-5, seed=s, top_k=s % 2 * 9), [1]) for s in range(50)]
    assert choose(logits, rows) == logits.argmax(-1).tolist()


def test_no_rows_give_no_tokens() -> None:
    assert Sampler(SIZE).choose(torch.empty(0, SIZE), []).tokens == []


def test_tokens_are_on_the_device_before_the_host_asks_for_them(device: str) -> None:
    logits = random_logits(4).to(device)
    logits[2, 5] = math.nan
    rows = [Row(GREEDY, [1]), Row(Sampling(seed=3), [1]), Row(GREEDY, [1]), Row(GREEDY, [1])]
    expected = Sampler(SIZE).choose(logits.clone(), rows)
    pending = Sampler(SIZE).begin(logits, rows)
    logits.zero_()  # the next step's
    assert pending.tokens.device == logits.device
    assert pending.tokens.dtype == torch.int64
    assert pending.tokens.tolist() == expected.tokens
    assert pending.chosen().tokens == expected.tokens
    assert "nan" in pending.chosen().failures[2].message


def test_penalties_count_prompt_and_answer_as_documented() -> None:
    logits = torch.tensor([[4.0, 3.9, 3.8, 3.7, -1.0]])
    once = Sampling(temperature=0, repetition_penalty=1.1)
    assert choose(logits, [answered(once, [0], [])]) == [1]  # 4.0 ÷ 1.1
    assert choose(logits, [answered(once, [0], [1])]) == [2]
    presence = Sampling(temperature=0, presence_penalty=0.15)
    assert choose(logits, [answered(presence, [0], [])]) == [0]  # the prompt does not count
    assert choose(logits, [answered(presence, [3], [0, 0, 0])]) == [1]
    frequency = Sampling(temperature=0, frequency_penalty=0.06)
    assert choose(logits, [answered(frequency, [], [0])]) == [0]
    assert choose(logits, [answered(frequency, [], [0, 0])]) == [1]


def test_the_repetition_penalty_lowers_negative_logits_too() -> None:
    logits = torch.tensor([[-1.0, -1.05, -INFINITE]])
    row = answered(Sampling(temperature=0, repetition_penalty=1.1), [0, 2], [])
    assert choose(logits, [row]) == [1]


def test_stop_tokens_come_only_after_min_tokens() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0]])
    row = Row(Sampling(temperature=0, min_tokens=2), [1], [0, 1, 10**9])
    chosen = []
    for _ in range(4):
        chosen += choose(logits, [row])
        row.append(chosen[-1])
    assert chosen == [2, 2, 0, 0]


def test_a_bias_beyond_the_vocabulary_changes_nothing() -> None:
    logits = random_logits(1)
    biased = Row(Sampling(temperature=0, logit_bias={SIZE: 100.0, 4: 100.0}), [1])
    assert choose(logits, [biased]) == [4]


def test_logprobs_are_of_the_models_own_logits() -> None:
    logits = random_logits(3)
    exact = torch.log_softmax(logits.double(), dim=-1)
    sampling = Sampling(temperature=0.3, top_k=3, logit_bias={11: 100.0}, seed=4)
    rows = [Row(GREEDY, [1]), Row(sampling, [1], logprobs=4), Row(GREEDY, [1], logprobs=0)]
    chosen = Sampler(SIZE).choose(logits.clone(), rows)
    assert chosen.tokens[1] == 11
    assert list(chosen.logprobs) == [1, 2]
    biased = chosen.logprobs[1]
    assert biased.logprob == pytest.approx(exact[1, 11].item(), abs=1e-5)
    assert biased.rank == 1 + int((exact[1] > exact[1, 11]).sum())
    assert [token for token, _ in biased.top] == exact[1].topk(4).indices.tolist()
    assert [value for _, value in biased.top] == pytest.approx(
        exact[1].topk(4).values.tolist(), abs=1e-5
    )
    assert chosen.logprobs[2].top == []
    assert chosen.logprobs[2].rank == 1


def test_prompt_logprobs_are_the_same_in_one_piece_and_row_by_row() -> None:
    logits = random_logits(150)
    targets = torch.randint(SIZE, (150,), generator=torch.Generator().manual_seed(1)).tolist()
    sampler = Sampler(SIZE)
    together = sampler.prompt_logprobs(logits, targets, 3)
    alone: list[TokenLogprobs] = []
    for index, target in enumerate(targets):
        alone += sampler.prompt_logprobs(logits[index : index + 1], [target], 3)
    assert together == alone
    exact = torch.log_softmax(logits.double(), dim=-1)
    for row, target, told in zip(exact, targets, together, strict=True):
        assert told.logprob == pytest.approx(row[target].item(), abs=1e-5)
        assert told.rank == 1 + int((row > row[target]).sum())


def test_noise_is_fine_enough_for_tokens_that_come_once_in_ten_million() -> None:
    tokens = torch.arange(1 << 18)
    smallest = 1.0
    for position in range(80):  # 20 million draws
        noise = exponential(torch.tensor([7]), torch.tensor([position]), tokens)
        assert torch.isfinite(noise).all()
        smallest = min(smallest, noise.min().item())
    assert 0.0 < smallest < 2.0**-25
