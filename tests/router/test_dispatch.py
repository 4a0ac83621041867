"""The line and the pods brought together: seats for who waits, whatever their clients do."""

import asyncio
from collections.abc import Iterator

import pytest

from aweigh_api.routing import Room
from aweigh_router import dispatch, rooms
from aweigh_router.asked import Asked
from aweigh_router.calls import Call
from aweigh_router.dispatch import Dispatch
from aweigh_router.line import NO_ROOM_NEEDED, NORMAL, Line
from aweigh_router.rooms import Found, Pod, Pods


class CountingLine(Line[Call]):
    """Counts how often it was put in order."""

    ordered = 0

    def in_order(self) -> Iterator[Call]:
        self.ordered += 1
        return super().in_order()


def call(num_answers: int = 1, model: str | None = None) -> Call:
    priority = NORMAL if num_answers else NO_ROOM_NEEDED
    asked = Asked(model=model, stream=True, num_answers=num_answers)
    return Call(b"", 0.0, priority, asked=asked, deadline_s=60.0)


def tell(pod: Pod, room: int, model: str | None = None) -> None:
    report = Room(boot_id="b", phase="ready", room=room, running=9, model=model)
    rooms.reported(pod, report, 0.0)


@pytest.fixture
def line() -> CountingLine:
    return CountingLine(1000)


@pytest.fixture
def work(line: CountingLine) -> Dispatch:
    return Dispatch(line, Pods(), lambda: 0.0)


@pytest.fixture
def pod(work: Dispatch) -> Pod:
    """It is full."""
    (pod,), _ = work.pods.follow([Found("p", "u", ready=True)])
    tell(pod, room=0)
    return pod


async def test_a_client_that_does_not_read_its_sign_of_life_gets_its_pod_all_the_same(
    work: Dispatch, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_BETWEEN_SIGNS_S", 0.01)
    told, ended = asyncio.Event(), list[bool]()

    async def unread() -> None:
        told.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    waiting = call()
    work.join(waiting, 1)
    seat = asyncio.create_task(work.seat(waiting, unread))
    async with asyncio.timeout(10):
        await told.wait()
        tell(pod, room=1)
        work.match()
        assert await seat is pod
    assert ended == [True]


async def test_a_client_that_is_gone_when_it_is_told_that_it_waits_leaves_the_line(
    work: Dispatch, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_BETWEEN_SIGNS_S", 0.01)

    async def nobody_there() -> None:
        raise asyncio.CancelledError

    waiting = call()
    work.join(waiting, 1)
    async with asyncio.timeout(10):
        await asyncio.wait({seat := asyncio.create_task(work.seat(waiting, nobody_there))})
    assert seat.cancelled()
    assert (len(work.line), pod.in_flight) == (0, 0)


async def test_a_line_before_full_pods_is_not_looked_through_at_each_report(
    work: Dispatch, line: CountingLine, pod: Pod
) -> None:
    async def nothing() -> None:
        return

    for each in (waiting := [call() for _ in range(5)]):
        work.join(each, 1)
    seats = [asyncio.create_task(work.seat(each, nothing)) for each in waiting]
    await asyncio.sleep(0)
    line.ordered = 0
    for _ in range(100):
        work.match()
    assert line.ordered == 0
    work.join(models := call(0), 1)  # that a full pod answers, too
    assert await work.seat(models, nothing) is pod
    tell(pod, room=1)
    work.match()
    await asyncio.wait(seats, return_when=asyncio.FIRST_COMPLETED)
    assert [seat.done() for seat in seats] == [True, False, False, False, False]
    for seat in seats:
        seat.cancel()
    await asyncio.gather(*seats, return_exceptions=True)


async def test_nor_is_one_that_waits_for_full_pods_of_its_model_beside_free_ones_of_another(
    work: Dispatch, line: CountingLine
) -> None:
    async def nothing() -> None:
        return

    (full, free), _ = work.pods.follow(Found(name, name, ready=True) for name in ("full", "free"))
    tell(full, room=0, model="mine")
    tell(free, room=9, model="newname")
    for each in (waiting := [call(model="mine") for _ in range(5)]):
        work.join(each, 1)
    seats = [asyncio.create_task(work.seat(each, nothing)) for each in waiting]
    await asyncio.sleep(0)
    for _ in range(100):
        work.match()
    assert line.ordered == 0
    work.join(other := call(model="newname"), 1)
    assert await work.seat(other, nothing) is free
    line.ordered = 0
    work.match()
    assert line.ordered == 0  # nobody asks for that one any more
    for seat in seats:
        seat.cancel()
    await asyncio.gather(*seats, return_exceptions=True)


async def test_a_pod_that_somebody_still_names_may_be_gone(work: Dispatch) -> None:
    work.pods.follow([Found("one", "u", ready=True), Found("two", "v", ready=True)])
    tell(work.pods.get("one"), room=1)
    tell(work.pods.get("two"), room=0)
    waits, innocent = call(), call()
    waits.avoid.add("one")
    waits.hold("gone")
    work.join(waits, 1)
    seat = asyncio.create_task(work.seat(waits, nothing_said))
    await asyncio.sleep(0)
    work.join(innocent, 1)
    assert await work.seat(innocent, nothing_said) is work.pods.get("one")
    assert waits.held is None
    seat.cancel()


async def nothing_said() -> None: ...
