"""What was counted in the last minutes, from reports of pods that come, restart and stay silent."""

from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from aweigh_api.state import State
from aweigh_operator import recent
from aweigh_operator.observe import Counts, Pod, pod_of
from tests.operator import fakes

POD = pod_of(fakes.pod(ready=True))
MINUTE_S = 60.0


def state(boot: int, uptime_s: float, cached: int | None, computed: int | None) -> State:
    return State(
        boot_id=str(boot),
        uptime_s=uptime_s,
        phase="ready",
        cached_prompt_tokens=cached,
        computed_prompt_tokens=computed,
    )


@dataclass
class Watcher:
    """What a reconciler remembers of its pods."""

    window: recent.Window
    now_s: float = 0.0

    def see(self, *pods: Pod, **states: State) -> Counts:
        """The pods `NAME` report these states now."""
        by_uid: Mapping[str, State] = {f"uid-of-{name}": each for name, each in states.items()}
        self.window = recent.remembered(self.window, pods, by_uid, self.now_s)
        return recent.counts(self.window, pods, self.now_s)


def pods(*found: str) -> list[Pod]:
    return [pod_of(fakes.pod(name, ready=True)) for name in found]


def test_tokens_count_and_not_pods() -> None:
    (busy, idle) = pods("busy", "idle")
    seen = Watcher({}).see(busy, idle, busy=state(1, 9, 900, 100), idle=state(1, 9, 0, 10))
    assert seen == Counts(900, 110)
    assert seen.hit_rate_percent == 89


def test_what_a_pod_counted_before_the_operator_came_is_not_of_the_last_minutes() -> None:
    watcher, (pod,) = Watcher({}), pods("a")
    assert watcher.see(pod, a=state(1, 3600, 10**6, 0)) == Counts()
    watcher.now_s = MINUTE_S
    assert watcher.see(pod, a=state(1, 3660, 10**6, 50)) == Counts(0, 50)


def test_what_was_long_ago_is_forgotten() -> None:
    watcher, (pod,) = Watcher({}), pods("a")
    for minute in range(12):
        watcher.now_s = minute * MINUTE_S
        seen = watcher.see(pod, a=state(1, watcher.now_s, 100 if minute else 0, 0))
    assert seen == Counts()
    assert len(watcher.window["uid-of-a"]) <= 2 + recent.WINDOW_S / MINUTE_S


def test_a_window_slides_over_all_that_came_within_it() -> None:
    watcher, (pod,) = Watcher({}), pods("a")
    for minute in range(20):
        watcher.now_s = minute * MINUTE_S
        seen = watcher.see(pod, a=state(1, 3600 + watcher.now_s, 3 * minute, 7 * minute))
    minutes = int(recent.WINDOW_S / MINUTE_S)
    assert seen == Counts(3 * minutes, 7 * minutes)


def test_a_report_that_is_read_twice_counts_once() -> None:
    watcher, (pod,) = Watcher({}), pods("a")
    for watcher.now_s in range(30):
        seen = watcher.see(pod, a=state(1, 5, 30, 70))
    assert seen == Counts(30, 70)
    assert len(watcher.window["uid-of-a"]) == 1


def test_a_pod_that_does_not_answer_for_a_moment_keeps_its_history() -> None:
    watcher, (pod,) = Watcher({}), pods("a")
    watcher.see(pod, a=state(1, 3600, 0, 0))
    assert watcher.see(pod) == Counts()
    watcher.now_s = MINUTE_S
    assert watcher.see(pod, a=state(1, 3660, 5, 5)) == Counts(5, 5)


def guesses(uptime_s: float, drafted: int, accepted: int, decoded: int, rows: int) -> State:
    return State(
        boot_id="1",
        uptime_s=uptime_s,
        phase="ready",
        drafted_tokens=drafted,
        accepted_tokens=accepted,
        decode_tokens=decoded,
        decoded_rows=rows,
    )


def test_acceptance_and_length_are_those_of_the_last_minutes() -> None:
    watcher, (good, bad) = Watcher({}), pods("good", "bad")
    watcher.see(
        good, bad, good=guesses(9000, 10**6, 0, 10**6, 10**6), bad=guesses(9, 40, 0, 10, 10)
    )
    watcher.now_s = MINUTE_S
    seen = watcher.see(
        good,
        bad,
        good=guesses(9060, 10**6 + 60, 50, 10**6 + 90, 10**6 + 30),
        bad=guesses(69, 40, 0, 10, 10),
    )
    assert (seen.drafted, seen.accepted) == (100, 50)
    assert seen.acceptance_percent == 50
    assert seen.mean_accepted_length == "2.50"  # 100 tokens in 40 rows


def test_without_guesses_nothing_is_known_of_them() -> None:
    (pod,) = pods("a")
    seen = Watcher({}).see(pod, a=state(1, 5, 30, 70))
    assert (seen.acceptance_percent, seen.mean_accepted_length) == (None, None)
    assert seen.hit_rate_percent == 30


def test_pods_that_are_gone_or_do_not_serve_do_not_count() -> None:
    watcher, (pod,) = Watcher({}), pods("a")
    watcher.see(pod, a=state(1, 5, 30, 70))
    assert watcher.see(pod_of(fakes.pod("a", running=True))) == Counts()
    assert watcher.see() == Counts()
    assert watcher.window == {}


def test_a_pod_that_does_not_tell_is_unknown() -> None:
    (pod,) = pods("a")
    assert Watcher({}).see(pod, a=state(1, 5, None, 70)) == Counts()
    assert Watcher({}).see(pod, a=state(1, 5, 70, None)) == Counts()


# One step of a pod: it serves tokens, and then reports, is silent, or starts anew.
tokens = st.integers(0, 10**6)
steps = st.lists(
    st.tuples(tokens, tokens, st.sampled_from(["report", "silent", "restart"])), max_size=40
)


@given(steps=steps, short_s=st.floats(0.5, 20))
def test_restarts_lose_only_what_was_never_reported(
    steps: list[tuple[int, int, str]], short_s: float
) -> None:
    """Everything falls into the window; the sum is that of all reports, whatever the boots."""
    pace_s = min(short_s, recent.WINDOW_S / 42, recent.WINDOW_S / recent.MAX_SAMPLES / 3)
    watcher, boot, booted_s = Watcher({}), 1, 0.0
    now, unreported, reported = [0, 0], [0, 0], [0, 0]
    told = 0
    seen = Counts()
    for cached, computed, event in steps:
        watcher.now_s += pace_s
        now, unreported = (
            [now[0] + cached, now[1] + computed],
            [unreported[0] + cached, unreported[1] + computed],
        )
        if event == "restart":
            boot, booted_s, now, unreported = boot + 1, watcher.now_s, [0, 0], [0, 0]
        if event == "report" and told < recent.MAX_SAMPLES:
            told += 1
            uptime_s = watcher.now_s - booted_s
            seen = watcher.see(POD, **{"chat-1": state(boot, uptime_s, now[0], now[1])})
            reported = [one + other for one, other in zip(reported, unreported, strict=True)]
            unreported = [0, 0]
    assert seen == Counts(*reported)


@given(
    reports=st.lists(
        st.tuples(
            st.integers(1, 3),
            st.floats(allow_nan=True, allow_infinity=True),
            st.integers(-(2**63), 2**63),
            st.integers(-(2**63), 2**63),
            st.floats(0, 400),
        ),
        max_size=40,
    )
)
def test_whatever_pods_say_the_rate_is_a_percentage_and_memory_is_bounded(
    reports: list[tuple[int, float, int, int, float]],
) -> None:
    watcher = Watcher({})
    for boot, uptime_s, cached, computed, pause_s in reports:
        watcher.now_s += pause_s
        seen = watcher.see(POD, **{"chat-1": state(boot, uptime_s, cached, computed)})
        assert seen.hit_rate_percent is None or 0 <= seen.hit_rate_percent <= 100
        assert all(len(samples) <= recent.MAX_SAMPLES for samples in watcher.window.values())
