"""What holds the law back: reports that are missing, pods that start, quiet times, policies."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_api.reasons import Reason
from aweigh_operator.scaling.counts import Counted, Window
from aweigh_operator.scaling.estimates import Estimates, learned
from aweigh_operator.scaling.law import Aim, Limit
from aweigh_operator.scaling.look import WARM_S, Look, Pod
from aweigh_operator.scaling.rules import DOWN, UP, Policy, Rules, Select
from tests.operator.scaling.looks import LOOK_S, Service

RULES = Rules(most=20, down=replace(DOWN, burst_s=0.0))
BUSY, CALM = 150.0, 6.0  # requests per second that need several pods, and one


def grown(service: Service, **kinds: float) -> int:
    """So many pods serve a load that has come little by little."""
    for requests in (CALM, 12.0, 25.0, 50.0, 100.0):
        service.run(6, requests, **kinds)
    return service.run(40, BUSY, **kinds).replicas


def test_load_that_grows_gets_pods_at_once_and_the_sentence_says_why() -> None:
    service = Service(1, RULES)
    assert service.look(CALM).reason is Reason.WAITING_FOR_REPORTS  # one look says nothing of rates
    assert service.run(4, CALM).reason is Reason.STEADY
    found = service.look(BUSY)
    needed = grown(Service(1, RULES))
    assert needed <= found.replicas <= 2 * (needed + 1)  # half of them for what piles up meanwhile
    assert found.reason is Reason.LOAD_GREW
    assert found.sentence.startswith(f"1 → {found.replicas} pods: ")
    assert "as utilization would pass its limit with" in found.sentence
    assert "for what piles up until they serve; 150 requests/s" in found.sentence


def test_pods_that_start_are_counted_as_there() -> None:
    service = Service(1, RULES)
    service.run(4, CALM)
    first = service.look(BUSY)
    service.resize(first.replicas)
    service.starting = set(list(service.born)[1:])
    again = [service.look(BUSY).replicas for _ in range(4)]
    assert max(again) <= first.replicas + 1  # a little more only as the rate settles


def test_pods_that_a_jump_has_asked_for_stay_for_the_next_one() -> None:
    service = Service(1, Rules(most=20))
    service.run(4, CALM)
    many = service.run(20, BUSY).replicas
    calm = [service.run(1, CALM) for _ in range(90)]
    sizes = [each.replicas for each in calm]
    stay, burst = min(sizes[20:50]), int(DOWN.burst_s / LOOK_S)
    assert 4 <= stay <= many  # what the traffic itself needs, not what had piled up
    assert sizes[20 : burst - 2] == [stay] * (burst - 22)
    assert "for 15 minutes after a jump of the traffic that would need them" in calm[40].sentence
    assert sizes[-1] < stay
    # What needs so many only until prompts are found in caches is no reason.
    service.run(20, BUSY)
    assert service.run(40, CALM, hits=0.94).replicas < stay


def test_pods_go_one_at_a_time_after_a_quiet_time() -> None:
    service = Service(1, RULES)
    many = grown(service)
    assert many >= 4
    sizes = []
    for _ in range(60):
        sizes.append(service.run(1, CALM).replicas)
    quiet = int(DOWN.quiet_s / LOOK_S)
    assert sizes[: quiet - 2] == [many] * (quiet - 2)
    assert sizes[-1] == 1
    assert all(0 <= before - after <= 1 for before, after in pairwise(sizes))


def test_one_busy_moment_begins_the_quiet_time_anew() -> None:
    service = Service(1, RULES)
    many = grown(service)
    service.run(10, CALM)
    service.run(1, BUSY)
    assert service.run(12, CALM).replicas == many


def test_no_pod_goes_while_another_starts_unless_it_takes_far_too_long() -> None:
    service = Service(1, RULES)
    many = grown(service)
    service.run(15, CALM)
    late = list(service.born)[-1]
    service.starting, service.born[late] = {late}, service.now_s
    found = service.run(10, CALM)
    assert (found.replicas, found.reason) == (many, Reason.SETTLING)
    assert "until all of them serve" in found.sentence
    assert service.run(10, CALM).replicas < many  # nobody waits for it any more


def test_a_pod_that_no_node_takes_may_go() -> None:
    service = Service(1, RULES)
    many = grown(service)
    service.unschedulable = {list(service.born)[-1]}
    assert service.run(17, CALM).replicas < many
    assert not service.unschedulable


def test_a_missing_report_holds_whatever_the_others_say() -> None:
    service = Service(1, RULES)
    many = grown(service)
    service.silent = {next(iter(service.born))}
    for requests in (0.0, CALM, 10 * BUSY):
        found = service.run(30, requests)
        assert (found.replicas, found.reason) == (many, Reason.REPORTS_MISSING)


def test_a_report_that_repeats_itself_is_a_missing_one() -> None:
    service = Service(2, RULES)
    service.run(6, CALM)
    stuck = next(iter(service.born))
    service.repeated[stuck] = service.memory.told[stuck]
    assert service.run(30, 0.0).reason is Reason.REPORTS_MISSING


def test_a_pod_that_does_not_count_arrivals_does_not_report() -> None:
    service = Service(1, RULES)
    service.run(6, CALM)
    only = next(iter(service.born))
    state = service.memory.told[only]
    for late in range(1, 30):
        told = {"arrived_requests": None, "uptime_s": state.uptime_s + LOOK_S * late}
        service.repeated[only] = state.model_copy(update=told)
        assert service.look(CALM).reason is Reason.REPORTS_MISSING


def test_what_came_while_reports_were_missing_is_no_jump() -> None:
    service = Service(3, RULES)
    service.run(8, CALM)
    before = service.memory.known.requests
    service.silent = set(service.born)
    service.run(20, CALM)
    service.silent = set()
    service.look(CALM)
    assert service.memory.known.requests == pytest.approx(before, rel=0.1)


def test_a_pod_that_is_not_ready_for_a_moment_changes_no_rate() -> None:
    service = Service(3, RULES)
    service.run(8, CALM)
    before = service.memory.known
    service.starting = {next(iter(service.born))}
    service.look(CALM)
    service.starting = set()
    service.look(CALM)
    assert service.memory.known.requests == pytest.approx(before.requests, rel=0.35)
    assert service.memory.known.start_s == before.start_s


def test_after_a_hold_the_quiet_time_begins_anew() -> None:
    service = Service(1, RULES)
    many = grown(service)
    service.run(14, CALM)
    service.silent = {next(iter(service.born))}
    service.run(30, CALM)
    service.silent = set()
    assert service.run(15, CALM).replicas == many
    assert service.run(3, CALM).replicas < many


def test_little_traffic_is_gathered_until_it_says_something_of_hits() -> None:
    service = Service(4, RULES)
    service.run(6, 0.1, prompt=200)  # 300 prompt tokens a look
    assert service.memory.known.hit_share is None
    assert service.run(40, 0.1, prompt=200).replicas == 1  # without hits it would do, too
    assert service.memory.known.hit_share == pytest.approx(0.5, abs=0.05)


def test_longer_prompts_alone_are_no_trend() -> None:
    service = Service(4, RULES)
    service.run(10, 20.0, prompt=500)
    service.run(1, 20.0, prompt=1000)
    assert service.memory.known.trend == pytest.approx(0.0, abs=0.01)


def test_a_fallback_may_only_raise() -> None:
    for fallback, expected in ((5, 5), (1, 2), (50, 20)):
        service = Service(2, replace(RULES, fallback_replicas=fallback))
        service.run(4, CALM)
        service.silent = set(service.born)
        assert service.look(CALM).replicas == expected


def test_without_any_pod_that_serves_nothing_is_decided() -> None:
    service = Service(3, RULES)
    service.starting = set(service.born)
    assert [service.look(CALM).replicas for _ in range(40)] == [3] * 40


def test_while_no_node_takes_a_pod_none_is_added() -> None:
    service = Service(1, RULES)
    service.run(4, CALM)
    service.resize(2)
    service.unschedulable = {list(service.born)[1]}
    found = service.run(6, 3 * BUSY)
    assert (found.replicas, found.reason) == (2, Reason.UNSCHEDULABLE)
    assert "no node takes one" in found.sentence


def test_a_pod_that_is_needed_and_that_no_node_takes_is_told() -> None:
    service, needs_two = Service(2, RULES), 60.0
    assert service.run(8, needs_two).reason is Reason.STEADY
    service.unschedulable = {list(service.born)[1]}
    found = service.run(8, needs_two)
    assert (found.replicas, found.reason) == (2, Reason.UNSCHEDULABLE)
    assert found.sentence.startswith("stays at 2, as no node takes one of them: 2 are needed (")
    assert " of 80% with 1" in found.sentence  # pod that serves
    found = service.run(40, CALM)
    assert (found.replicas, found.reason) == (1, Reason.STEADY)


def test_pods_that_the_api_server_refuses_are_no_supply() -> None:
    service, needs_two = Service(1, RULES), 60.0
    service.run(12, CALM)
    service.replicas, service.refused = 3, True
    for _ in range(40):
        found = service.look(needs_two)
    assert (found.replicas, found.reason) == (3, Reason.UNSCHEDULABLE)
    told = "stays at 3, as the API server refuses some of them: 2 are needed ("
    assert found.sentence.startswith(told)
    assert " of 80% with 1" in found.sentence
    found = service.look(10 * BUSY)  # nor is one added to them
    assert (found.replicas, found.reason) == (3, Reason.UNSCHEDULABLE)


def test_what_is_refused_beside_all_that_are_wanted_is_of_a_rollout() -> None:
    service = Service(2, RULES)
    service.run(12, CALM)
    service.refused = True
    assert service.look(BUSY).reason is Reason.LOAD_GREW


def test_bounds_are_kept_at_once() -> None:
    assert Service(1, replace(RULES, least=3)).look(CALM).replicas == 3
    assert Service(30, RULES).look(CALM).replicas == 20
    service = Service(1, replace(RULES, most=2))
    found = service.run(6, 20 * BUSY)
    assert (found.replicas, found.reason) == (2, Reason.AT_MAXIMUM)


def test_before_hits_are_known_only_memory_asks_for_pods() -> None:
    service = Service(1, RULES)
    service.born = dict.fromkeys(service.born, service.now_s)  # cold
    assert [service.look(BUSY).replicas for _ in range(2)] == [1, 1]
    crowded = Service(1, RULES)
    crowded.born = dict.fromkeys(crowded.born, crowded.now_s)
    found = [crowded.look(BUSY, waiting=2000) for _ in range(2)][1]
    assert found.replicas == 2  # twice as many at most
    assert "2005 requests are in flight" in found.sentence


def test_fewer_hits_right_after_growth_ask_for_no_more_pods() -> None:
    service, requests = Service(1, RULES), CALM
    while service.replicas < 3:
        requests += 2
        service.run(2, requests, hits=0.9)
    assert service.run(4, requests, hits=0.5).replicas == 3  # prefixes lie elsewhere for a while
    assert service.run(20, requests, hits=0.5).replicas > 3  # if it stays so, pods are needed


def test_an_objective_that_no_number_of_pods_keeps_is_told_and_limits_nothing() -> None:
    rules = replace(RULES, aim=Aim(inter_token_s=0.001))
    found = Service(1, rules).run(6, CALM)
    assert found.replicas == 1
    assert found.unreachable == (Limit.INTER_TOKEN,)


def test_under_overload_no_objective_is_called_unreachable() -> None:
    rules = replace(RULES, most=2, aim=Aim(inter_token_s=0.04, first_token_s=2.0))
    found = Service(1, rules).run(6, 20 * BUSY)
    assert (found.reason, found.unreachable) == (Reason.AT_MAXIMUM, ())


def test_a_direction_that_is_disabled_is_said() -> None:
    disabled = replace(UP, select=Select.DISABLED)
    found = Service(1, replace(RULES, up=disabled)).run(6, BUSY)
    assert (found.replicas, found.reason) == (1, Reason.SETTLING)
    assert found.sentence.startswith("stays at 1, as scaleUp is disabled: ")
    found = Service(3, replace(RULES, down=replace(DOWN, select=Select.DISABLED))).run(40, CALM)
    assert found.sentence.startswith("stays at 3, as scaleDown is disabled: 1 would do")


def test_whatever_holds_the_number_is_named() -> None:
    least = Service(3, replace(RULES, least=3)).run(40, CALM)
    assert (least.replicas, least.reason) == (3, Reason.BOUNDS)
    assert least.sentence.startswith("stays at 3, as minReplicas says: 1 would do; 6 requests/s")
    capped = Service(1, replace(RULES, most=2))
    grew = capped.run(2, 20 * BUSY)
    assert grew.sentence.startswith("1 → 2 pods, as many as maxReplicas allows: ")
    assert capped.run(6, 20 * BUSY).sentence.startswith(
        "stays at 2, as maxReplicas says: more are needed; "
    )
    busy = Service(1, RULES)
    grown(busy)
    enough = busy.run(20, BUSY)
    assert enough.reason is Reason.STEADY
    assert f"with {enough.replicas - 1}: 150 requests/s" in enough.sentence
    assert "as utilization would be too near its limit" in enough.sentence


def test_a_policy_that_holds_the_number_is_named_in_each_direction() -> None:
    slow = (Policy(1, 0, 600.0),)
    service = Service(1, replace(RULES, up=replace(UP, policies=slow)))
    found = [service.run(1, 20 * BUSY) for _ in range(3)][1:]
    assert [each.reason for each in found] == [Reason.LOAD_GREW, Reason.SETTLING]
    assert found[0].sentence.startswith("1 → 2 pods, as many as behavior.scaleUp allows now of ")
    assert found[1].sentence.startswith("stays at 2 for a while, as behavior.scaleUp says: ")
    down = replace(DOWN, policies=slow, quiet_s=30.0, burst_s=0.0)
    calmed = Service(4, replace(RULES, down=down)).run(10, CALM)
    assert (calmed.replicas, calmed.reason) == (3, Reason.SETTLING)
    assert calmed.sentence.startswith(
        "stays at 3 for a while, as behavior.scaleDown says: 1 would do"
    )


def test_what_waits_asks_for_pods_though_little_arrives() -> None:
    service = Service(1, RULES)
    service.run(6, CALM)
    assert service.look(CALM, waiting=600).replicas > 1


@pytest.mark.parametrize("select", list(Select))
@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 200), min_size=20, max_size=60))
def test_policies_bound_how_fast_pods_come_and_go(select: Select, loads: list[float]) -> None:
    policies = (Policy(2, 0, 60.0), Policy(0, 50, 60.0))
    up = replace(UP, policies=policies, select=select)
    down = replace(DOWN, policies=policies, select=select, quiet_s=30.0)
    service = Service(2, replace(RULES, up=up, down=down, most=40))
    sizes = [2, *(service.run(1, load).replicas for load in loads)]
    for index, now in enumerate(sizes):
        before = sizes[max(0, index - 3)]  # three looks are less than a minute
        low = min(sizes[max(0, index - 3) : index + 1])
        steps = (2, -(-before // 2))
        most = max(steps) if select is Select.MAX else min(steps)
        assert now - before <= most + (before - low)
        if select is Select.DISABLED:
            assert now == 2


def test_a_policy_counts_every_change_of_its_period_however_many_there_were() -> None:
    up = replace(UP, policies=(Policy(10, 0, 1800.0),))
    service = Service(90, replace(RULES, up=up, most=200))
    assert service.run(10, 10_000.0).replicas == 100
    for size in range(99, 19, -1):  # somebody else takes them away, within 1,200 s
        service.resize(size)
        service.look(10_000.0)
    assert service.look(10_000.0).replicas == 20
    assert service.run(60, 10_000.0).replicas == 30  # the ten of before are so long ago by now


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 300), st.floats(0, 0.95), st.integers(0, 3)), min_size=5, max_size=80
    )
)
def test_whatever_comes_the_number_stays_within_its_bounds(
    story: list[tuple[float, float, int]],
) -> None:
    service = Service(2, replace(RULES, least=2, most=6))
    for requests, hits, silent in story:
        service.silent = set(list(service.born)[:silent])
        before = service.replicas
        found = service.look(requests, hits=hits)
        assert 2 <= found.replicas <= 6
        if service.silent:
            assert found.replicas == before
        service.resize(found.replicas)


def test_pods_for_what_piled_up_stay_for_the_quiet_time_too() -> None:
    service = Service(1, RULES)
    service.run(40, 20.0, hits=0.9)
    most = service.run(1, 105.0, hits=0.9).replicas
    assert most > 2
    quiet = int(DOWN.quiet_s / LOOK_S)
    assert [service.run(1, 105.0, hits=0.9).replicas for _ in range(quiet - 1)] == [most] * (
        quiet - 1
    )


def test_hits_of_pods_that_serve_late_ask_for_no_more_pods() -> None:
    for looks in (4, 8, 16):  # until the new one serves
        service = Service(1, RULES)
        requests = 20.0
        while service.replicas < 2:
            requests += 2
            service.run(2, requests, hits=0.9)
        new = list(service.born)[-1]
        service.starting = {new}
        for _ in range(looks):
            service.look(requests, hits=0.9)
        service.starting, service.born[new] = set(), service.now_s
        for _ in range(5):  # its share of prompts is cold for a while
            assert service.look(requests, hits=0.5).replicas == 2


def test_a_new_operator_learns_from_pods_that_serve_how_long_others_will_start() -> None:
    service = Service(4, RULES)
    service.start_s = 600.0
    service.look(CALM)
    assert service.memory.known.start_s == 600.0


def test_pods_of_days_ago_that_serve_again_tell_nothing_of_how_long_others_will_start() -> None:
    chance = random.Random(1)
    service = Service(2, RULES)
    service.start_s = 3 * 86_400.0  # until they were ready the last time
    sizes = [service.run(1, chance.gauss(60.0, 2.0)).replicas for _ in range(60)]
    assert service.memory.known.start_s is None
    assert sizes == [2] * 60


def test_a_start_that_is_only_guessed_extrapolates_no_chance_over_half_an_hour() -> None:
    chance = random.Random(1)
    service = Service(2, RULES)
    service.start_s = 1500.0  # until they were ready the last time, though they served long before
    sizes = [service.run(1, chance.gauss(55.0, 2.0)).replicas for _ in range(60)]
    assert service.memory.known.start_s == 1500.0
    assert sizes == [2] * 60


def test_a_start_that_was_seen_counts_more_than_what_older_pods_tell() -> None:
    service = Service(2, RULES)
    service.start_s = 900.0  # before the first look: they may have served before that, too
    service.starting = {list(service.born)[1]}
    service.run(8, CALM)
    assert service.memory.known.start_s == 900.0
    new = replace(RULES, least=3)
    service.rules, service.start_s = new, 30.0
    service.run(8, CALM)
    assert service.memory.known.start_s == 30.0
    service.starting, service.start_s = set(), 900.0
    service.run(8, CALM)
    assert service.memory.known.start_s == 30.0


def test_no_pod_is_stuck_before_one_was_seen_to_start() -> None:
    service = Service(2, RULES)
    slow = list(service.born)[-1]
    service.starting = {slow}
    service.memory = replace(service.memory, known=replace(service.memory.known, start_s=None))
    service.look(CALM)
    service.memory = replace(service.memory, known=replace(service.memory.known, start_s=None))
    found = service.run(40, CALM)
    assert (found.replicas, found.reason) == (2, Reason.SETTLING)


def test_steps_that_say_nothing_of_prompts_any_more_leave_what_was_known_of_them() -> None:
    service = Service(4, RULES)
    service.run(12, 100, hits=0.9)
    service.fit = service.fit.model_copy(update={"prompt_token": 0.0})
    service.look(100, hits=0.9)
    assert "not measured" not in service.look(100, hits=0.9).sentence


def test_what_drafts_bring_at_first_counts_whole() -> None:
    known = drafts_of(warm=Counted(decoded_rows=1000, decode_tokens=3000, drafted_tokens=4000))
    assert (known.drafted, known.accepted_length) == (4.0, 3.0)


def test_what_drafts_bring_on_a_cold_pod_says_nothing_yet() -> None:
    cold = Counted(decoded_rows=9000, decode_tokens=9000)
    known = drafts_of(cold=cold)
    assert (known.drafted, known.accepted_length) == (None, None)
    warm = Counted(decoded_rows=1000, decode_tokens=3000, drafted_tokens=4000)
    known = drafts_of(warm=warm, cold=cold)
    assert (known.drafted, known.accepted_length) == (4.0, 3.0)


def drafts_of(**counted: Counted) -> Estimates:
    """What is believed after the first look at pods, warm and cold, that have counted so much."""
    ready_for_s = {"warm": WARM_S, "cold": WARM_S - 15.0}
    pods = [Pod(uid=uid, age_s=90.0, ready_for_s=ready_for_s[uid]) for uid in counted]
    windows = {uid: Window(15.0, each) for uid, each in counted.items()}
    look = Look(now_s=90.0, replicas=len(pods), pods=pods)
    return learned(Estimates(), look, windows, 15.0, arrived=None, frozen=True)
