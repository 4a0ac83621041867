"""`aweigh bench scaling`: modelled pods, and what rules make of them."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_bench.scaling import rivals
from aweigh_bench.scaling.command import RULES
from aweigh_bench.scaling.play import play
from aweigh_bench.scaling.pod import Machine, Pod
from aweigh_bench.scaling.router import Router
from aweigh_bench.scaling.traces import TRACES, Request
from aweigh_operator.scaling.look import Look
from tests.bench.commands import bench

BY_NAME = {trace.name: trace for trace in TRACES}
SMALL = Machine(kv_tokens=9000, rows=8, step_tokens=512)


class StepByStep(Pod):
    """The same pod, no two steps of which are computed at once."""

    def _steps_alike(self, until_s: float) -> int:
        return 1


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    found, now_s = [], 0.0
    for _ in range(draw(st.integers(1, 40))):
        now_s += draw(st.floats(0, 3))
        prefix = draw(st.sampled_from([0, 500, 2000]))
        prompt = prefix + draw(st.integers(1, 1500))
        found.append(Request(now_s, prefix, prefix, prompt, draw(st.integers(1, 400))))
    return found


@settings(deadline=None, max_examples=60)
@given(requests(), st.sampled_from([1.0, 1.5, 2.5]))
def test_many_steps_at_once_are_what_they_are_one_by_one(
    asked: list[Request], length: float
) -> None:
    ends = []
    for kind in (Pod, StepByStep):
        pod = kind("pod", -100.0, 0.0, SMALL)
        pod.draft(length)
        sent = [replace(request) for request in asked]
        for request in sent:
            pod.run(request.arrives_s)
            pod.take(request)
        pod.run(1e4)
        assert not pod.busy
        ends.append([(request.first_s, request.end_s) for request in sent])
        report = pod.report(1e4)
        assert report.finished_requests == len(asked)
        assert report.finished_output_tokens == sum(request.output for request in asked)
        prompts = sum(request.prompt for request in asked)
        assert (report.cached_prompt_tokens or 0) + (report.computed_prompt_tokens or 0) == prompts
        assert report.kv_tokens is not None
        assert report.kv_tokens.held == 0
    for fast, slow in zip(*ends, strict=True):
        assert fast == pytest.approx(slow, rel=1e-6, abs=1e-6)


def test_a_request_alone_takes_what_its_steps_take() -> None:
    pod, request = Pod("pod", -100.0, 0.0, Machine()), Request(1.0, -1, 0, 3000, 100)
    pod.run(1.0)
    pod.take(request)
    pod.run(60.0)
    machine = Machine()
    reading = 2 * machine.base_s + 3000 * machine.prompt_token_s
    assert request.first_s - 1.0 == pytest.approx(reading, rel=0.05)
    context = sum(3000 + place for place in range(1, 100))
    row_s = machine.base_s + machine.row_s
    assert request.end_s - request.first_s == pytest.approx(
        99 * row_s + context * machine.kv_token_s, rel=1e-3
    )


def test_the_second_of_two_prompts_that_begin_the_same_is_cached() -> None:
    pod = Pod("pod", -100.0, 0.0, Machine())
    for second in (1.0, 5.0):
        pod.run(second)
        pod.take(Request(second, 7, 3000, 3100, 10))
    pod.run(60.0)
    assert pod.report(60.0).cached_prompt_tokens == 3000


def test_one_pod_that_is_enough_keeps_every_request_in_time() -> None:
    found = play(BY_NAME["idle"], lambda look: 1, 0, Machine())
    assert (found.late, found.flips) == (0, 0)
    assert found.pod_hours == pytest.approx(2400 / 3600, rel=0.02)
    steep = replace(BY_NAME["ramp"], rate=lambda second: 50.0, duration_s=300.0)
    assert play(steep, lambda look: 1, 0, Machine()).late_percent > 30


def test_changes_of_direction_are_counted() -> None:
    def restless(look: Look) -> int:
        return 2 if look.now_s % 120 < 60 else 3

    assert play(BY_NAME["idle"], restless, 0, Machine()).flips >= 30


def test_the_law_takes_fewer_pods_with_hits_and_drafts_and_is_never_late() -> None:
    for name in ("shared", "diurnal"):
        own, plain = (
            play(BY_NAME[name], RULES[rule](), 0, Machine())
            for rule in ("aweigh", "aweigh without hits and drafts")
        )
        assert own.late == 0
        assert own.pod_hours < 0.45 * plain.pod_hours


@pytest.mark.parametrize(
    ("trace", "late_percent", "pod_hours"), [("burst", 10.0, 2.6), ("draft gone bad", 4.0, 1.5)]
)
def test_with_a_router_a_sudden_change_is_late_for_few_and_takes_few_pods(
    trace: str, late_percent: float, pod_hours: float
) -> None:
    found = play(BY_NAME[trace], RULES["aweigh with a router"](), 0, Machine(), routed=True)
    assert found.late_percent <= late_percent
    assert found.pod_hours <= pod_hours


def test_a_router_keeps_prefixes_apart() -> None:
    """Four pods of which each holds a third of what all prompts share."""
    small = Machine(kv_tokens=60_000)
    shares = []
    for routed in (False, True):
        seen: list[Look] = []

        def four(look: Look, seen: list[Look] = seen) -> int:
            seen.append(look)
            return 4

        crowd = replace(BY_NAME["shared"], rate=lambda second: 8.0, pods=4, duration_s=600.0)
        play(crowd, four, 0, small, routed=routed)
        states = seen[-1].states.values()
        cached = sum(state.cached_prompt_tokens or 0 for state in states)
        shares.append(cached / (cached + sum(s.computed_prompt_tokens or 0 for s in states)))
    assert shares[1] > 1.15 * shares[0]


def test_requests_that_come_again_go_behind_a_router_where_they_went() -> None:
    went, kept = [], []
    for _ in range(2):
        pods, router = [Pod(f"p{each}", 0.0, 0.0, Machine()) for each in range(4)], Router()
        for number in range(40):  # all of one prefix, which may use every pod
            kept.append(Request(0.1 * number, 1, 500, 600, 10))
            router.take(kept[-1])
            router.send(pods, kept[-1].arrives_s)
        went.append([pod.num_running + pod.num_waiting for pod in pods])
    assert went[0] == went[1]
    assert all(went[0])


def test_lost_reports_change_nothing() -> None:
    found = play(BY_NAME["lost reports"], RULES["aweigh"](), 0, Machine())
    assert found.late == 0
    assert not [pods for at_s, pods in found.pods if 900 < at_s <= 1500]


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_asks_for_pods_when_requests_pile_up(rule: str) -> None:
    ramp = replace(
        BY_NAME["ramp"], rate=lambda second: 5.0 if second < 120 else 120.0, duration_s=480.0
    )
    sizes = [pods for _, pods in play(ramp, RULES[rule](), 0, Machine()).pods]
    assert max(sizes) > 3


def test_in_flight_is_a_mean_over_ten_minutes() -> None:
    rule = rivals.InFlight(10)
    look = Look(now_s=0.0, replicas=1, pods=[])
    assert rule(look) == 1
    assert math.isfinite(rule(replace(look, now_s=15.0)))


async def test_a_trace_is_told_with_its_bars() -> None:
    done = await bench("scaling", "--traces=idle", "--seeds=1", "--output=json")
    rules = [row["rule"] for row in done.rows()]
    assert rules == list(RULES)
    assert done.bars()["idle: late requests, all seeds"] is True
    unknown = await bench("scaling", "--traces=idle,night")
    assert unknown.code == 78
    assert "--traces has 'night'; expected some of steady, shared" in unknown.stderr
