import pytest

from aweigh_runtime.engine.heartbeat import Heartbeat


def test_an_engine_that_loads_is_not_late() -> None:
    assert not Heartbeat().late(now_s=1e9)


def test_an_engine_is_late_after_ten_silent_seconds() -> None:
    heartbeat = Heartbeat()
    heartbeat.beat(now_s=100.0, step_s=0.01)
    assert not heartbeat.late(now_s=110.0)
    assert heartbeat.late(now_s=110.1)


def test_slow_steps_earn_patience() -> None:
    heartbeat = Heartbeat()
    for second in range(100):
        heartbeat.beat(now_s=float(second), step_s=2.0)
    assert heartbeat.limit_s == 40.0
    assert not heartbeat.late(now_s=99 + 39)
    assert heartbeat.late(now_s=99 + 41)


def test_the_slowest_step_may_come_again_in_twice_its_time() -> None:
    heartbeat = Heartbeat()
    for step_s in [*[0.01] * 999, 60.0]:
        heartbeat.beat(now_s=0.0, step_s=step_s)
    assert heartbeat.limit_s == 120.0
    assert not heartbeat.late(now_s=119.0)
    for _ in range(1000):
        heartbeat.beat(now_s=0.0, step_s=0.01)
    assert heartbeat.limit_s == 10.0


@pytest.mark.parametrize("num_before", [0, 99])
def test_a_minute_after_the_slowest_step_nobody_waits_for_its_like(num_before: int) -> None:
    heartbeat = Heartbeat()
    for step_s in [*[0.01] * num_before, 60.0]:
        heartbeat.beat(now_s=0.0, step_s=step_s)
    heartbeat.beat(now_s=59.0, step_s=None)  # idle
    assert heartbeat.limit_s == 120.0
    heartbeat.beat(now_s=61.0, step_s=None)
    assert heartbeat.limit_s == 10.0
    assert heartbeat.late(now_s=72.0)


def test_a_large_prompt_is_waited_for_though_only_the_warm_up_has_read_one() -> None:
    heartbeat = Heartbeat()
    heartbeat.start(now_s=0.0, largest_step_s=20.0)
    for second in range(1000):
        heartbeat.beat(now_s=float(second), step_s=0.2)
    assert not heartbeat.late(now_s=999 + 59)
    assert heartbeat.late(now_s=999 + 61)
