"""Places of pods that are full: none is asked for in vain, and every router gets some."""

import asyncio
from pathlib import Path

import pytest

from aweigh_router import rooms
from tests.router.pod import Pod, running
from tests.router.routing import eventually, routing
from tests.router.test_streams import whole


async def test_no_place_of_a_full_pod_is_asked_for_twice(tmp_path: Path) -> None:
    pod = Pod(max_running=4, pace_s=0.005)
    async with running(pod), routing(tmp_path, [pod]) as local:
        streams = await asyncio.gather(
            *(local.stream(f"p {each}", max_tokens=4 + each % 3) for each in range(60))
        )
        told = local.service.metrics.text().decode()
    assert all(whole(each, f"p {i}", 4 + i % 3) for i, each in enumerate(streams))
    assert 'retries_total{model_name="local",reason="no_room"} 0.0' in told


async def test_a_line_that_never_ends_leaves_places_to_other_routers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "TURN_EVERY_S", 0.0)
    pod = Pod(max_running=4, pace_s=0.01)
    async with (
        running(pod),
        routing(tmp_path, [pod]) as one,
        routing(tmp_path, [pod]) as other,
    ):
        asking = [asyncio.create_task(one.stream(f"p {each}", max_tokens=4)) for each in range(400)]
        await eventually(lambda: len(one.service.dispatch.line) > 300)
        late = (other.stream(f"late {each}", max_tokens=4) for each in range(4))
        assert all(streamed.done for streamed in await asyncio.gather(*late))
        assert len(one.service.dispatch.line)
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
