"""Figures of a run, computed by hand."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_bench.measures import Answer, measure, percentile, spread

SECONDS = st.floats(0, 1e4, allow_nan=False)


def answer(sent_s: float, *arrivals_s: float, tokens: int | None = None) -> Answer:
    return Answer(
        sent_s=sent_s,
        ended_s=arrivals_s[-1],
        arrivals_s=list(arrivals_s),
        prompt_tokens=100,
        output_tokens=len(arrivals_s) if tokens is None else tokens,
        cached_tokens=25,
    )


@pytest.mark.parametrize(
    ("values", "rank", "expected"),
    [
        ([15, 20, 35, 40, 50], 40, 29),  # a well-known example, interpolated
        ([1, 2, 3, 4], 50, 2.5),
        ([1, 2, 3, 4], 90, 3.7),
        ([7], 99, 7),
        ([1, 2], 0, 1),
        ([1, 2], 100, 2),
    ],
)
def test_percentiles_are_interpolated(values: list[float], rank: float, expected: float) -> None:
    assert percentile(values, rank) == pytest.approx(expected)


@given(st.lists(SECONDS, min_size=1), SECONDS)
def test_a_spread_is_ordered_and_moves_with_its_values(values: list[float], more: float) -> None:
    found = spread(values)
    ranks = [found.percentiles[rank] for rank in (50, 90, 99)]
    assert ranks == sorted(ranks)
    assert 1e3 * min(values) <= ranks[0]
    assert ranks[-1] <= 1e3 * max(values) + 1e-6
    moved = spread([value + more for value in values])
    assert moved.percentiles[50] == pytest.approx(ranks[0] + 1e3 * more)


def test_the_figures_of_two_answers() -> None:
    answers = [answer(10.0, 10.2, 10.3, 10.4), answer(10.5, 10.6, 11.0)]
    found = measure(answers)
    assert (found.completed, found.failed, found.output_tokens) == (2, 0, 5)
    assert found.duration_s == pytest.approx(1.0)
    assert found.output_throughput == pytest.approx(5.0)
    assert found.spreads["ttft"].mean == pytest.approx(150)
    assert found.spreads["itl"].percentiles[50] == pytest.approx(100)  # 100, 100, 400
    assert found.spreads["tpot"].mean == pytest.approx(250)  # 100 and 400
    assert found.spreads["e2el"].percentiles[50] == pytest.approx(450)
    assert found.hit_percent == pytest.approx(25)
    assert found.peak_concurrency == 1


def test_a_token_rate_counts_tokens_and_not_events() -> None:
    assert measure([answer(0.0, 0.5, 1.5, tokens=8)]).peak_output_tokens_per_s == 4


def test_a_peak_counts_whole_seconds_from_the_first_request() -> None:
    answers = [answer(5.0, 5.1, 5.2, 6.1), answer(5.0, 6.2, 6.3)]
    assert measure(answers).peak_output_tokens_per_s == 3
    assert measure(answers).peak_concurrency == 2


def test_goodput_counts_answers_within_every_limit() -> None:
    quick, late, stuttering = answer(0, 0.1, 0.15), answer(0, 0.5, 0.55), answer(0, 0.1, 0.4)
    answers = [quick, late, stuttering]
    assert measure(answers, {"ttft": 200}).good == 2
    assert measure(answers, {"ttft": 200, "itl": 100}).good == 1
    assert measure(answers, {"tpot": 400, "e2el": 545}).good == 2
    assert measure(answers).good is None


def test_failed_requests_count_in_no_latency() -> None:
    failed = Answer(sent_s=0.0, ended_s=60.0, error="status 429: the queue is full")
    found = measure([answer(0.0, 0.1), failed, failed])
    assert (found.completed, found.failed) == (1, 2)
    assert found.errors == {"status 429: the queue is full": 2}
    assert found.spreads["e2el"].percentiles[99] == pytest.approx(100)


def test_the_keys_are_those_of_vllm_bench() -> None:
    figures = measure([answer(0.0, 0.1, 0.2)], {"ttft": 200}).to_json()
    assert {
        "duration", "completed", "failed", "total_input_tokens", "total_output_tokens",
        "request_throughput", "request_goodput", "output_throughput", "total_token_throughput",
        "mean_ttft_ms", "median_ttft_ms", "std_ttft_ms", "p99_ttft_ms", "mean_tpot_ms",
        "p99_itl_ms", "p90_e2el_ms",
    } <= set(figures)  # fmt: skip
    assert figures["request_goodput"] == pytest.approx(5)


@given(st.lists(st.lists(st.floats(0.001, 10), min_size=1, max_size=8), min_size=1, max_size=8))
def test_no_answer_is_lost(gaps: list[list[float]]) -> None:
    answers = [answer(0.0, *accumulate(each)) for each in gaps]
    found = measure(answers)
    assert found.output_tokens == sum(map(len, gaps))
    assert found.peak_output_tokens_per_s <= found.output_tokens
    assert found.peak_concurrency == len(gaps)
