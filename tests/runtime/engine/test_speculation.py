"""Drafts change how soon an answer comes, never what it says; drafters read what is theirs."""

import time
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_runtime.engine.history import History
from aweigh_runtime.engine.messages import Sampling, Speculation, Submission, Work
from aweigh_runtime.engine.repeats import LONGEST, PLACES, SHORTEST, Index
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling.verification import Drafted
from aweigh_runtime.engine.scheduler import Part
from aweigh_runtime.engine.speculation.ngram import NGram
from aweigh_runtime.engine.speculation.proposer import Asked, Proposal, Proposer
from aweigh_runtime.engine.speculation.speculator import Speculator
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.step_inputs import Tokens
from tests.runtime.engine.drafting import (
    draft_model,
    engine,
    listed,
    mostly_right,
    never_right,
    outputs,
    run,
    submission,
    texts,
)
from tests.runtime.engine.machine import VOCABULARY, answer, next_token

REQUESTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=14),
        st.integers(1, 18),  # tokens of the answer
        st.none() | st.integers(0, 9),  # steps until the client goes away
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=150, deadline=None)
@given(
    REQUESTS,
    st.integers(9, 40),
    st.integers(1, 5),
    st.integers(5, 40),
    st.integers(1, 6),
    st.sampled_from(["draft", "bad", "ngram", "two", "chained", "chained badly"]),
)
def test_answers_are_those_without_drafts_in_any_schedule(
    requests: list[tuple[list[int], int, int | None]],
    num_blocks: int,
    max_running: int,
    step_tokens: int,
    longest: int,
    kind: str,
) -> None:
    proposers: dict[str, list[Proposer]] = {
        "draft": [draft_model(mostly_right, step_tokens)[0]],
        "bad": [draft_model(never_right, step_tokens)[0]],
        "ngram": [NGram()],
        "chained": [draft_model(mostly_right, step_tokens, chained=longest)[0]],
        "chained badly": [draft_model(never_right, step_tokens, chained=longest)[0]],
        "two": [draft_model(never_right)[0], draft_model(mostly_right, step_tokens)[0]],
    }
    running = engine(
        proposers[kind],
        longest,
        num_blocks=num_blocks,
        max_running=max_running,
        step_tokens=step_tokens,
    )
    running.runs_ahead = kind.startswith("chained")
    work = [
        Work([submission(id, *each[:2], sampling=bounded(id))], [])
        for id, each in enumerate(requests)
    ]
    work += [Work([], []) for _ in range(12)]
    for id, (_, _, patience) in enumerate(requests):
        if patience is not None:
            work[id + patience].aborted.append(id)
    reports = run(running, work)
    got = texts(reports)
    told = reports[-1].speculation
    assert told is not None
    assert told.state != "failed", told.message  # it has read what is its own, and nothing else
    for id, (prompt, count, patience) in enumerate(requests):
        whole, text = answer(prompt, count), got.get(id, [])
        assert text == whole[: len(text)]
        assert patience is not None or text == whole
    pool = running._scheduler.prefixes.pool
    assert (pool.num_held, pool.available) == (0, num_blocks)


def bounded(id: int) -> Sampling:
    """Some answers are not to end at once: until then somebody looks at their tokens."""
    return Sampling(temperature=0, min_tokens=4 * (id % 3))


def test_a_good_draft_saves_steps_and_is_counted() -> None:
    drafter, _ = draft_model(next_token)
    reports = run(engine([drafter], num_blocks=64), [Work([submission(1, [0, 1, 2], 40)], [])])
    counters = reports[-1].counters
    assert texts(reports)[1] == answer([0, 1, 2], 40)
    assert counters.accepted_tokens == counters.drafted_tokens > 20
    assert counters.decode_tokens == 39
    assert counters.decoded_rows == 39 - counters.accepted_tokens
    assert sum(counters.drafted_at) == counters.drafted_tokens
    assert counters.drafted_at == counters.accepted_at
    assert reports[-1].speculation is not None
    assert reports[-1].speculation.state == "active"


def test_drafts_end_at_the_answers_limit_and_at_its_stop_token() -> None:
    drafter, _ = draft_model(next_token)
    whole = answer([0, 1, 2], 30)
    stop = next(token for token in whole[3:] if token != whole[2])
    first = next(place for place, token in enumerate(whole) if token == stop)
    work = [Work([Submission(1, [0, 1, 2], 30, [stop], Sampling(temperature=0))], [])]
    reports = run(engine([drafter]), work)
    assert texts(reports)[1] == whole[: first + 1]
    assert outputs(reports)[-1].finish == "stop"


def test_what_was_read_of_a_prefix_need_not_be_read_again() -> None:
    drafter, model = draft_model(next_token)
    running = engine([drafter], num_blocks=64)
    prompt = [index % VOCABULARY for index in range(24)]
    run(running, [Work([submission(1, prompt, 12)], [])])
    once = model.tokens_read
    run(running, [Work([submission(2, prompt, 12)], [])])
    assert model.tokens_read - once <= once - 20


def test_without_memory_for_drafts_answers_go_on() -> None:
    drafter, _ = draft_model(next_token)

    def fail(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    drafter._forward = fail
    reports = run(engine([drafter]), [Work([submission(1, [0, 1, 2], 20)], [])])
    assert texts(reports)[1] == answer([0, 1, 2], 20)
    state = reports[-1].speculation
    assert state is not None
    assert (state.state, state.reason) == ("failed", "OutOfMemory")


def test_a_step_without_memory_is_repeated_without_drafts_and_nobody_fails() -> None:
    drafter, _ = draft_model(next_token)
    running = engine([drafter])
    whole, failed = running._forward, False

    def short_of_memory(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        nonlocal failed
        if not failed and any(chunk.num_logits > 1 for chunk in chunks):
            failed = True
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(tokens, chunks)

    running._forward = short_of_memory
    reports = run(running, [Work([submission(1, [0, 1, 2], 20), submission(2, [2, 2], 20)], [])])
    assert failed
    assert texts(reports) == {1: answer([0, 1, 2], 20), 2: answer([2, 2], 20)}
    assert running._speculator is not None
    pace = running._speculator._candidates[0].pace
    assert (pace.verified, pace.rate) == (0, 1.0)  # nobody has verified them: nothing is learned


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_draft_whose_logits_are_no_numbers_harms_nobody(broken: float) -> None:
    drafter, model = draft_model(next_token)
    drafter._forward = lambda tokens, chunks: model(listed(tokens), chunks).fill_(broken)
    reports = run(engine([drafter]), [Work([submission(1, [0, 1, 2], 20)], [])])
    assert texts(reports)[1] == answer([0, 1, 2], 20)


def test_a_draft_that_fails_in_an_unforeseen_way_costs_the_draft() -> None:
    drafter, _ = draft_model(next_token)

    def fail(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        raise KeyError("nobody has thought of it")

    drafter._forward = fail
    reports = run(engine([drafter]), [Work([submission(1, [0, 1, 2], 20)], [])])
    assert texts(reports)[1] == answer([0, 1, 2], 20)
    state = reports[-1].speculation
    assert state is not None
    assert (state.state, state.reason) == ("failed", "DraftUnavailable")


def test_the_reason_is_that_of_the_last_draft_lost_and_all_are_named() -> None:
    drafter, _ = draft_model(next_token)

    def fail(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    drafter._forward = fail
    earlier = Speculation("failed", "VocabularyMismatch", "other has 9 tokens; expected 64")
    running = engine([drafter, NGram()], failure=earlier)
    reports = run(running, [Work([submission(1, [0, 1, 2], 20)], [])])
    assert texts(reports)[1] == answer([0, 1, 2], 20)
    state = reports[-1].speculation
    assert state is not None
    assert state.state != "failed"  # the lookup is left
    assert "other has 9 tokens" in state.message
    assert "no memory left to draft with next_token" in state.message

    other, _ = draft_model(next_token)
    other._forward = fail
    alone = engine([other], failure=earlier)
    state = run(alone, [Work([submission(1, [0, 1, 2], 20)], [])])[-1].speculation
    assert state is not None
    assert (state.state, state.reason) == ("failed", "OutOfMemory")


class Sleeper:
    """Takes its time to draft nothing."""

    stops_early = holds_memory = False
    chained = None

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self._seconds = name, seconds

    def propose(self, asked: Sequence[Asked], stays: Sequence[float]) -> list[Proposal]:
        time.sleep(self._seconds)
        return [Proposal(Drafted()) for _ in asked]

    def release(self) -> None:
        """Nothing is held."""


def test_two_that_draft_in_one_step_are_each_charged_their_own_time() -> None:
    speculator = Speculator([Sleeper("slow", 0.02), Sleeper("quick", 0.0)], longest=4)
    requests = [request(id, [1, 2, 3]) for id in range(4)]
    for _ in range(4):
        assert speculator.lookahead(4, 0.0) is not None
        for id, each in enumerate(requests):
            each.history = History(id % 2)
        speculator.took(4, 0.01, 0)  # a plain step: what a drafted token is compared with
        speculator.lookahead(4, 0.0)
        speculator.propose([Part(each, 2, 3, room=4) for each in requests])
        drafting = sum(speculator._step.seconds.values())
        assert speculator.took(4, drafting + 0.012, 0) == pytest.approx(0.012)
    slow, quick = (each.pace.times.token(4) for each in speculator._candidates.left)
    assert slow[0] == pytest.approx(0.02 / 2 / 0.01, rel=0.3)  # 2 tokens for each of 4 answers
    assert quick[0] < slow[0] / 4  # a busy machine wakes nobody at once
    assert slow[1] == quick[1] == pytest.approx((0.012 - 0.01) / 4 / 0.01)


def test_logprobs_come_for_each_token_and_are_the_same() -> None:
    def of(proposers: list[Proposer]) -> list[tuple[int, object]]:
        reports = run(
            engine(proposers, num_blocks=64), [Work([submission(1, [0, 1, 2], 24, logprobs=2)], [])]
        )
        return [
            (score.rank, pytest.approx(score.logprob))
            for output in outputs(reports)
            for score in output.logprobs or ()
        ]

    assert len(of([])) == 24
    assert of([draft_model(mostly_right)[0]]) == of([])


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 6), st.data())
def test_a_lookup_finds_the_last_place_where_the_longest_run_stood(
    tokens: list[int], count: int, data: st.DataObject
) -> None:
    grown: list[int] = []
    index = Index(grown)
    while len(grown) < len(tokens):
        grown.extend(tokens[len(grown) : len(grown) + data.draw(st.integers(1, 5))])
        index.read(index.unread)
        assert index.following(count) == by_search(grown, count)


def test_long_prompts_are_read_over_several_steps_and_only_their_ends() -> None:
    tokens = [*range(20_000), 15_000, 15_001]
    asked = [Asked(request(id, list(tokens)), 3, 0.0) for id in range(2)]
    lookup = NGram()
    for each in asked:
        each.request.history = History(0)
    ready = [[each.ready for each in lookup.propose(asked, [])] for _ in range(4)]
    assert ready == [[False, False], [True, False], [True, False], [True, True]]
    for proposal in lookup.propose(asked, []):
        assert proposal.drafted.tokens == [15_002, 15_003, 15_004]
    early = Asked(request(3, [*range(20_000), 7, 8]), 3, 0.0)
    early.request.history = History(0)
    found = [lookup.propose([early], [])[0] for _ in range(3)][-1]
    assert found.ready
    assert found.drafted.tokens == []  # its pair stood too long ago


def request(id: int, tokens: list[int]) -> Request:
    return Request.of(Submission(id, tokens, 8, [], Sampling()))


def by_search(tokens: list[int], count: int) -> list[int]:
    ends = range(len(tokens) - 1, SHORTEST - 1, -1)
    places = [end for end in ends if tokens[end - SHORTEST : end] == tokens[-SHORTEST:]][:PLACES]
    for length in range(LONGEST, SHORTEST - 1, -1):
        for end in places:
            if end >= length and tokens[end - length : end] == tokens[-length:]:
                text = list(tokens)
                for _ in range(count):
                    text.append(text[len(text) - len(tokens) + end])
                return text[len(tokens) :]
    return []
