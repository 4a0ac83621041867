import pytest
import torch

from aweigh_runtime.engine.messages import Sampling
from aweigh_runtime.engine.sampling import Row, choose

PROBABILITIES = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03])
DRAWS = 4000


def draws(sampling: Sampling, seeds: range = range(DRAWS)) -> torch.Tensor:
    """Shares of the tokens over many seeds."""
    rows = [Row(Sampling(*_but_seed(sampling), seed), position=7) for seed in seeds]
    tokens = choose(PROBABILITIES.log().repeat(len(rows), 1), rows)
    return torch.bincount(torch.tensor(tokens), minlength=5) / len(rows)


def _but_seed(sampling: Sampling) -> tuple[float, float, int, float]:
    return sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p


def chi_square(shares: torch.Tensor, expected: torch.Tensor) -> float:
    kept = expected > 0
    assert shares[~kept].sum() == 0
    return float((DRAWS * (shares - expected)[kept].square() / expected[kept]).sum())


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        pytest.param(Sampling(), PROBABILITIES, id="plain"),
        pytest.param(Sampling(temperature=0.5), PROBABILITIES.square(), id="temperature"),
        pytest.param(Sampling(top_k=2), torch.tensor([0.5, 0.25, 0, 0, 0]), id="top_k"),
        pytest.param(Sampling(top_p=0.8), torch.tensor([0.5, 0.25, 0.15, 0, 0]), id="top_p"),
        pytest.param(Sampling(min_p=0.2), torch.tensor([0.5, 0.25, 0.15, 0, 0]), id="min_p"),
        pytest.param(
            Sampling(top_k=4, top_p=0.95, min_p=0.1),
            torch.tensor([0.5, 0.25, 0.15, 0.07, 0]),
            id="all together",
        ),
    ],
)
def test_tokens_are_drawn_with_their_probabilities(
    sampling: Sampling, expected: torch.Tensor
) -> None:
    assert chi_square(draws(sampling), expected / expected.sum()) < 18.5  # 4 degrees, p = 0.001


def test_positions_of_one_seed_are_independent_draws() -> None:
    rows = [Row(Sampling(seed=1), position) for position in range(DRAWS)]
    tokens = torch.tensor(choose(PROBABILITIES.log().repeat(DRAWS, 1), rows))
    assert chi_square(torch.bincount(tokens, minlength=5) / DRAWS, PROBABILITIES) < 18.5
    both = torch.bincount(5 * tokens[:-1] + tokens[1:], minlength=25) / DRAWS
    pairs = torch.outer(PROBABILITIES, PROBABILITIES).flatten()
    assert chi_square(both, pairs) < 51.2  # 24 degrees, p = 0.001


def test_temperature_0_takes_the_likeliest_beside_rows_that_are_sampled() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    rows = [Row(Sampling(temperature=i % 2, seed=i), 3) for i in range(6)]
    tokens = choose(logits, rows)
    assert tokens[::2] == logits.argmax(-1).tolist()[::2]


def test_a_seed_gives_the_same_token_alone_and_in_any_batch() -> None:
    logits = torch.randn(8, 1000, generator=torch.Generator().manual_seed(0))
    rows = [Row(Sampling(seed=2**64 - i, top_p=0.9), i) for i in range(8)]
    together = choose(logits, rows)
    assert together == [choose(logits[i : i + 1], [rows[i]])[0] for i in range(8)]
    assert together[::-1] == choose(logits.flip(0), rows[::-1])


def test_top_k_1_takes_the_likeliest_also_among_equals() -> None:
    logits = torch.zeros(1, 10)
    assert {choose(logits, [Row(Sampling(top_k=1, seed=s), 0)])[0] for s in range(20)} == {0}


def test_the_smallest_top_p_leaves_the_likeliest() -> None:
    assert draws(Sampling(top_p=1e-6))[0] == 1


def test_a_token_that_is_ruled_out_never_comes() -> None:
    logits = torch.full((1, 100), float("-inf"))
    logits[0, 42] = 0.0
    assert {choose(logits, [Row(Sampling(seed=s), 0)])[0] for s in range(100)} == {42}
