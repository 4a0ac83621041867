"""In exact mode an answer depends on its prompt alone: on no batch, cache, chunk or preemption."""

import random
from collections import defaultdict
from functools import cache

from hypothesis import example, given, settings
from hypothesis import strategies as st

from aweigh_runtime.engine.messages import Counters, Stepped, Work
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.sources.local import builtin
from tests.runtime.engine.real import (
    BLOCK_TOKENS,
    alone,
    answers,
    exact_decoder,
    greedy,
    real_engine,
)

ANSWER, LONG_ANSWER = 12, 36
STEM = random.Random(1).sample(range(6, 8000), 150)


@cache
def decoder() -> Decoder:
    return exact_decoder(builtin("helmsman-8m"))


@cache
def expected(prompt: tuple[int, ...]) -> list[int]:
    return alone(decoder(), list(prompt), ANSWER)


@cache
def long_answer(prompt: tuple[int, ...]) -> list[int]:
    return alone(decoder(), list(prompt), LONG_ANSWER)


def prompt(seed: int) -> tuple[int, ...]:
    """Every other one begins with a part of the same text."""
    dice = random.Random(seed)
    own = [dice.randrange(6, 8000) for _ in range(dice.randrange(1, 40))]
    shared = STEM[: dice.choice((0, 15, 16, 17, 48, 100, 150))]
    return tuple(shared + own)


SCHEDULES = st.lists(
    st.tuples(
        st.integers(0, 11),  # which prompt
        st.integers(0, 4),  # steps since the one before
        st.none()
        | st.integers(0, 20),  # steps until the client goes away: it waits, reads, answers
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=8, deadline=None)
@given(
    SCHEDULES,
    st.integers(22, 70),
    st.integers(1, 8),
    st.sampled_from([17, 40, 200]),
    st.sampled_from([0, 40]),
)
def test_greedy_answers_are_the_same_alone_and_in_any_schedule(
    schedule: list[tuple[int, int, int | None]],
    num_blocks: int,
    max_running: int,
    step_tokens: int,
    host: int,
) -> None:
    engine = real_engine(
        decoder(),
        num_blocks,
        max_running=max_running,
        step_tokens=step_tokens,
        num_host_blocks=host,
    )
    reports: list[Stepped] = []
    for work in traffic(schedule):
        engine.take(work)
        reports.append(engine.step())
    while engine.patience_s == 0:
        reports.append(engine.step())
    got = answers(reports)
    for id, (seed, _, patience) in enumerate(schedule):
        whole, text = expected(prompt(seed)), got.get(id, [])
        assert text == whole[: len(text)]
        assert patience is not None or text == whole
    pool = engine._scheduler.prefixes.pool
    assert (pool.num_held, pool.available) == (0, num_blocks)


def traffic(schedule: list[tuple[int, int, int | None]], num_tokens: int = ANSWER) -> list[Work]:
    """What clients want before each step, in answers of so many tokens."""
    steps: dict[int, Work] = defaultdict(lambda: Work([], []))
    now = 0
    for id, (seed, gap, patience) in enumerate(schedule):
        now += gap
        steps[now].submitted.append(greedy(id, list(prompt(seed)), num_tokens))
        if patience is not None:
            steps[now + patience].aborted.append(id)
    return [steps[step] for step in range(max(steps) + 1)]


CROWDS = st.lists(
    st.tuples(
        st.integers(0, 11),  # which prompt
        st.integers(16, LONG_ANSWER),  # tokens of the answer
    ),
    min_size=4,
    max_size=6,
)


def test_answers_in_too_little_memory_are_the_same_as_well() -> None:
    """They are preempted, find blocks of each other and their own, some of them in host memory."""
    counted: list[Counters] = []

    @settings(max_examples=6, deadline=None)
    @example([(seed, LONG_ANSWER) for seed in range(6)], 0, 64, 40)
    @given(CROWDS, st.integers(0, 3), st.integers(17, 128), st.integers(0, 60))
    def in_too_little_memory(
        crowd: list[tuple[int, int]], spare_blocks: int, step_tokens: int, num_host_blocks: int
    ) -> None:
        longest = max(len(prompt(seed)) + count for seed, count in crowd)
        engine = real_engine(
            decoder(),
            -(-longest // BLOCK_TOKENS) + spare_blocks,
            max_running=6,
            step_tokens=step_tokens,
            num_host_blocks=num_host_blocks,
        )
        asked = [greedy(id, list(prompt(seed)), count) for id, (seed, count) in enumerate(crowd)]
        engine.take(Work(asked, []))
        reports = []
        while engine.patience_s == 0:
            reports.append(engine.step())
        whole = {id: long_answer(prompt(seed))[:count] for id, (seed, count) in enumerate(crowd)}
        assert answers(reports) == whole
        counted.append(reports[-1].counters)

    in_too_little_memory()
    assert sum(each.preemptions for each in counted) > 0
    assert sum(each.cached_prompt_tokens for each in counted) > 0
    assert sum(each.host_loaded_blocks for each in counted) > 0
