import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.scheduler import RequestTooLong, Scheduler
from aweigh_runtime.model.chunks import Chunk

MAX_MODEL_LEN = 64


def request(id: int, prompt: int, answer: int = 4) -> Request:
    return Request(id, [0] * prompt, num_prompt_tokens=prompt, max_tokens=prompt + answer)


def compute(scheduler: Scheduler, chunks: list[Chunk]) -> list[int]:
    """Do what the step loop does; returns the ids that finished."""
    finished = []
    for chunk in chunks:
        holder = scheduler.holder(chunk.slot)
        assert chunk.start == holder.computed
        holder.computed = chunk.end
        if holder.pending == 0:
            holder.tokens.append(0)
            if len(holder.tokens) == holder.max_tokens:
                scheduler.finish(holder)
                finished.append(holder.id)
    return finished


def plan(scheduler: Scheduler, chunks: list[Chunk]) -> list[tuple[int, int]]:
    return [(scheduler.holder(chunk.slot).id, chunk.num_tokens) for chunk in chunks]


def test_requests_are_admitted_in_order_while_slots_are_free() -> None:
    scheduler = Scheduler(max_running=2, step_tokens=16, max_model_len=MAX_MODEL_LEN)
    for id in (1, 2, 3):
        scheduler.add(request(id, prompt=4))
    assert plan(scheduler, scheduler.step()) == [(1, 4), (2, 4)]
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)
    assert scheduler.waiting_prompt_tokens == 4


def test_a_long_prompt_is_read_in_chunks_and_stalls_nobody() -> None:
    scheduler = Scheduler(max_running=2, step_tokens=8, max_model_len=MAX_MODEL_LEN)
    scheduler.add(request(1, prompt=2, answer=8))
    compute(scheduler, scheduler.step())
    scheduler.add(request(2, prompt=20))
    for expected in (7, 7, 6):
        chunks = scheduler.step()
        assert plan(scheduler, chunks) == [(1, 1), (2, expected)]
        compute(scheduler, chunks)


def test_the_oldest_prompt_moves_even_when_the_budget_is_as_small_as_allowed() -> None:
    scheduler = Scheduler(max_running=3, step_tokens=3, max_model_len=MAX_MODEL_LEN)
    for id in (1, 2):
        scheduler.add(request(id, prompt=1, answer=8))
    compute(scheduler, scheduler.step())
    scheduler.add(request(3, prompt=5))
    assert plan(scheduler, scheduler.step()) == [(1, 1), (2, 1), (3, 1)]


def test_a_finished_request_makes_room_in_the_next_step() -> None:
    scheduler = Scheduler(max_running=1, step_tokens=8, max_model_len=MAX_MODEL_LEN)
    scheduler.add(request(1, prompt=2, answer=1))
    scheduler.add(request(2, prompt=3))
    assert compute(scheduler, scheduler.step()) == [1]
    assert plan(scheduler, scheduler.step()) == [(2, 3)]


@pytest.mark.parametrize("steps", [0, 1, 3], ids=["waiting", "reading", "decoding"])
def test_an_aborted_request_is_gone_at_once(steps: int) -> None:
    scheduler = Scheduler(max_running=1, step_tokens=2, max_model_len=MAX_MODEL_LEN)
    scheduler.add(request(1, prompt=4, answer=8))
    for _ in range(steps):
        compute(scheduler, scheduler.step())
    scheduler.abort(1)
    assert scheduler.idle
    assert scheduler.waiting_prompt_tokens == 0
    assert scheduler.step() == []


def test_aborting_what_has_finished_is_no_error() -> None:
    scheduler = Scheduler(max_running=1, step_tokens=8, max_model_len=MAX_MODEL_LEN)
    scheduler.add(request(1, prompt=2, answer=1))
    compute(scheduler, scheduler.step())
    scheduler.abort(1)
    assert scheduler.idle


@pytest.mark.parametrize(("prompt", "answer"), [(60, 5), (0, 1)])
def test_a_request_that_can_never_fit_is_refused_with_the_numbers(prompt: int, answer: int) -> None:
    scheduler = Scheduler(max_running=1, step_tokens=8, max_model_len=MAX_MODEL_LEN)
    with pytest.raises(RequestTooLong, match=rf"{prompt} prompt tokens .* at most 64"):
        scheduler.add(request(1, prompt, answer))
    assert scheduler.idle


ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 6),  # steps since the one before
        st.integers(1, 40),  # prompt
        st.integers(1, 20),  # answer
        st.none() | st.integers(0, 12),  # steps until the client goes away
    ),
    min_size=1,
    max_size=20,
)


@given(ARRIVALS, st.integers(1, 4), st.integers(0, 12))
def test_everything_ends_and_every_slot_comes_back(
    arrivals: list[tuple[int, int, int, int | None]], max_running: int, spare_tokens: int
) -> None:
    budget = max_running + spare_tokens
    scheduler = Scheduler(max_running, budget, MAX_MODEL_LEN)
    starts: dict[int, list[Request]] = {}
    aborts: dict[int, list[int]] = {}
    now = 0
    for id, (gap, prompt, answer, patience) in enumerate(arrivals):
        now += gap
        starts.setdefault(now, []).append(request(id, prompt, answer))
        if patience is not None:
            aborts.setdefault(now + patience, []).append(id)

    finished: set[int] = set()
    for step in range(now + 20 * len(arrivals) * 60):
        for new in starts.get(step, []):
            scheduler.add(new)
        for id in aborts.get(step, []):
            scheduler.abort(id)
        decoding = [r for r in scheduler._running.values() if r.pending == 1]
        chunks = scheduler.step()
        assert sum(chunk.num_tokens for chunk in chunks) <= budget
        assert len({chunk.slot for chunk in chunks}) == len(chunks)
        assert {r.slot for r in decoding} <= {chunk.slot for chunk in chunks}
        assert bool(chunks) != scheduler.idle
        finished |= set(compute(scheduler, chunks))
        if step > now and scheduler.idle and not any(at > step for at in aborts):
            break

    patient = {id for id, arrival in enumerate(arrivals) if arrival[3] is None}
    assert patient <= finished
    assert scheduler.idle
    for id in range(max_running):  # every slot can be taken again
        scheduler.add(request(id, prompt=1))
    assert {chunk.slot for chunk in scheduler.step()} == set(range(max_running))
