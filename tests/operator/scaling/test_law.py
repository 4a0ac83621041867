"""The number of pods that the law asks for: smallest, monotone, and honest about what it cannot."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_operator.scaling.law import Aim, Costs, Demand, Law, Limit, Room, Worth

MOST = 40
LAW = Law(
    costs=Costs(base=0.004, prompt_token=2.7e-5, row=2e-5, kv_token=3e-8),
    demand=Demand(
        requests=30.0,
        prompt_tokens=96_000.0,
        prompt_length=3200.0,
        output_length=250.0,
        waiting=0.0,
        context=3300.0,
        unshared=450.0,
    ),
    worth=Worth(hit_share=0.9, accepted_length=1.0, pods=2, kept=0.95),
    room=Room(rows=512, kv_tokens=700_000, hot_tokens=120_000),
    aim=Aim(inter_token_s=0.040, first_token_s=2.0),
)


@st.composite
def laws(draw: st.DrawFn) -> Law:
    def number(low: float, high: float) -> float:
        return draw(st.floats(low, high))

    prompt, requests = number(1, 20_000), number(0, 200)
    return Law(
        costs=Costs(
            base=number(1e-4, 0.05),
            prompt_token=number(0, 1e-3),
            row=number(0, 1e-3),
            kv_token=number(0, 1e-6),
        ),
        demand=Demand(
            requests=requests,
            prompt_tokens=requests * prompt,
            prompt_length=prompt,
            output_length=number(1, 2000),
            waiting=number(0, 500),
            context=number(1, 30_000),
            unshared=number(1, 30_000),
        ),
        worth=Worth(
            hit_share=number(0, 0.95),
            accepted_length=number(1, 9),
            pods=draw(st.integers(1, MOST)),
            kept=number(0.8, 1),
        ),
        room=Room(
            rows=draw(st.integers(1, 512)),
            kv_tokens=draw(st.integers(1000, 10_000_000)),
            hot_tokens=draw(st.integers(0, 1_000_000)),
        ),
        aim=Aim(
            utilization=number(0.1, 0.95),
            inter_token_s=draw(st.sampled_from([inf, 0.02, 0.1])),
            first_token_s=draw(st.sampled_from([inf, 0.5, 5.0])),
        ),
    )


def test_the_steady_state_follows_from_the_costs() -> None:
    found = LAW.steady(2)
    row_s = 2e-5 + 3e-8 * 3300
    work = 96_000 * 0.1 * 2.7e-5 + 30 * 250 * row_s
    assert found.utilization == pytest.approx(work / 2)
    step_s = 0.004 / (1 - work / 2)
    assert found.inter_token_s == pytest.approx(step_s)
    assert found.first_token_s == pytest.approx(step_s + 0.1 * 3200 * 2.7e-5 / (1 - work / 2))
    assert found.rows == pytest.approx(30 * 250 / 2 * step_s)
    assert found.kv_tokens == pytest.approx(found.rows * 450 + 120_000)


@given(laws())
def test_it_asks_for_the_smallest_number_that_keeps_every_limit(law: Law) -> None:
    choice = law.choose(MOST)
    reachable = set(Limit) - set(choice.unreachable)
    if law.broken(choice.pods) & reachable:
        assert choice.pods == MOST
        assert all(law.broken(pods) & reachable for pods in range(1, MOST + 1))
    for pods in range(1, choice.pods):
        assert law.broken(pods) & reachable
    for limit in choice.unreachable:
        broken = [law.broken(pods) for pods in range(1, MOST + 1)]
        loaded = [each for each in broken if Limit.UTILIZATION not in each]
        assert all(limit in each for each in loaded)


@given(laws(), st.floats(1.0, 10.0))
def test_more_of_the_same_traffic_never_needs_fewer_pods_for_its_work(
    law: Law, more: float
) -> None:
    law = replace(law, aim=Aim(utilization=law.aim.utilization))
    grown = replace(law, demand=law.demand.times(more))
    for pods in (1, 3, MOST):
        assert grown.steady(pods).utilization >= law.steady(pods).utilization
        assert law.broken(pods) <= grown.broken(pods)


@given(laws(), st.floats(0, 0.95))
def test_more_hits_never_need_more_pods(law: Law, share: float) -> None:
    fewer, more = sorted([share, law.worth.hit_share])
    cold = replace(law, worth=replace(law.worth, hit_share=fewer))
    warm = replace(law, worth=replace(law.worth, hit_share=more))
    for pods in (1, 2, MOST):
        assert warm.broken(pods) <= cold.broken(pods)


@given(laws(), st.floats(1, 9))
def test_drafts_that_are_better_never_need_more_pods(law: Law, length: float) -> None:
    shorter, longer = sorted([length, law.worth.accepted_length])
    bad = replace(law, worth=replace(law.worth, accepted_length=shorter))
    good = replace(law, worth=replace(law.worth, accepted_length=longer))
    for pods in (1, 2, MOST):
        assert good.broken(pods) <= bad.broken(pods)


def test_a_cache_that_no_pod_can_hold_limits_nothing_and_is_told() -> None:
    law = replace(LAW, room=replace(LAW.room, hot_tokens=650_000))
    choice = law.choose(MOST)
    assert choice.unreachable == (Limit.MEMORY,)
    assert choice.pods == LAW.choose(MOST).pods


def test_an_objective_below_one_step_limits_nothing_and_is_told() -> None:
    law = replace(LAW, aim=replace(LAW.aim, inter_token_s=0.002))
    choice = law.choose(MOST)
    assert choice.unreachable == (Limit.INTER_TOKEN,)
    assert choice.pods == LAW.choose(MOST).pods


def test_a_limit_that_only_more_pods_than_may_be_would_keep_is_told_apart() -> None:
    tight = replace(LAW, aim=replace(LAW.aim, inter_token_s=0.0058))
    needed = tight.choose(MOST).pods
    few = tight.choose(needed - 1)
    assert few.unreachable == few.by_load == (Limit.INTER_TOKEN,)
    never = replace(LAW, aim=replace(LAW.aim, inter_token_s=0.002)).choose(needed - 1)
    assert (never.unreachable, never.by_load) == ((Limit.INTER_TOKEN,), ())


def test_a_cache_that_answers_leave_no_room_for_is_not_too_small() -> None:
    long = replace(LAW, demand=replace(LAW.demand, unshared=30_000.0))
    law = replace(long, room=replace(LAW.room, hot_tokens=500_000))
    needed = law.choose(MOST).pods
    few = law.choose(needed - 1)
    assert few.unreachable == few.by_load == (Limit.MEMORY,)
    never = replace(law, room=replace(LAW.room, hot_tokens=650_000)).choose(needed - 1)
    assert (never.unreachable, never.by_load) == ((Limit.MEMORY,), ())


def test_work_that_no_number_of_pods_can_do_takes_all_of_them() -> None:
    choice = replace(LAW, demand=LAW.demand.times(1000)).choose(8)
    assert choice.pods == 8
    assert Limit.UTILIZATION not in choice.unreachable


def test_the_limit_that_asks_for_the_last_pod_is_named() -> None:
    assert LAW.choose(MOST).limit is Limit.UTILIZATION
    tight = replace(LAW, aim=replace(LAW.aim, inter_token_s=0.0058))
    assert tight.choose(MOST).limit is Limit.INTER_TOKEN


def test_hits_are_fewer_when_a_service_spreads_prefixes_over_more_pods() -> None:
    worth = LAW.worth
    assert worth.hits(1) == worth.hits(2) == 0.9
    assert worth.hits(4) == pytest.approx(0.9 * 0.95)
    assert worth.hits(8) == pytest.approx(0.9 * 0.95**2)
