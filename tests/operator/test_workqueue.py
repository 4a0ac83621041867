import asyncio
import itertools
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aweigh_operator import workqueue
from aweigh_operator.cluster import ApiError
from aweigh_operator.metrics import Metrics
from aweigh_operator.workqueue import WorkQueue

Work = Callable[[str], Awaitable[float | None]]


def queue_of(work: Work, workers: int = 4) -> WorkQueue[str]:
    return WorkQueue(work, Metrics(), workers=workers, jitter=lambda: 1.0)


async def idle(queue: WorkQueue[str]) -> None:
    for _ in range(10_000):
        if not queue.depth and queue.oldest_age_s() == 0:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the queue did not become idle")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    adds=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=40),
    workers=st.integers(1, 5),
)
def test_no_two_workers_share_a_key_and_no_addition_is_lost(
    adds: list[tuple[str, int, bool]], workers: int
) -> None:
    at_work: Counter[str] = Counter()
    last_add: dict[str, int] = {}
    last_start: dict[str, int] = {}
    clock = iter(range(1_000_000))

    async def work(key: str) -> None:
        assert at_work[key] == 0
        at_work[key] += 1
        last_start[key] = next(clock)
        for _ in range(random.randint(0, 3)):
            await asyncio.sleep(0)
        at_work[key] -= 1

    async def play() -> None:
        queue = queue_of(work, workers)
        queue.start()
        for key, pause, urgent in adds:
            last_add[key] = next(clock)
            queue.add(key, urgent=urgent)
            for _ in range(pause):
                await asyncio.sleep(0)
        await idle(queue)
        assert not queue.broken()
        await queue.stop(1)

    asyncio.run(play())
    assert all(last_start[key] > added for key, added in last_add.items())


async def test_an_urgent_key_comes_before_those_that_wait_and_only_once() -> None:
    seen: list[str] = []

    async def work(key: str) -> None:
        seen.append(key)

    queue = queue_of(work, workers=1)
    for key in "abc":
        queue.add(key)
    queue.add("c", urgent=True)
    queue.add("d", urgent=True)
    assert queue.depth == 4
    queue.start()
    await idle(queue)
    await queue.stop(1)
    assert seen == ["c", "d", "a", "b"]


async def test_a_key_added_many_times_while_it_waits_is_worked_on_once() -> None:
    seen: list[str] = []

    async def work(key: str) -> None:
        seen.append(key)

    queue = queue_of(work)
    for _ in range(5):
        queue.add("a")
    queue.start()
    await idle(queue)
    await queue.stop(1)
    assert seen == ["a"]


async def test_a_key_added_during_its_work_is_worked_on_again() -> None:
    seen: list[str] = []

    async def work(key: str) -> None:
        seen.append(key)
        if len(seen) == 1:
            queue.add(key)
            await asyncio.sleep(0)

    queue = queue_of(work)
    queue.add("a")
    queue.start()
    await idle(queue)
    await queue.stop(1)
    assert seen == ["a", "a"]


async def test_a_failing_key_comes_back_after_pauses_that_double(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workqueue, "FIRST_PAUSE_S", 0.02)
    loop, starts = asyncio.get_running_loop(), []
    done = asyncio.Event()

    async def work(key: str) -> None:
        starts.append(loop.time())
        if len(starts) < 4:
            raise RuntimeError("not yet")
        done.set()

    queue = queue_of(work)
    queue.add("a")
    queue.start()
    await asyncio.wait_for(done.wait(), 5)
    await queue.stop(1)
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses[0] >= 0.02
    assert pauses[1] >= 0.04
    assert pauses[2] >= 0.08


class Failing:
    """Work that fails, and is told of news by its watches meanwhile."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.starts: list[float] = []
        self.again = asyncio.Event()
        self.queue = queue_of(self)

    async def __call__(self, key: str) -> None:
        self.starts.append(asyncio.get_running_loop().time())
        if self.error is not None:
            self.queue.add(key)  # during the work
            raise self.error
        self.again.set()

    async def until_failed(self) -> None:
        self.queue.add("a")
        self.queue.start()
        await idle(self.queue)

    async def hear(self, *, urgent: bool = False) -> None:
        """Of news, in the ways that there are."""
        self.queue.add("a", urgent=urgent)
        self.queue.add_after("a", 0.0)
        await asyncio.sleep(0.05)


async def test_news_do_not_shorten_the_pause_of_a_key_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workqueue, "FIRST_PAUSE_S", 0.5)
    work = Failing(RuntimeError("not yet"))
    await work.until_failed()
    work.error = None
    for _ in range(3):
        await work.hear()
    async with asyncio.timeout(5):
        await work.again.wait()
    await work.queue.stop(1)
    assert work.starts[1] - work.starts[0] >= 0.5


async def test_somebody_who_waits_ends_a_pause_but_not_one_that_a_server_has_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workqueue, "FIRST_PAUSE_S", 100.0)
    work = Failing(RuntimeError("not yet"))
    await work.until_failed()
    await work.hear(urgent=True)
    assert len(work.starts) == 2
    work.error = ApiError("list pods", 429, "too many", retry_after_s=100.0)
    await work.hear(urgent=True)
    await work.hear(urgent=True)
    assert len(work.starts) == 3
    await work.queue.stop(1)


async def test_who_waits_is_first_when_a_pause_that_a_server_asked_for_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workqueue, "FIRST_PAUSE_S", 0.01)  # the server has asked for longer
    seen: list[str] = []
    failed = asyncio.Event()

    async def work(key: str) -> None:
        seen.append(key)
        if not failed.is_set():
            failed.set()
            raise ApiError("list pods", 429, "too many", retry_after_s=0.3)

    queue = queue_of(work, workers=1)
    queue.add("a")
    queue.start()
    await failed.wait()
    await asyncio.sleep(0.05)
    queue.add_after("a", 0.0)  # other news come first
    queue.add("a", urgent=True)
    queue.pause()  # so that all wait together
    await asyncio.sleep(0.05)
    for each in ("b", "c"):
        queue.add(each)
    await asyncio.sleep(0.6)
    queue.resume()
    await idle(queue)
    await queue.stop(1)
    assert sorted(seen) == ["a", "a", "b", "c"]
    assert seen.index("a", 1) < seen.index("c")  # the worker may have taken b before the pause


async def pauses_of(error: Exception, caplog: pytest.LogCaptureFixture) -> list[float]:
    """How long 50 keys that fail at once are told to wait, in seconds."""
    failed = asyncio.Semaphore(0)

    async def work(key: str) -> None:
        failed.release()
        raise error

    queue = WorkQueue(work, Metrics())
    for number in range(50):
        queue.add(str(number))
    queue.start()
    for _ in range(50):
        await failed.acquire()
    await queue.stop(5)
    found = re.findall(r"next try of \d+ in ([\d.]+) s", caplog.text)
    assert len(found) == 50
    return [float(each) for each in found]


async def test_keys_that_fail_together_do_not_come_back_together(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workqueue, "FIRST_PAUSE_S", 100.0)
    pauses = await pauses_of(RuntimeError("all at once"), caplog)
    assert 50.0 <= min(pauses) < max(pauses) <= 100.0
    assert max(pauses) - min(pauses) > 10.0
    assert len(set(pauses)) > 10


async def test_a_server_that_says_when_to_ask_again_is_not_asked_sooner_nor_by_all_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pauses = await pauses_of(ApiError("list pods", 429, "too many", retry_after_s=100.0), caplog)
    assert 100.0 <= min(pauses) < max(pauses) <= 150.0
    assert len(set(pauses)) > 10


async def test_a_key_comes_back_after_the_delay_that_its_work_asks_for() -> None:
    seen: list[str] = []
    twice = asyncio.Event()

    async def work(key: str) -> float | None:
        seen.append(key)
        if len(seen) == 2:
            twice.set()
            return None
        return 0.01

    queue = queue_of(work)
    queue.add("a")
    queue.start()
    await asyncio.wait_for(twice.wait(), 5)
    await queue.stop(1)
    assert seen == ["a", "a"]


async def test_the_earlier_of_two_appointments_stands() -> None:
    done = asyncio.Event()

    async def work(key: str) -> None:
        done.set()

    queue = queue_of(work)
    queue.start()
    queue.add_after("a", 0.01)
    queue.add_after("a", 60)
    await asyncio.wait_for(done.wait(), 5)
    await queue.stop(1)


async def test_stopping_lets_the_work_in_flight_finish_and_takes_nothing_more() -> None:
    started, finished = asyncio.Event(), []

    async def work(key: str) -> None:
        started.set()
        await asyncio.sleep(0.05)
        finished.append(key)

    queue = queue_of(work, workers=1)
    queue.add("a")
    queue.add("b")
    queue.start()
    await started.wait()
    await queue.stop(5)
    queue.add("c")
    assert finished == ["a"]


async def test_stopping_gives_up_on_work_that_takes_too_long() -> None:
    started = asyncio.Event()

    async def work(key: str) -> None:
        started.set()
        await asyncio.sleep(3600)

    queue = queue_of(work)
    queue.add("a")
    queue.start()
    await started.wait()
    await asyncio.wait_for(queue.stop(0.01), 5)


async def test_the_age_of_the_oldest_key_counts_waiting_and_work() -> None:
    release = asyncio.Event()

    async def work(key: str) -> None:
        await release.wait()

    queue = queue_of(work, workers=1)
    assert queue.oldest_age_s() == 0
    queue.add("a")
    queue.start()
    await asyncio.sleep(0.02)
    queue.add("b")
    assert 0.015 <= queue.longest_work_s() <= queue.oldest_age_s()
    assert queue.oldest_age_s() >= 0.015  # a sleep may be a clock tick short
    assert queue.depth == 1
    release.set()
    await idle(queue)
    await queue.stop(1)


async def test_while_paused_keys_wait_and_are_not_late_for_it() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)

    queue = queue_of(work)
    queue.pause()
    queue.start()
    for key in ("a", "b", "a"):
        queue.add(key)
    await asyncio.sleep(0.05)
    assert (done, queue.oldest_age_s(), queue.longest_work_s()) == ([], 0.0, 0.0)
    queue.resume()
    assert queue.oldest_age_s() < 0.05
    await idle(queue)
    assert sorted(done) == ["a", "b"]
    queue.pause()
    queue.add("c")
    await queue.stop(1.0)  # a paused queue ends, too
    assert sorted(done) == ["a", "b"]
