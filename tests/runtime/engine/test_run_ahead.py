"""The step loop one step ahead of what the host knows: nobody can tell by the answers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from aweigh_runtime.engine.loop import Engine
from aweigh_runtime.engine.messages import Counters, Failure, Sampling, Stepped, Submission, Work
from aweigh_runtime.engine.prefixes import Copies
from aweigh_runtime.engine.sampling.choice import Sampler
from aweigh_runtime.engine.sampling.pending import Chosen, Pending
from aweigh_runtime.engine.sampling.row import Row
from aweigh_runtime.engine.sampling.verification import Drafted
from aweigh_runtime.engine.scheduler import Lookahead
from aweigh_runtime.engine.speculation.ngram import NGram
from aweigh_runtime.engine.speculation.proposer import Asked, Proposal
from aweigh_runtime.engine.speculation.speculator import Speculator
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.step_inputs import Tokens
from tests.runtime.engine.hashing import BLOCK_TOKENS, VOCABULARY, Hashing
from tests.runtime.engine.machine import scheduler
from tests.runtime.engine.test_loop import NoCompiler
from tests.runtime.engine.test_scheduler import expect_consistent

GREEDY = Sampling(temperature=0)
DRAWN = Sampling(seed=7)
FILTERED = Sampling(seed=8, top_k=5, top_p=0.9, temperature=0.8)
MINIMUM = Sampling(temperature=0, min_tokens=4)
PENALIZED = Sampling(temperature=0, repetition_penalty=1.5, presence_penalty=0.5)
BIASED = Sampling(seed=9, logit_bias={2: 1.5})
KINDS = (GREEDY, DRAWN, FILTERED, MINIMUM, PENALIZED, BIASED)

Told = tuple[list[int], str | None, str]  # an answer's tokens, its end, why it has failed


@dataclass
class Traffic:
    """What happens before which step."""

    submitted: dict[int, list[Submission]] = field(default_factory=dict)
    aborted: dict[int, list[int]] = field(default_factory=dict)

    @property
    def end(self) -> int:
        return max(*self.submitted, *self.aborted, 0)


def engine(
    model: Hashing, *, ahead: bool, speculator: Speculator | None = None, **pool: int
) -> Engine:
    limits = {"num_blocks": 64, "max_running": 8, "step_tokens": 16, "max_model_len": 64, **pool}
    line = scheduler(block_tokens=BLOCK_TOKENS, **limits)  # type: ignore[arg-type]
    made = Engine(line, model.forward, Sampler(VOCABULARY), NoCompiler(), model.copy, speculator)
    made.runs_ahead = ahead
    return made


def play(running: Engine, traffic: Traffic) -> list[Stepped]:
    reports = []
    for step in range(traffic.end + 3000):
        running.take(Work(traffic.submitted.get(step, []), traffic.aborted.get(step, [])))
        reports.append(running.step())
        expect_consistent(running._scheduler)
        if step > traffic.end and running.patience_s > 0:
            return reports
    raise AssertionError("the engine never became idle")


def once(*submitted: Submission) -> Traffic:
    return Traffic({0: list(submitted)})


def fresh(traffic: Traffic) -> Traffic:
    """The same again: an engine writes answers behind the prompts that it is given."""
    submitted = {
        step: [structs.replace(each, prompt=each.prompt[:]) for each in those]
        for step, those in traffic.submitted.items()
    }
    return Traffic(submitted, traffic.aborted)


def told(reports: list[Stepped]) -> dict[int, Told]:
    found: dict[int, Told] = {}
    for report in reports:
        for output in report.outputs:
            tokens, finish, failure = found.get(output.id, ([], None, ""))
            assert finish is None, "an answer went on behind its end"
            found[output.id] = ([*tokens, *output.tokens], output.finish, failure)
        for failed in report.failures:
            tokens, finish, _ = found.get(failed.id, ([], None, ""))
            found[failed.id] = (tokens, finish, failed.message)
    return found


def counted(counters: Counters) -> tuple[int, ...]:
    """What does not depend on which step computes what."""
    return counters.generated_tokens, counters.decode_tokens, counters.computed_prompt_tokens


Arrival = tuple[int, list[int], int, Sampling, set[int], int | None]
PROMPTS = [stem[:length] for stem in ([1, 2, 1] * 5, [0] * 15) for length in (3, 4, 7, 10, 15)]
ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 3),  # steps since the one before
        st.sampled_from(PROMPTS),
        st.integers(0, 20),  # tokens of the answer
        st.sampled_from(KINDS),
        st.sets(st.integers(0, VOCABULARY - 1), max_size=1),  # stop tokens
        st.none() | st.integers(0, 12),  # steps until the client goes away
    ),
    min_size=1,
    max_size=10,
)
POOLS = st.fixed_dictionaries(
    {
        "num_blocks": st.integers(9, 24),
        "max_running": st.integers(1, 8),
        "step_tokens": st.sampled_from([8, 16, 64]),
        "num_host_blocks": st.sampled_from([0, 6]),
    }
)


@settings(max_examples=80, deadline=None)
@given(ARRIVALS, POOLS, st.frozensets(st.integers(8, 24), max_size=3), st.booleans())
def test_answers_are_the_same_as_those_of_steps_one_by_one(
    arrivals: list[Arrival], pool: dict[str, int], broken: frozenset[int], drafts: bool
) -> None:
    speculator = Speculator([NGram()], longest=3) if drafts else None
    models = Hashing(broken), Hashing(broken)
    expect_the_same(traffic_of(arrivals), models, speculator, pool)


def traffic_of(arrivals: Sequence[Arrival]) -> Traffic:
    traffic, now = Traffic(), 0
    for id, (gap, prompt, length, sampling, stops, patience) in enumerate(arrivals):
        now += gap
        own = structs.replace(sampling, seed=id, seeded=True)
        new = Submission(id, prompt, length, list(stops), own)
        traffic.submitted.setdefault(now, []).append(new)
        if patience is not None:
            traffic.aborted.setdefault(now + patience, []).append(id)
    return traffic


def expect_the_same(
    traffic: Traffic,
    models: tuple[Hashing, Hashing],
    speculator: Speculator | None,
    pool: dict[str, int],
) -> list[Stepped]:
    """Of an engine that takes step by step, and of one that runs ahead: what this has reported."""
    gone = {id for ids in traffic.aborted.values() for id in ids}
    found = []
    for model, ahead in zip(models, (False, True), strict=True):
        drafting = speculator if ahead else None
        running = engine(model, ahead=ahead, speculator=drafting, **pool)
        reports = play(running, fresh(traffic))
        found.append(told(reports))
        assert (reports[-1].running, reports[-1].waiting, reports[-1].kv.held) == (0, 0, 0)
    plain, ahead_of_it = found
    for each in (each for those in traffic.submitted.values() for each in those):
        if each.id not in gone:
            assert ahead_of_it[each.id] == plain[each.id]
        elif each.id in plain and each.id in ahead_of_it:
            shorter = min(plain[each.id][0], ahead_of_it[each.id][0], key=len)
            assert plain[each.id][0][: len(shorter)] == ahead_of_it[each.id][0][: len(shorter)]
    return reports


def test_an_engine_that_may_draft_is_ahead_in_every_step_that_drafts_nothing() -> None:
    events: list[str] = []
    running = watched(Hashing(), events, Speculator([Never()], longest=2))
    play(running, once(Submission(1, [1, 2], 200, [], GREEDY)))
    unread = list(accumulate(1 if event == "choose" else -1 for event in events))
    assert unread.count(2) >= 200 - ASKED  # of which the host had not read the one before


def test_drafts_that_are_wrong_change_nothing_while_steps_are_launched_ahead() -> None:
    """Naps, probes and plain steps that are due come and go in answers of this length."""
    prompts = [[1, 2], [2, 1, 1], [0] * 5]
    traffic = once(*(Submission(id, prompt, 1200, [], GREEDY) for id, prompt in enumerate(prompts)))
    asked, model, found = Asking([Wrong()], longest=3), Hashing(), []
    for ahead, speculator in ((False, None), (True, asked)):
        running = engine(
            model, ahead=ahead, speculator=speculator, num_blocks=1024, max_model_len=2048
        )
        model.calls.clear()
        found.append(told(play(running, fresh(traffic))))
    assert found[1] == found[0]
    assert 0 < running._scheduler.counters.drafted_tokens < 1200
    assert asked.times <= len(model.calls) + 2  # once for each step that is planned


class Asking(Speculator):
    """Counts how often it is asked."""

    times = 0

    def lookahead(self, rows: int, now_s: float) -> Lookahead | None:
        self.times += 1
        return super().lookahead(rows, now_s)


class Wrong:
    """Drafts what never comes next."""

    name = "wrong"
    stops_early = holds_memory = False
    chained = None

    def propose(self, asked: Sequence[Asked], stays: Sequence[float]) -> list[Proposal]:
        return [Proposal(Drafted([VOCABULARY - 1] * each.room)) for each in asked]

    def release(self) -> None:
        pass


ASKED = 150  # steps at most that tell that drafts bring nothing, and try it again now and then


class Never:
    """Has nothing to propose, and is asked again and again."""

    name = "never"
    stops_early = holds_memory = False
    chained = None

    def propose(self, asked: Sequence[Asked], stays: Sequence[float]) -> list[Proposal]:
        return [Proposal(Drafted()) for _ in asked]

    def release(self) -> None:
        pass


class Watched(Sampler):
    """Notes when tokens are chosen and when the host reads them."""

    def __init__(self, events: list[str]) -> None:
        super().__init__(VOCABULARY)
        self._events = events

    def begin(self, logits: torch.Tensor, rows: Sequence[Row]) -> Pending:
        pending, events = super().begin(logits, rows), self._events

        class Noted(Pending):
            def __init__(self) -> None:
                pass

            @property
            def tokens(self) -> torch.Tensor:
                return pending.tokens

            def chosen(self) -> Chosen:
                events.append("read")
                return pending.chosen()

        events.append("choose")
        return Noted()


def watched(model: Hashing, events: list[str], speculator: Speculator | None = None) -> Engine:
    line = scheduler(block_tokens=BLOCK_TOKENS, num_blocks=64, max_model_len=256)
    running = Engine(line, model.forward, Watched(events), NoCompiler(), model.copy, speculator)
    running.runs_ahead = True
    return running


def test_a_step_is_launched_before_the_last_one_is_read() -> None:
    events: list[str] = []
    play(watched(Hashing(), events), once(Submission(1, [1, 2], 4, [], GREEDY)))
    assert events == ["choose", "choose", "read", "choose", "read", "choose", "read", "read"]


def test_the_tokens_of_a_step_ahead_never_leave_the_device() -> None:
    model = Hashing()
    play(engine(model, ahead=True), once(Submission(1, [1, 2], 6, [], GREEDY)))
    assert (len(model.calls), model.on_device) == (6, 5)


def test_an_answer_that_stops_costs_one_row_more_and_counts_none() -> None:
    answers = {}
    for ahead in (False, True):
        model = Hashing()
        running = engine(model, ahead=ahead)
        (tokens, _, _) = told(play(running, once(Submission(1, [1, 2], 9, [], GREEDY))))[1]
        model.calls.clear()
        stop = next(t for i, t in enumerate(tokens) if t not in tokens[:i] and i >= 3)
        before = counted(running._scheduler.counters)
        reports = play(running, once(Submission(2, [1, 2], 9, [stop], GREEDY)))
        after = counted(reports[-1].counters)
        answers[ahead] = (told(reports)[2], [a - b for a, b in zip(after, before, strict=True)])
        assert len(model.calls) == tokens.index(stop) + 1 + ahead
        rows = reports[-1].counters.decoded_rows
        assert rows == reports[-1].counters.decode_tokens
    assert answers[True] == answers[False]


def test_an_answer_that_ends_at_its_limit_costs_no_row_more() -> None:
    model = Hashing()
    play(engine(model, ahead=True), once(Submission(1, [1, 2], 5, [], GREEDY)))
    assert model.calls == [2, 1, 1, 1, 1]


def test_new_requests_join_without_a_pause() -> None:
    model = Hashing()
    running = engine(model, ahead=True)
    new = Submission(2, [2, 1, 1], 3, [], GREEDY)
    play(running, Traffic({0: [Submission(1, [1, 2], 8, [], GREEDY)], 3: [new]}))
    assert model.calls == [2, 1, 1, 1, 4, 2, 2, 1]
    assert model.on_device == 7


@pytest.mark.parametrize("sampling", [PENALIZED, BIASED, MINIMUM])
def test_who_needs_the_host_for_every_token_gets_it_and_then_the_others_run_ahead(
    sampling: Sampling,
) -> None:
    events: list[str] = []
    asked = (Submission(1, [1, 2], 12, [], GREEDY), Submission(2, [2, 2], 4, [], sampling))
    found = told(play(watched(Hashing(), events), once(*asked)))
    assert events[:8] == 4 * ["choose", "read"]
    assert events[8:11] == ["choose", "choose", "read"]
    assert [len(found[id][0]) for id in (1, 2)] == [12, 4]


def test_a_minimum_that_is_reached_needs_the_host_no_more() -> None:
    events: list[str] = []
    play(watched(Hashing(), events), once(Submission(1, [1, 2], 8, [3], MINIMUM)))
    assert events[:8] == 4 * ["choose", "read"]
    assert events[8:11] == ["choose", "choose", "read"]


def test_a_row_that_is_no_number_fails_with_the_same_words() -> None:
    failures: list[list[Failure]] = []
    for ahead in (False, True):
        running = engine(Hashing(frozenset(range(40))), ahead=ahead)
        asked = [Submission(id, [1, 2, id], 30, [], GREEDY) for id in range(1, 5)]
        reports = play(running, once(*asked))
        failures.append([failure for report in reports for failure in report.failures])
    assert failures[0]
    assert sorted(failures[1], key=lambda f: f.id) == sorted(failures[0], key=lambda f: f.id)


@pytest.mark.parametrize("failing", range(2, 9))
@pytest.mark.parametrize("times", [1, 2])
def test_without_memory_a_step_ahead_waits_and_then_its_largest_request_fails_alone(
    failing: int, times: int
) -> None:
    model = Hashing()
    running = engine(model, ahead=True)
    steps = 0

    def forward(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if failing <= steps < failing + times:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model.forward(tokens, chunks)

    running._forward = forward
    asked = [Submission(id, [1, 2, id], 8, [], GREEDY) for id in range(1, 4)]
    traffic = Traffic({0: asked, 4: [Submission(9, [2] * 9, 6, [], GREEDY)]})
    plain = told(play(engine(Hashing(), ahead=False), fresh(traffic)))
    reports = play(running, fresh(traffic))
    failed = [failure.id for report in reports for failure in report.failures]
    assert len(failed) == times - 1
    for id, (tokens, finish, _) in told(reports).items():
        if id in failed:
            assert tokens == plain[id][0][: len(tokens)]
        else:
            assert (tokens, finish) == plain[id][:2]
    assert reports[-1].kv.held == 0


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_without_memory_for_the_copies_of_a_step_ahead_nobody_fails(failing: int) -> None:
    asked = [[1], [2], [1], [2], [1]]
    traffic = Traffic(
        {6 * at: [Submission(at, 17 * one, 6, [], GREEDY)] for at, one in enumerate(asked)}
    )
    plain = told(play(engine(Hashing(), ahead=False), fresh(traffic)))
    model = Hashing()
    running = engine(model, ahead=True, num_blocks=7, num_host_blocks=16, step_tokens=32)
    num_copies = 0

    def copy(copies: Copies) -> None:
        nonlocal num_copies
        num_copies += 1
        if num_copies == failing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        model.copy(copies)

    running._copy = copy
    assert told(play(running, fresh(traffic))) == plain
    assert num_copies >= failing


def test_an_abort_between_launch_and_reading_says_nothing_more() -> None:
    model = Hashing()
    running = engine(model, ahead=True)
    running.take(Work([Submission(1, [1, 2], 30, [], GREEDY)], []))
    running.step()
    running.take(Work([], [1]))
    report = running.step()
    assert (report.outputs, report.running, report.kv.held) == ([], 0, 0)


def test_the_time_of_a_step_is_counted_once() -> None:
    model = Hashing()
    running = engine(model, ahead=True)

    def forward(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        time.sleep(0.002)
        return model.forward(tokens, chunks)

    running._forward = forward
    started_s = time.monotonic()
    reports = play(running, once(Submission(1, [1, 2], 10, [], GREEDY)))
    took_s = time.monotonic() - started_s
    assert 0.02 <= sum(report.duration_s or 0.0 for report in reports) <= took_s


def test_without_memory_to_choose_for_who_has_gone_nobody_fails_and_blocks_are_free() -> None:
    class Choosing(Sampler):
        fails = False

        def choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> Chosen:
            if self.fails:
                self.fails = False
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().choose(logits, rows)

    model = Hashing()
    running = engine(model, ahead=True, num_blocks=12, step_tokens=64)
    running._sampler = sampler = Choosing(VOCABULARY)
    repeating = Sampling(temperature=0, repetition_penalty=1.5)
    running.take(Work([Submission(1, [1, 2], 20, [], GREEDY)], []))
    running.step()
    running.take(Work([Submission(2, [3] * 17, 20, [], repeating)], []))
    running.step()  # the second one's first step is launched, and chooses on the host
    running.take(Work([], [2]))
    sampler.fails = True
    failures = running.step().failures
    assert not sampler.fails
    for id in range(3, 9):  # the blocks that it held are used again
        running.take(Work([Submission(id, [id % 8] * 20, 10, [], GREEDY)], []))
        failures += [failure for _ in range(30) for failure in running.step().failures]
    assert failures == []
    assert running.step().kv.held == 0
