"""What requests need not compute, because somebody has computed it before."""

import itertools

from aweigh_runtime.engine.counting import count_computed, count_read
from aweigh_runtime.engine.lookups import Lookups
from aweigh_runtime.engine.messages import Counters
from aweigh_runtime.engine.naming import salt
from tests.runtime.engine.machine import Machine, request, scheduler

PROMPT = list(range(100, 117))  # four full blocks and one token


def computed(machine: Machine) -> int:
    before, machine.computed_tokens = machine.computed_tokens, 0
    return before


def test_a_second_identical_prompt_computes_its_last_token_alone() -> None:
    machine = Machine(scheduler(), 4)
    for expected in (17, 1):
        machine.scheduler.add(request(expected, list(PROMPT), answer=1), 0.0)
        machine.until_idle()
        assert computed(machine) == expected


def test_a_prompt_of_full_blocks_computes_its_last_block() -> None:
    machine = Machine(scheduler(), 4)
    for id, expected in ((1, 16), (2, 4)):
        machine.scheduler.add(request(id, PROMPT[:16], answer=1), 0.0)
        machine.until_idle()
        assert computed(machine) == expected


def test_identical_prompts_that_arrive_together_are_computed_once() -> None:
    machine = Machine(scheduler(step_tokens=8, max_running=16), 4)
    for id in range(16):
        machine.scheduler.add(request(id, list(PROMPT), answer=1), 0.0)
    machine.until_idle()
    assert computed(machine) == 16 + 16  # the prompt's blocks once, its last token for each


def test_answers_are_found_as_well_as_prompts() -> None:
    machine = Machine(scheduler(), 4)
    machine.scheduler.add(request(1, list(PROMPT), answer=8), 0.0)
    (first,) = machine.until_idle()
    computed(machine)
    machine.scheduler.add(request(2, [*first.tokens, 5], answer=1), 0.0)
    machine.until_idle()
    assert computed(machine) == 26 - 24  # 25 tokens, of which 24 were computed, and the new one


def test_another_salt_finds_nothing() -> None:
    machine = Machine(scheduler(), 4)
    for id, tenant in enumerate((b"one", b"two")):
        machine.scheduler.add(request(id, list(PROMPT), answer=1, salt=salt(tenant, None)), 0.0)
        machine.until_idle()
        assert computed(machine) == 17


def test_no_choice_of_salt_opens_another_tenants_cache() -> None:
    tenants, salts = (b"", b"a", b"ab", b"\x01"), (None, "", "a", "ab", "b", "\x01")
    assert len({salt(tenant, own) for tenant in tenants for own in salts}) == 24


def test_two_copies_of_one_block_become_one() -> None:
    machine = Machine(scheduler(num_blocks=16), 4)
    prompt = [5, 5, 5]  # their fourth token is computed by each on its own
    for id in (1, 2):
        machine.scheduler.add(request(id, list(prompt), answer=9), 0.0)
    for now in range(6):
        machine.run(machine.scheduler.step(float(now)))
    held = machine.scheduler.kv_tokens(0.0).held
    assert machine.scheduler.counters.merged_blocks >= 1
    assert held == 3 * 4  # one shared block, and one of each request's own


def test_the_bound_on_cached_blocks_holds_while_nobody_uses_them() -> None:
    machine = Machine(scheduler(max_cached=2), 4)
    machine.scheduler.add(request(1, list(PROMPT), answer=1), 0.0)
    machine.until_idle()
    assert machine.scheduler.kv_tokens(0.0).cached == 2 * 4
    machine.scheduler.add(request(2, list(PROMPT), answer=1), 0.0)
    machine.until_idle()
    assert machine.scheduler.counters.evicted_blocks > 0


def test_a_prefix_is_evicted_from_its_end() -> None:
    machine = Machine(scheduler(num_blocks=6), 4)
    machine.scheduler.add(request(1, list(PROMPT), answer=1), 0.0)
    machine.until_idle()
    computed(machine)
    machine.scheduler.add(request(2, prompt=8, answer=1), 0.0)  # takes two free and one cached
    machine.until_idle()
    assert computed(machine) == 8
    machine.scheduler.add(request(3, list(PROMPT), answer=1), 0.0)
    machine.until_idle()
    assert computed(machine) <= 9


def test_what_leaves_the_device_comes_back_from_host_memory() -> None:
    machine = Machine(scheduler(num_blocks=6, num_host_blocks=16), 4)
    machine.scheduler.add(request(1, list(PROMPT), answer=1), 0.0)
    machine.until_idle()
    machine.scheduler.add(request(2, prompt=20, answer=1), 0.0)  # pushes the first one out
    machine.until_idle()
    computed(machine)
    machine.scheduler.add(request(3, list(PROMPT), answer=1), 0.0)
    machine.until_idle()
    assert computed(machine) == 1
    assert machine.scheduler.counters.host_loaded_blocks == 3  # one had stayed


def test_nothing_comes_back_when_computing_is_quicker() -> None:
    machine = Machine(scheduler(num_blocks=6, num_host_blocks=16), 4)
    machine.scheduler.prefixes._load_block_s = 1.0
    machine.scheduler.prefixes.judge_loading(prompt_token_s=0.001)
    for id, prompt in enumerate((PROMPT, list(range(20)), PROMPT)):
        machine.scheduler.add(request(id, list(prompt), answer=1), 0.0)
        machine.until_idle()
    assert machine.scheduler.counters.host_loaded_blocks == 0


def test_prompt_logprobs_read_the_whole_prompt() -> None:
    machine = Machine(scheduler(), 4)
    for id in (1, 2):
        machine.scheduler.add(request(id, list(PROMPT), answer=1, prompt_logprobs=0), 0.0)
        machine.until_idle()
        assert computed(machine) == 17


def test_hits_and_computed_tokens_add_up_to_the_prompts() -> None:
    machine = Machine(scheduler(num_blocks=12, max_running=4), 4)
    requests = [request(id, PROMPT[: 5 + id], answer=9) for id in range(10)]
    for each in requests:
        machine.scheduler.add(each, 0.0)
    counters = Counters()
    for now in itertools.count():
        if machine.scheduler.idle:
            break
        step = machine.scheduler.step(float(now))
        for part in step.parts:
            count_computed(counters, part)
        machine.run(step)
    for each in requests:
        assert each.cached <= each.num_prompt_tokens - 1
        assert each.cached % 4 == 0
        count_read(counters, each, looked_up=True, token_s=0.0)
    total = sum(each.num_prompt_tokens for each in requests)
    assert counters.cached_prompt_tokens > 0
    assert counters.cached_prompt_tokens + counters.computed_prompt_tokens == total
    assert counters.looked_up_prompt_tokens == total


def test_blocks_are_hot_while_they_are_looked_up_again_and_again() -> None:
    lookups = Lookups(num_blocks=8, window_s=300.0, max_names=3)
    lookups.record(b"", [b"a", b"b"], 0.0)
    lookups.record(b"", [b"a"], 299.0)
    assert (lookups.protects(b"a"), lookups.protects(b"b"), lookups.num_hot) == (True, False, 1)
    lookups.forget_old(301.0)
    lookups.record(b"", [b"b"], 302.0)
    assert (lookups.protects(b"b"), lookups.num_hot) == (False, 1)
    lookups.record(b"", [b"c", b"d", b"e"], 303.0)
    assert (len(lookups._last), lookups.num_hot) == (3, 0)


def names(letter: str, count: int) -> list[bytes]:
    return [f"{letter}{number}".encode() for number in range(count)]


def protected(lookups: Lookups, among: list[bytes]) -> list[bytes]:
    return [name for name in among if lookups.protects(name)]


def test_the_heads_of_prompts_are_protected_longest() -> None:
    lookups = Lookups(num_blocks=8)
    for _ in range(2):
        lookups.record(b"", names("a", 9), 0.0)
    assert protected(lookups, names("a", 9)) == names("a", 4)


def test_callers_share_what_is_protected() -> None:
    lookups = Lookups(num_blocks=16)
    one, two = names("a", 9), names("b", 9)
    for caller, asked in ((b"one", one), (b"two", two)):
        for _ in range(2):
            lookups.record(caller, asked, 0.0)
    assert (protected(lookups, one), protected(lookups, two)) == (one[:4], two[:4])


def test_what_a_caller_protects_beyond_its_share_gives_way_to_others_alone() -> None:
    cooled: list[bytes] = []
    lookups = Lookups(num_blocks=16, on_cooled=lambda name: not cooled.append(name))  # type: ignore[func-returns-value]
    one = names("a", 8)
    for _ in range(2):
        lookups.record(b"one", one, 0.0)
    lookups.record(b"two", [], 0.0)
    assert lookups.give_way(b"one", 3) == 0
    assert lookups.give_way(b"two", 3) == 3
    assert lookups.give_way(b"two", 3) == 1
    assert cooled == one[:3:-1]
    assert protected(lookups, one) == one[:4]


def test_who_asks_last_for_what_others_ask_for_owns_it() -> None:
    lookups = Lookups(num_blocks=16)
    shared = names("a", 8)
    for caller in (b"one", b"two"):
        lookups.record(caller, shared, 0.0)
    assert lookups.give_way(b"two", 8) == 0
    assert protected(lookups, shared) == shared
