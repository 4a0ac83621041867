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


def test_one_slow_step_among_many_earns_none() -> None:
    heartbeat = Heartbeat()
    for step_s in [*[0.01] * 999, 60.0]:
        heartbeat.beat(now_s=0.0, step_s=step_s)
    assert heartbeat.limit_s == 10.0
