"""Chains of drafts that nobody reads before they are verified: nothing that befalls them harms."""

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from aweigh_runtime.engine.loop import Engine
from aweigh_runtime.engine.messages import Sampling, Submission, Work
from aweigh_runtime.engine.speculation.draft_model import DraftModel
from aweigh_runtime.engine.speculation.speculator import Speculator
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.step_inputs import Tokens
from tests.runtime.engine import machine
from tests.runtime.engine.chaining import Steps, draft_four, draft_unequally
from tests.runtime.engine.drafting import (
    BLOCK_TOKENS,
    Next,
    Remembering,
    draft_model,
    engine,
    frame,
    in_list,
    run,
    submission,
    texts,
)
from tests.runtime.engine.hashing import VOCABULARY, Hashing, guess, likeliest
from tests.runtime.engine.machine import answer, next_token
from tests.runtime.engine.test_run_ahead import (
    BIASED,
    DRAWN,
    GREEDY,
    MINIMUM,
    PENALIZED,
    PROMPTS,
    Arrival,
    expect_the_same,
    fresh,
    once,
    play,
    told,
    traffic_of,
)
from tests.runtime.engine.test_run_ahead import engine as engine_of_hashing

MOSTLY_GREEDY = st.sampled_from([*[GREEDY] * 8, DRAWN, MINIMUM])
ARRIVALS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 9]),  # steps since the one before
        st.sampled_from(PROMPTS),
        st.sampled_from([4, 20, 40, 40]),  # tokens of the answer
        MOSTLY_GREEDY,
        st.sets(st.integers(0, 4 * VOCABULARY), max_size=1),  # stop tokens; most never come
        st.sampled_from([None, None, None, 4, 9]),  # steps until the client goes away
    ),
    min_size=2,
    max_size=6,
)
POOLS = st.fixed_dictionaries(
    {
        "num_blocks": st.integers(14, 28),
        "max_running": st.integers(2, 5),
        "step_tokens": st.sampled_from([8, 16, 64]),
        "num_host_blocks": st.sampled_from([0, 16]),
    }
)


class Short(Hashing):
    """Finds no memory in one of the steps that verify drafts."""

    def __init__(self, broken: frozenset[int], left: int) -> None:
        super().__init__(broken)
        self._left = left  # such steps that it has memory for

    def forward(self, tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        self._left -= any(chunk.num_logits > 1 for chunk in chunks)
        if self._left < 0:
            self._left = 1 << 16
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(tokens, chunks)


@settings(max_examples=120, deadline=None)
@given(
    ARRIVALS,
    POOLS,
    st.frozensets(st.integers(8, 40), max_size=2),
    st.integers(0, 40),
    st.tuples(st.integers(0, 1 << 16), st.integers(1, 5)),
)
def test_answers_are_those_of_steps_one_by_one_whatever_each_wants_in_each_step(
    arrivals: list[Arrival],
    pool: dict[str, int],
    broken: frozenset[int],
    steps: int,
    rooms: tuple[int, int],
) -> None:
    _, longest = rooms
    drafter = over_hashing(guess, longest, pool["step_tokens"])
    with pytest.MonkeyPatch.context() as patch:
        draft_unequally(patch, *rooms)
        models = Hashing(broken), Short(broken, steps)
        reports = expect_the_same(
            traffic_of(arrivals), models, Speculator([drafter], longest), pool
        )
    state = reports[-1].speculation
    assert state is not None
    assert state.state != "failed", state.message  # it has read what is its own, and nothing else


def over_hashing(following: Next, longest: int, step_tokens: int = 16) -> DraftModel:
    drafter, _ = draft_model(following, step_tokens, chained=longest, vocab_size=VOCABULARY)
    return drafter


@pytest.mark.parametrize("sampling", [DRAWN, PENALIZED, BIASED])
def test_beside_an_answer_that_is_not_greedy_there_are_no_chains_until_it_has_ended(
    monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    draft_four(monkeypatch)
    drafter = over_hashing(likeliest, 4)
    other = Submission(1, [2, 1], 12, [], structs.replace(sampling, seeded=True))
    asked = once(Submission(0, [1, 2], 50, [], GREEDY), other)
    models, speculator = (Hashing(), Hashing()), Speculator([drafter], longest=4)
    reports = expect_the_same(asked, models, speculator, {"num_blocks": 64})
    ended = [any(each.id == 1 and each.finish for each in report.outputs) for report in reports]
    alone = sum(len(each.tokens) for report in reports[ended.index(True) + 1 :]
                for each in report.outputs)  # fmt: skip
    assert drafter.chained is not None
    chain = drafter.chained._chain
    assert isinstance(chain, Steps)
    assert chain.begun == 1
    assert 1 <= chain.went_on <= -(-alone // 5)


def test_an_answer_whose_numbers_break_in_a_draft_has_all_tokens_before_and_fails_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draft_four(monkeypatch)
    pool = {"num_blocks": 64}
    asked = once(*(Submission(id, [1, 2, id], 40, [], GREEDY) for id in range(3)))
    whole, _, _ = told(
        play(engine_of_hashing(Hashing(), ahead=False, num_blocks=64), fresh(asked))
    )[0]
    stayed = set()  # tokens of the draft that stood before it
    for place, token in enumerate(whole):
        if token == 0 and place >= 1:  # what it says next is no number
            broken = frozenset([3 + place + 1])
            speculator = Speculator([over_hashing(likeliest, 4)], longest=4)
            reports = expect_the_same(asked, (Hashing(broken), Hashing(broken)), speculator, pool)
            (last,) = (each for each in reports if any(f.id == 0 for f in each.failures))
            stayed.add(sum(len(output.tokens) for output in last.outputs if output.id == 0))
    assert len(stayed) >= 3


def test_without_memory_to_verify_a_chain_answers_go_on_without_and_drafts_come_back() -> None:
    drafter, _ = draft_model(next_token, chained=4)
    running = engine([drafter], num_blocks=256, max_model_len=512)
    running.runs_ahead = True
    whole, steps, drafted = running._forward, 0, 0

    def short_of_memory(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        nonlocal steps, drafted
        steps += any(chunk.num_logits > 1 for chunk in chunks)
        if steps == 3 and not drafted:
            drafted = running._scheduler.counters.drafted_tokens
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(tokens, chunks)

    running._forward = short_of_memory
    reports = run(running, [Work([submission(1, [0, 1, 2], 340), submission(2, [2, 2], 330)], [])])
    assert texts(reports) == {1: answer([0, 1, 2], 340), 2: answer([2, 2], 330)}
    told = [each.speculation for each in reports if each.speculation is not None]
    assert ("paused", "OutOfMemory") in [(each.state, each.reason) for each in told]
    counters = reports[-1].counters
    assert counters.accepted_tokens == counters.drafted_tokens > drafted > 0


def test_a_chain_whose_blocks_were_exchanged_is_not_taken_for_a_draft(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the draft has read lies in the old ones."""
    draft_four(monkeypatch)
    running, chain = with_chains(num_blocks=64)
    speculator, running._speculator = running._speculator, None
    run(running, [Work([submission(1, [0, 1, 2], 60)], [])])  # the draft reads nothing of it
    running._speculator = speculator
    reports = run(running, [Work([submission(2, [0, 1, 2], 60)], [])])
    counters = reports[-1].counters
    assert texts(reports)[2] == answer([0, 1, 2], 60)
    assert counters.merged_blocks > 0
    assert counters.accepted_tokens == counters.drafted_tokens > 40
    assert chain.begun > 1
    assert chain.went_on > chain.begun


def with_chains(*, num_blocks: int, width: int | None = None) -> tuple[Engine, Steps]:
    """An engine drafted by the model itself, up to four tokens at once."""
    model = Remembering(next_token)
    chain = Steps(model, machine.VOCABULARY, BLOCK_TOKENS, longest=4, width=width)
    drafter = DraftModel("chained", partial(in_list, model), frame(), chain)
    running = engine([drafter], num_blocks=num_blocks)
    running.runs_ahead = True
    return running, chain


def test_drafts_go_on_before_the_host_has_read_what_became_of_the_last() -> None:
    longest = -(-(3 + 80) // BLOCK_TOKENS)  # blocks of the whole answer
    running, chain = with_chains(num_blocks=64, width=longest)
    reports = run(running, [Work([submission(1, [0, 1, 2], 80)], [])])
    counters = reports[-1].counters
    assert texts(reports)[1] == answer([0, 1, 2], 80)
    assert counters.accepted_tokens == counters.drafted_tokens > 50
    assert chain.begun <= 2  # after plain steps, which are measured now and then
    assert chain.went_on >= 79 // 5 - 2
    told = reports[-1].speculation
    assert told is not None
    assert told.state != "failed", told.message  # to the answer's end


def test_an_answer_that_has_room_for_no_more_leaves_the_others_their_chains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They end one after the other, each with a step in which it may draft nothing."""
    draft_four(monkeypatch)
    running, chain = with_chains(num_blocks=200)
    prompts = {0: [0, 1, 2], 1: [1, 0, 2], 2: [2, 2, 0], 3: [2, 1, 1], 4: [1, 2, 0]}
    started = [submission(id, prompt, 37 + 5 * id) for id, prompt in prompts.items()]
    reports = run(running, [Work(started, [])])
    assert texts(reports) == {id: answer(each, 37 + 5 * id) for id, each in prompts.items()}
    counters = reports[-1].counters
    assert counters.accepted_tokens == counters.drafted_tokens > 150
    assert chain.begun == 1
    assert chain.went_on >= 57 // 5 - 1


def test_a_chain_that_an_answer_has_left_behind_is_not_taken_for_its_draft() -> None:
    """Who comes meanwhile has a prompt, and in that step the host looks at drafts."""
    drafter, _ = draft_model(next_token, chained=4)
    running = engine([drafter], num_blocks=64)
    running.runs_ahead = True
    work = [Work([submission(1, [0, 1, 2], 90)], []), *[Work([], [])] * 12]
    work += [Work([submission(2 + id, [1, 1, id], 1)], []) for id in range(3)]
    reports = run(running, work)
    counters = reports[-1].counters
    assert texts(reports)[1] == answer([0, 1, 2], 90)
    assert counters.accepted_tokens == counters.drafted_tokens > 50


def test_chains_without_memory_cost_the_draft_and_no_answer() -> None:
    def fail(*given: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    drafter, _ = draft_model(next_token, chained=4)
    running = engine([drafter], num_blocks=64)
    running.runs_ahead = True
    running.take(Work([submission(1, [0, 1, 2], 40)], []))
    reports = [running.step() for _ in range(4)]
    assert drafter.chained is not None
    drafter.chained._chain.draft = fail  # type: ignore[assignment,method-assign]
    reports += run(running, [])
    assert texts(reports)[1] == answer([0, 1, 2], 40)
    state = reports[-1].speculation
    assert state is not None
    assert (state.state, state.reason) == ("failed", "OutOfMemory")
