"""In exact mode drafts change no token of the real model, greedy or seeded, in any schedule."""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_runtime.engine.messages import Counters, Sampling, Stepped, Submission, Work
from aweigh_runtime.engine.speculation.ngram import NGram
from aweigh_runtime.engine.speculation.proposer import Proposer
from aweigh_runtime.engine.speculation.speculator import Speculator
from tests.runtime.engine.real import (
    alone,
    answers,
    draft_model,
    draft_speculator,
    greedy,
    real_engine,
)
from tests.runtime.engine.test_exact import (
    ANSWER,
    LONG_ANSWER,
    SCHEDULES,
    decoder,
    expected,
    long_answer,
    prompt,
    traffic,
)

Schedule = list[tuple[int, int, int | None]]


def proposer(kind: str, num_blocks: int, step_tokens: int) -> Proposer:
    if kind == "draft":
        return draft_model(decoder(), num_blocks, step_tokens=step_tokens)
    return NGram()


class EvenSteps(Speculator):
    """Each step is told to have taken a second: a busy machine does not end the drafting."""

    def took(self, rows: int, seconds: float, others: int, *, steady: bool = True) -> float:
        del seconds
        return super().took(rows, 1.0, others, steady=steady)


@dataclass
class Room:
    """What an engine has."""

    num_blocks: int
    max_running: int
    step_tokens: int
    num_host_blocks: int = 0


def run(
    schedule: Schedule, kind: str, room: Room, num_tokens: int = ANSWER
) -> tuple[dict[int, list[int]], Counters]:
    engine = real_engine(
        decoder(),
        **asdict(room),
        speculator=EvenSteps([proposer(kind, room.num_blocks, room.step_tokens)], longest=4),
    )
    reports: list[Stepped] = []
    for work in traffic(schedule, num_tokens):
        engine.take(work)
        reports.append(engine.step())
    while engine.patience_s == 0:
        reports.append(engine.step())
    return answers(reports), reports[-1].counters


def expect_the_same(
    schedule: Schedule, got: dict[int, list[int]], num_tokens: int = ANSWER
) -> None:
    reference = expected if num_tokens == ANSWER else long_answer
    for id, (seed, _, patience) in enumerate(schedule):
        whole, text = reference(prompt(seed)), got.get(id, [])
        assert text == whole[: len(text)]
        assert patience is not None or text == whole


@settings(max_examples=6, deadline=None)
@given(
    SCHEDULES,
    st.integers(22, 70),
    st.integers(1, 8),
    st.sampled_from([17, 40, 200]),
    st.sampled_from(["draft", "ngram"]),
)
def test_greedy_answers_are_those_without_drafts(
    schedule: Schedule,
    num_blocks: int,
    max_running: int,
    step_tokens: int,
    kind: str,
) -> None:
    got, _ = run(schedule, kind, Room(num_blocks, max_running, step_tokens))
    expect_the_same(schedule, got)


REPEATING = 40  # tokens


@pytest.mark.parametrize("kind", ["draft", "ngram"])
def test_long_greedy_answers_have_drafts_that_stay_and_drafts_that_do_not(kind: str) -> None:
    drafting = EvenSteps([proposer(kind, 256, 200)], longest=4)
    engine = real_engine(decoder(), 256, max_running=4, speculator=drafting)
    # They repeat themselves, so that looking up finds something before its worth is known.
    asked = {id: [*prompt(id)[-8:] * 4, *prompt(id)[:3]] for id in range(4)}
    engine.take(Work([greedy(id, each, REPEATING) for id, each in asked.items()], []))
    reports: list[Stepped] = [engine.step()]
    while engine.patience_s == 0:
        reports.append(engine.step())
    assert answers(reports) == {id: alone(decoder(), each, REPEATING) for id, each in asked.items()}
    counters = reports[-1].counters
    assert 0 < counters.accepted_tokens < counters.drafted_tokens


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_thousand_greedy_requests_are_those_without_drafts(tell: Callable[[str], None]) -> None:
    """A quarter has long answers in too little memory: some are preempted, or go to the host's."""
    dice = random.Random(7)
    done = 0  # requests that were answered to their end
    prompts: set[int] = set()
    counted: list[Counters] = []
    while done < 1000:
        schedule = [
            (dice.randrange(1000), dice.randrange(5), dice.choice((None, None, dice.randrange(20))))
            for _ in range(50)
        ]
        kind, step_tokens = dice.choice(("draft", "ngram")), dice.choice((17, 40, 200))
        if len(counted) % 4:
            num_tokens, room = ANSWER, Room(dice.randint(22, 70), dice.randint(1, 8), step_tokens)
        else:
            num_tokens, room = LONG_ANSWER, Room(dice.randint(15, 18), 6, step_tokens, 60)
        got, counters = run(schedule, kind, room, num_tokens)
        expect_the_same(schedule, got, num_tokens)
        whole = [seed for seed, _, patience in schedule if patience is None]
        done += len(whole)
        prompts.update(whole)
        counted.append(counters)
    preempted = sum(each.preemptions for each in counted)
    loaded = sum(each.host_loaded_blocks for each in counted)
    drafted = sum(each.drafted_tokens for each in counted)
    accepted = sum(each.accepted_tokens for each in counted)
    tell(
        f"{done} greedy requests with drafts, the same tokens: {drafted} tokens drafted, "
        f"{accepted} accepted, {preempted} preemptions, {loaded} blocks from host memory"
    )
    assert len(prompts) > 500
    assert drafted > 1000
    assert min(accepted, preempted, loaded) > 0


@pytest.mark.parametrize("longest", [1, 3, 6])
def test_seeded_texts_are_the_same_at_every_length(longest: int) -> None:
    submissions = [
        Submission(
            id,
            list(prompt(id)),
            ANSWER,
            [],
            Sampling(temperature=0.9, top_p=0.95, seed=id, seeded=True, repetition_penalty=1.2),
        )
        for id in range(6)
    ]

    def texts(speculator: Speculator | None) -> tuple[dict[int, list[int]], Counters]:
        engine = real_engine(decoder(), speculator=speculator)
        engine.take(Work([copy_of(each) for each in submissions], []))
        reports = []
        while engine.patience_s == 0:
            reports.append(engine.step())
        return answers(reports), reports[-1].counters

    drafted, counters = texts(draft_speculator(decoder(), longest=longest))
    assert drafted == texts(None)[0]
    assert 0 < counters.accepted_tokens < counters.drafted_tokens


def copy_of(submission: Submission) -> Submission:
    """The engine appends to the prompt that it is given."""
    return Submission(
        submission.id, list(submission.prompt), submission.max_tokens, [], submission.sampling
    )
