import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_runtime.engine.prefixes import Found
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.scheduler import (
    LONG_WAIT_S,
    PROMPT_LOGPROBS_TOKENS,
    RequestTooLong,
    Scheduler,
    Step,
)
from tests.runtime.engine.machine import VOCABULARY, Machine, answer, request, scheduler


def plan(step: Step) -> list[tuple[int, int]]:
    return [(part.request.id, part.num_tokens) for part in step.parts]


def run(machine: Machine, now_s: float = 0.0) -> list[tuple[int, int]]:
    step = machine.scheduler.step(now_s)
    machine.run(step)
    return plan(step)


def test_requests_are_admitted_in_order_while_there_is_room() -> None:
    line = scheduler(max_running=2)
    for id in (1, 2, 3):
        line.add(request(id, prompt=4), 0.0)
    assert plan(line.step(0.0)) == [(1, 4), (2, 4)]
    assert (line.num_running, line.num_waiting) == (2, 1)
    assert line.waiting_prompt_tokens == 4


def test_a_long_prompt_is_read_in_chunks_and_stalls_nobody() -> None:
    machine = Machine(scheduler(step_tokens=9), 4)
    machine.scheduler.add(request(1, prompt=2, answer=8), 0.0)
    run(machine)
    machine.scheduler.add(request(2, prompt=20), 0.0)
    assert [run(machine) for _ in range(3)] == [
        [(1, 1), (2, 8)],
        [(1, 1), (2, 8)],
        [(1, 1), (2, 4)],
    ]


def test_lower_priorities_go_first_and_are_preempted_last() -> None:
    machine = Machine(scheduler(num_blocks=4, block_tokens=4, max_running=3), 4)
    machine.scheduler.add(request(1, prompt=4, answer=12, priority=5), 0.0)
    machine.scheduler.add(request(2, prompt=4, answer=12, priority=-5), 0.0)
    assert run(machine) == [(2, 4), (1, 4)]
    finished = [each.id for each in machine.until_idle()]
    assert finished == [2, 1]
    assert machine.scheduler.counters.preemptions > 0


def test_the_burst_of_one_caller_does_not_delay_the_others() -> None:
    line = scheduler(max_running=1, num_blocks=64)
    machine = Machine(line, 4)
    for id in range(1, 9):
        line.add(request(id, prompt=4, answer=1, caller=b"loud"), 0.0)
    line.add(request(100, prompt=4, answer=1, caller=b"quiet"), 0.0)
    order = [each.id for each in machine.until_idle()]
    assert order.index(100) <= 2


def test_the_youngest_request_gives_way_when_blocks_run_out() -> None:
    machine = Machine(scheduler(num_blocks=5, block_tokens=4), 4)
    for id in (1, 2):
        machine.scheduler.add(request(id, prompt=4, answer=12), 0.0)
    finished = machine.until_idle()
    assert [each.id for each in finished] == [1, 2]
    assert machine.scheduler.counters.preemptions > 0
    for each in finished:
        assert each.tokens[4:] == answer(each.tokens[:4], 12)


def test_a_request_waits_rather_than_push_out_what_others_ask_for() -> None:
    line = scheduler(num_blocks=8, block_tokens=4, max_running=4)
    machine = Machine(line, 4)
    shared = [7] * 12
    for id in (1, 2):  # looked up twice: hot
        line.add(request(id, [*shared, id], answer=1), 0.0)
        machine.until_idle()
    line.add(request(3, prompt=4, answer=12), 0.0)
    run(machine)
    line.add(request(4, prompt=18), 0.0)
    assert [id for id, _ in run(machine, now_s=1.0)] == [3]
    assert 4 in [id for id, _ in run(machine, now_s=LONG_WAIT_S + 1)]


def test_a_prompt_that_hits_what_is_hot_need_not_wait_for_other_room() -> None:
    line = scheduler(num_blocks=12, block_tokens=4, max_running=4)
    machine = Machine(line, 4)
    shared = [7] * 16
    for id in (1, 2):  # looked up twice: four hot blocks
        line.add(request(id, [*shared, id], answer=1), 0.0)
        machine.until_idle()
    line.add(request(3, prompt=4, answer=12), 0.0)
    run(machine)
    line.add(request(4, [*shared, 4, 4, 4], answer=1), 0.0)
    assert (4, 3) in run(machine, now_s=1.0)


def test_what_nobody_has_asked_for_in_five_minutes_is_not_protected() -> None:
    line = scheduler(num_blocks=8, block_tokens=4, max_running=4)
    machine = Machine(line, 4)
    for id in (1, 2):
        line.add(request(id, [*[7] * 12, id], answer=1), 0.0)
        machine.until_idle()
    line.add(request(3, prompt=4, answer=12), 1000.0)
    run(machine, now_s=1000.0)
    line.kv_tokens(1000.0)  # every report looks at the clock
    line.add(request(4, prompt=18), 1000.0)
    assert 4 in [id for id, _ in run(machine, now_s=1000.0)]


def test_repeated_prompts_of_one_caller_hold_back_another_by_no_more_than_its_share() -> None:
    line = scheduler(num_blocks=16, block_tokens=4, max_running=4)
    machine = Machine(line, 4)
    for id in (1, 2):  # eight hot blocks: all that may be protected
        line.add(request(id, [7] * 33, answer=1, caller=b"one"), 0.0)
        machine.until_idle()
    line.add(request(3, prompt=4, answer=4, caller=b"one"), 0.0)
    run(machine)
    line.add(request(4, prompt=36, answer=1, caller=b"two"), 0.0)
    assert 4 in [id for id, _ in run(machine)]
    machine.until_idle()
    again = request(5, [7] * 33, answer=1, caller=b"one")
    line.add(again, 0.0)
    machine.until_idle()
    assert again.cached >= 16  # its share of four blocks has stayed


def test_what_was_hot_is_not_protected_from_a_new_workload_of_its_caller_for_long() -> None:
    line = scheduler(num_blocks=16, block_tokens=4, max_running=4)
    machine = Machine(line, 4)
    for id in (1, 2):
        line.add(request(id, [7] * 33, answer=1), 0.0)
        machine.until_idle()
    for id in range(3, 20):  # the memory four times over
        line.add(request(id, prompt=16, answer=1), 0.0)
        machine.until_idle()
    line.add(request(20, prompt=4, answer=12), 0.0)
    run(machine)
    line.add(request(21, prompt=48), 0.0)
    assert 21 in [id for id, _ in run(machine)]


def test_prompts_that_want_log_probabilities_share_one_bound_on_rows() -> None:
    line = scheduler(num_blocks=512, max_running=8, step_tokens=2048, max_model_len=1024)
    machine = Machine(line, 4)
    for id in range(1, 5):
        line.add(request(id, prompt=200, prompt_logprobs=0), 0.0)
    line.add(request(9, prompt=300), 0.0)
    assert sum(tokens for id, tokens in run(machine) if id < 9) <= PROMPT_LOGPROBS_TOKENS
    finished = machine.until_idle()
    assert {each.id for each in finished} == {1, 2, 3, 4, 9}


@pytest.mark.parametrize("callers", [(b"", b""), (b"one", b"other")])
def test_prompts_that_are_scored_hold_up_nobody_else(callers: tuple[bytes, bytes]) -> None:
    line = scheduler(num_blocks=4096, max_running=8, step_tokens=2048, max_model_len=8192)
    machine = Machine(line, 4)
    one, other = callers
    for id in (1, 2):
        line.add(request(id, prompt=4000, prompt_logprobs=0, caller=one), 0.0)
    for id in (3, 4):
        line.add(request(id, prompt=40, caller=other), 0.0)
    first = run(machine)
    assert {3, 4} <= {id for id, _ in first}
    assert sum(tokens for id, tokens in first if id < 3) <= PROMPT_LOGPROBS_TOKENS
    assert {each.id for each in machine.until_idle()} == {1, 2, 3, 4}


def test_with_callers_apart_nobody_puts_himself_before_another() -> None:
    machine = Machine(scheduler(num_blocks=5, block_tokens=4), 4)
    machine.scheduler.add(request(1, prompt=4, answer=12, caller=b"one"), 0.0)
    run(machine)
    machine.scheduler.add(request(2, prompt=4, answer=12, caller=b"two", priority=-(2**31)), 0.0)
    assert [each.id for each in machine.until_idle()] == [1, 2]


def test_what_was_cancelled_costs_its_caller_no_turns() -> None:
    line = scheduler(max_running=1)
    machine = Machine(line, 4)
    for id in range(1000):
        line.add(request(id, prompt=4, caller=b"one"), 0.0)
    for id in range(1000):
        line.abort(id)
    for id, caller in ((2000, b"two"), (2001, b"two"), (2002, b"one")):
        line.add(request(id, prompt=4, answer=1, caller=caller), 0.0)
    assert [each.id for each in machine.until_idle()].index(2002) <= 1


def test_a_long_prompt_that_cannot_start_is_not_searched_for_in_every_step() -> None:
    line = scheduler(num_blocks=64, block_tokens=4, max_model_len=256)
    machine = Machine(line, 4)
    line.add(request(1, prompt=100, answer=100), 0.0)
    run(machine)
    searches = 0
    find = line.prefixes.find

    def counting(request: Request) -> Found:
        nonlocal searches
        searches += 1
        return find(request)

    line.prefixes.find = counting  # type: ignore[method-assign]
    line.add(request(2, prompt=200), 0.0)
    for _ in range(60):
        run(machine)
    assert 1 <= searches <= 3
    assert {each.id for each in machine.until_idle()} == {1, 2}


@pytest.mark.parametrize("steps", [0, 1, 3], ids=["waiting", "reading", "answering"])
def test_an_aborted_request_gives_everything_back_at_once(steps: int) -> None:
    machine = Machine(scheduler(step_tokens=4, max_running=1), 4)
    machine.scheduler.add(request(1, prompt=8, answer=8), 0.0)
    for _ in range(steps):
        run(machine)
    machine.scheduler.abort(1)
    assert machine.scheduler.idle
    assert machine.scheduler.kv_tokens(0.0).held == 0
    assert machine.scheduler.waiting_prompt_tokens == 0
    assert machine.scheduler.step(0.0).parts == []


def test_aborted_requests_do_not_pile_up_behind_one_that_cannot_start() -> None:
    line = scheduler(num_blocks=4, max_running=1)
    line.add(request(1, prompt=8, answer=8), 0.0)
    line.step(0.0)
    line.add(request(2, prompt=2), 0.0)
    for id in range(3, 2000):
        line.add(request(id, prompt=2), 0.0)
        line.abort(id)
    (waiting,) = line._waiting._lines.values()
    assert len(waiting._heap) < 100


@pytest.mark.parametrize(("prompt", "answer"), [(250, 7), (0, 1), (100, 100)])
def test_a_request_that_can_never_fit_is_refused_with_the_numbers(prompt: int, answer: int) -> None:
    line = scheduler(num_blocks=40, block_tokens=4)
    with pytest.raises(
        RequestTooLong, match=rf"{prompt} prompt tokens .* 256 tokens and 40 blocks"
    ):
        line.add(request(1, prompt, answer), 0.0)
    assert line.idle


def test_a_step_that_failed_is_as_if_it_had_not_been() -> None:
    machine = Machine(scheduler(), 4)
    prompt = [1] * 13
    requests = [request(id, list(prompt)) for id in (1, 2, 3)]
    for each in requests:  # the later ones rely on blocks that this step would have filled
        machine.scheduler.add(each, 0.0)
    machine.scheduler.step(0.0)
    machine.scheduler.undo()
    assert [each.settled for each in requests] == [0, 0, 0]
    assert {tuple(each.tokens[13:]) for each in machine.until_idle()} == {tuple(answer(prompt, 4))}


PROMPTS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40)
ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 6),  # steps since the one before
        PROMPTS,
        st.integers(1, 20),  # tokens of the answer
        st.none() | st.integers(0, 12),  # steps until the client goes away
        st.integers(-1, 1),  # priority
        st.sampled_from([b"one", b"two"]),  # caller, and its salt
    ),
    min_size=1,
    max_size=16,
)
Arrival = tuple[int, list[int], int, int | None, int, bytes]
POOLS = st.fixed_dictionaries(
    {
        "num_blocks": st.integers(16, 40),
        "max_running": st.integers(1, 6),
        "step_tokens": st.integers(6, 40),
        "caching": st.booleans(),
        "max_cached": st.none() | st.integers(0, 12),
        "num_host_blocks": st.sampled_from([0, 2, 30]),
    }
)


@settings(max_examples=150, deadline=None)
@given(ARRIVALS, POOLS, st.sets(st.integers(0, 80), max_size=6))
def test_every_answer_is_right_and_every_block_comes_back(
    arrivals: list[Arrival],
    pool: dict[str, int],
    failing_steps: set[int],
) -> None:
    machine = Machine(scheduler(block_tokens=4, max_model_len=64, **pool), 4)  # type: ignore[arg-type]
    traffic = Traffic(arrivals)
    finished: dict[int, Request] = {}
    for step in range(traffic.end + 5000):
        finished |= play(machine, traffic, step, fails=step in failing_steps)
        expect_consistent(machine.scheduler)
        if step > traffic.end and machine.scheduler.idle:
            break

    for id, (_, prompt, length, patience, _, _) in enumerate(arrivals):
        if patience is None or id in finished:
            assert finished[id].tokens[len(prompt) :] == answer(prompt, length)
    assert machine.scheduler.kv_tokens(0.0).held == 0
    assert machine.scheduler.prefixes.pool.available == pool["num_blocks"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=8, max_size=30),  # which prompt
    st.sampled_from([2, 8, 30]),
    st.sets(st.integers(1, 30)),  # of the steps that copy, those without the memory for it
)
def test_what_was_not_copied_is_never_found(
    asked: list[int], num_host_blocks: int, failing: set[int]
) -> None:
    machine = Machine(scheduler(num_blocks=10, block_tokens=4, num_host_blocks=num_host_blocks), 4)
    for id, which in enumerate(asked):
        machine.scheduler.add(request(id, [which] * 21, answer=6), 0.0)
    finished: list[Request] = []
    num_copying = 0
    while not machine.scheduler.idle:
        planned = machine.scheduler.step(0.0)
        num_copying += bool(planned.copies)
        if planned.copies and num_copying in failing:
            machine.copy_in_part(planned.copies)
            machine.scheduler.undo(lost=planned.copies.stored)
        else:
            finished += machine.run(planned)
        expect_consistent(machine.scheduler)

    assert {each.id for each in finished} == set(range(len(asked)))
    for each in finished:
        assert each.tokens[21:] == answer([asked[each.id]] * 21, 6)


class Traffic:
    """Which requests begin, and which clients go away, at which step."""

    def __init__(self, arrivals: list[Arrival]) -> None:
        self.starts: dict[int, list[Request]] = {}
        self.aborts: dict[int, list[int]] = {}
        now = 0
        for id, (gap, prompt, length, patience, priority, who) in enumerate(arrivals):
            now += gap
            new = request(id, list(prompt), length, salt=who, caller=who, priority=priority)
            self.starts.setdefault(now, []).append(new)
            if patience is not None:
                self.aborts.setdefault(now + patience, []).append(id)
        self.end = max(*self.starts, *self.aborts, 0)


def play(machine: Machine, traffic: Traffic, step: int, *, fails: bool) -> dict[int, Request]:
    """One step with what arrives before it; returns what it finished."""
    line = machine.scheduler
    for new in traffic.starts.get(step, []):
        line.add(new, float(step))
    for id in traffic.aborts.get(step, []):
        line.abort(id)
    planned = line.step(float(step))
    assert sum(part.num_tokens for part in planned.parts) <= line._limits.step_tokens
    assert bool(planned.parts) != line.idle
    if fails:
        machine.copy(planned.copies)
        line.undo()
        return {}
    return {each.id: each for each in machine.run(planned)}


def expect_consistent(line: Scheduler) -> None:
    """What must hold between steps."""
    pool = line.prefixes.pool
    held = [block for each in line._running for block in each.blocks]
    assert sorted(set(held)) == [b for b in range(pool.num_blocks) if pool._holders[b]]
    assert pool.num_held == len(set(held))
    assert pool.num_unshared == sum(held.count(block) == 1 for block in set(held))
    assert len(set(pool._free)) == len(pool._free)
    cached = {**pool._cold, **pool._hot}
    lookups = line.prefixes.lookups
    assert all(lookups.protects(name) for name in pool._hot.values())
    assert lookups._num_protected == sum(len(c.protected) for c in lookups._callers.values())
    assert lookups._num_protected <= pool.num_blocks // 2
    assert all(pool._name_of[block] == name for block, name in cached.items())
    assert not cached.keys() & set(held)
