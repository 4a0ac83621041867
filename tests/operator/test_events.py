from aweigh_operator import events
from aweigh_operator.events import News, Recorder
from aweigh_operator.observe import Manifest
from tests.operator import fakes
from tests.operator.fakes import FakeCluster

PULL = News(True, "ImagePullFailed", "Observe", "pod chat-1 cannot pull image x")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Broken:
    """An API server that takes no events."""

    async def create_event(self, event: Manifest) -> None:
        raise RuntimeError("forbidden")

    async def repeat_event(self, namespace: str, name: str, series: Manifest) -> bool:
        raise RuntimeError("forbidden")


async def test_the_same_news_raises_the_count_of_the_first_event() -> None:
    cluster = FakeCluster()
    told: list[str] = []
    recorder = Recorder(cluster, "operator-1", told.append)
    for _ in range(3):
        await recorder.tell(fakes.service(), [PULL])
    (event,) = cluster.events
    assert [(name, series["count"]) for name, series in cluster.repeated] == [
        (event["metadata"]["name"], 2),
        (event["metadata"]["name"], 3),
    ]
    assert told == ["Warning"] * 3


async def test_an_event_that_has_expired_is_written_anew_and_then_repeated() -> None:
    cluster = FakeCluster()
    told: list[str] = []
    recorder = Recorder(cluster, "operator-1", told.append)
    await recorder.tell(fakes.service(), [PULL])
    cluster.events.clear()
    await recorder.tell(fakes.service(), [PULL, PULL])
    (event,) = cluster.events
    assert [(name, series["count"]) for name, series in cluster.repeated] == [
        (event["metadata"]["name"], 2)
    ]
    assert told == ["Warning"] * 3


async def test_other_news_and_other_services_get_events_of_their_own() -> None:
    cluster = FakeCluster()
    recorder = Recorder(cluster, "operator-1", lambda _: None)
    await recorder.tell(fakes.service(), [PULL, News(False, "Ready", "Observe", "1 of 1")])
    await recorder.tell(fakes.service(uid="another"), [PULL])
    assert [event["type"] for event in cluster.events] == ["Warning", "Normal", "Warning"]
    assert len({event["metadata"]["name"] for event in cluster.events}) == 3


async def test_one_service_can_only_say_so_much_in_a_while() -> None:
    cluster, clock = FakeCluster(), Clock()
    told: list[str] = []
    recorder = Recorder(cluster, "operator-1", told.append, clock)
    flood = [News(True, "X", "Observe", f"note {number}") for number in range(events.BURST + 5)]
    await recorder.tell(fakes.service(), flood)
    assert (len(cluster.events), told.count("dropped")) == (events.BURST, 5)
    clock.now = events.REFILL_S
    await recorder.tell(fakes.service(), flood[-2:])
    assert len(cluster.events) == events.BURST + 1
    await recorder.tell(fakes.service(uid="another"), flood[:1])
    assert len(cluster.events) == events.BURST + 2


async def test_an_event_that_cannot_be_written_is_dropped() -> None:
    told: list[str] = []
    await Recorder(Broken(), "operator-1", told.append).tell(fakes.service(), [PULL])
    assert told == ["dropped"]
