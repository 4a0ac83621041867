"""What the watches have told, compared with what is there."""

import asyncio
import logging

import pytest

from aweigh_api import names
from aweigh_operator import sweep
from aweigh_operator.observe import Key
from aweigh_operator.store import Store
from tests.operator import fakes
from tests.operator.fakes import KEY, FakeCluster


def cluster_with_a_pod() -> FakeCluster:
    cluster = FakeCluster()
    cluster.put(fakes.service())
    cluster.put(fakes.pod())
    return cluster


async def test_nobody_works_before_the_watches_have_told_of_everything() -> None:
    cluster, store = cluster_with_a_pod(), Store()
    waiting = asyncio.create_task(sweep.until_known(cluster, store, ()))
    for kind, _ in list(cluster.objects):
        await asyncio.sleep(2 * 0.05)
        assert not waiting.done()
        for of, body in ((of, body) for (of, _), body in cluster.objects.items()):
            if of == kind:
                store.put(kind, body)
    await asyncio.wait_for(waiting, 2)


async def test_what_goes_before_it_is_told_of_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "LISTED_S", 0.1)
    cluster, store = cluster_with_a_pod(), Store()
    store.put(names.KIND, cluster.objects[names.KIND, KEY])
    waiting = asyncio.create_task(sweep.until_known(cluster, store, ()))
    await asyncio.sleep(0.05)
    cluster.remove("Pod", Key(KEY.namespace, "chat-1"))
    await asyncio.wait_for(waiting, 2)


async def test_an_object_that_no_watch_tells_of_holds_nobody_up_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sweep, "LISTED_S", 0.05)
    monkeypatch.setattr(sweep, "KNOWN_S", 0.2)
    with caplog.at_level(logging.WARNING):
        await asyncio.wait_for(sweep.until_known(cluster_with_a_pod(), Store(), ()), 2)
    assert "not every InferenceService is known" in caplog.text


async def test_a_sweep_tells_the_services_of_what_is_gone() -> None:
    cluster, store = cluster_with_a_pod(), Store()
    for (kind, _), body in cluster.objects.items():
        store.put(kind, body)
    cluster.remove("Pod", Key(KEY.namespace, "chat-1"))
    changed: list[Key] = []
    await sweep.sweep(cluster, store, (), changed.append)
    assert changed == [KEY]
    assert store.pods(KEY) == ()
    assert store.body(KEY) is not None


async def test_a_watch_that_begins_anew_brings_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "LISTED_S", 0.01)
    cluster, store, relisted = cluster_with_a_pod(), Store(), asyncio.Event()
    for (kind, _), body in cluster.objects.items():
        store.put(kind, body)
    cluster.remove("Pod", Key(KEY.namespace, "chat-1"))
    changed: asyncio.Queue[Key] = asyncio.Queue()
    sweeping = asyncio.create_task(
        sweep.keep_sweeping(cluster, store, (), changed.put_nowait, relisted, period_s=3600)
    )
    await asyncio.sleep(0.05)
    assert changed.empty()
    relisted.set()
    assert await asyncio.wait_for(changed.get(), 2) == KEY
    sweeping.cancel()


async def test_after_its_time_each_kind_is_still_looked_at_before_it_is_called_unknown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sweep, "LISTED_S", 0.05)
    monkeypatch.setattr(sweep, "KNOWN_S", 0.1)
    cluster, store = cluster_with_a_pod(), Store()
    store.put("Pod", cluster.objects["Pod", Key(KEY.namespace, "chat-1")])
    with caplog.at_level(logging.WARNING):
        await sweep.until_known(cluster, store, ())
    assert caplog.text.count("is known after") == 1
