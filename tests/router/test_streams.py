"""Requests through a router to pods that live, refuse, hang and die."""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

import pytest

from aweigh_api.routing import ALONE_HEADER
from aweigh_router import app, dispatch, reports, rooms
from aweigh_router.reply import Reply
from tests.router.pod import SECRET, Fate, Pod, running, text
from tests.router.routing import Local, eventually, routing
from tests.router.streamed import Streamed


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_BETWEEN_SIGNS_S", 0.05)
    monkeypatch.setattr(dispatch, "_BETWEEN_LOOKS_S", 0.05)


def whole(streamed: Streamed, prompt: str, num_tokens: int, n: int = 1) -> bool:
    """Whether a client has all of it, once."""
    return (
        streamed.texts == {each: text(prompt, each, num_tokens) for each in range(n)}
        and streamed.finishes == dict.fromkeys(range(n), 1)
        and len(streamed.ids) == 1
        and streamed.done
        and not streamed.errors
    )


async def test_a_stream_passes_through_without_what_is_for_the_router(tmp_path: Path) -> None:
    async with running(Pod()) as pods, routing(tmp_path, pods) as local:
        streamed = await local.stream("hello", n=2, max_tokens=5)
    assert whole(streamed, "hello", 5, n=2)
    assert not streamed.comments


@pytest.mark.parametrize("after", [1, 4, 9, 10, 11, 12])
async def test_a_client_sees_one_stream_though_its_pod_dies(tmp_path: Path, after: int) -> None:
    fate = Fate(after)
    async with running(Pod(fate=fate), Pod(fate=fate)) as pods, routing(tmp_path, pods) as local:
        streamed = await local.stream("hello", n=2, max_tokens=5)
    assert whole(streamed, "hello", 5, n=2)
    assert [each.resumed for pod in pods for each in pod.seen].count(True) == 1


async def test_a_stream_goes_on_where_its_pod_hands_it_over(tmp_path: Path) -> None:
    one, two = Pod(hands_over_after=3), Pod()
    async with running(one, two) as pods, routing(tmp_path, pods) as local:
        streams = await asyncio.gather(
            *(local.stream(f"prompt {each}", max_tokens=6) for each in range(8))
        )
    assert all(whole(each, f"prompt {i}", 6) for i, each in enumerate(streams))
    assert any(each.resumed for each in two.seen)


async def test_streams_live_on_through_one_death_after_another(tmp_path: Path) -> None:
    one, two = Pod(revives=True, pace_s=0.02), Pod(revives=True, pace_s=0.02)
    async with running(one, two) as pods, routing(tmp_path, pods) as local:
        asking = asyncio.gather(*(local.stream(f"p {each}", max_tokens=40) for each in range(20)))
        await asyncio.sleep(0.3)
        await one.restart()
        streams = await asking
    assert all(whole(each, f"p {i}", 40) for i, each in enumerate(streams))


async def test_an_unstreamed_request_is_asked_again_elsewhere(tmp_path: Path) -> None:
    one, two = Pod(dies_of="hello"), Pod()
    async with running(one, two) as pods, routing(tmp_path, pods) as local:
        for each in range(6):
            status, answer = await local.whole(f"hello {each}", max_tokens=3)
            assert status == 200
            assert answer["choices"][0]["text"] == text(f"hello {each}", 0, 3)


async def test_a_pod_that_accepts_and_never_answers_is_given_up(tmp_path: Path) -> None:
    one, two = Pod(hangs=True), Pod()
    async with running(one, two) as pods, routing(tmp_path, pods, patience_seconds=1.0) as local:
        streams = await asyncio.gather(
            *(local.stream(f"prompt {each}", max_tokens=3) for each in range(8))
        )
    assert all(whole(each, f"prompt {i}", 3) for i, each in enumerate(streams))


async def test_an_answer_in_one_piece_that_a_pod_has_lost_is_asked_for_elsewhere(
    tmp_path: Path,
) -> None:
    one, two = Pod(loses=True), Pod()
    async with running(one, two) as pods, routing(tmp_path, pods, patience_seconds=1.0) as local:
        answers = await asyncio.gather(
            *(local.whole(f"prompt {each}", max_tokens=3) for each in range(8))
        )
    assert [status for status, _ in answers] == [200] * 8
    assert one.seen


async def test_an_answer_in_one_piece_that_a_pod_counts_is_computed_once_however_long_it_takes(
    tmp_path: Path,
) -> None:
    pods = [Pod(pace_s=0.5), Pod(pace_s=0.5)]
    waits = {"wait_seconds": 6.0, "patience_seconds": 0.5}
    async with running(*pods), routing(tmp_path, pods, **waits) as local:
        status, _ = await local.whole("hello", max_tokens=8)  # more than half of the wait
    assert status == 200
    assert sum(len(pod.seen) for pod in pods) == 1


async def test_a_pod_that_reports_is_not_taken_for_dead_of_a_stream_that_stands_still(
    tmp_path: Path,
) -> None:
    pod = Pod(hangs=True)
    async with running(pod), routing(tmp_path, [pod], patience_seconds=0.3) as local:
        asking = asyncio.create_task(local.stream("hello", max_tokens=3))
        await eventually(lambda: len(pod.seen) == 4)
        pod.hangs = False
        assert whole(await asking, "hello", 3)
        async with local.session.get(f"{local.admin_url}/metrics") as response:
            lines = (await response.text()).splitlines()
    retries = 'aweigh_router_retries_total{model_name="local",reason="%s"}'
    assert f"{retries % 'died'} 0.0" in lines
    assert f"{retries % 'moved'} 0.0" not in lines


async def test_what_nothing_comes_of_ends_in_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aweigh.requests")
    pod = Pod(hangs=True)
    waits = {"wait_seconds": 2.0, "patience_seconds": 0.8}
    async with running(pod), routing(tmp_path, [pod], **waits) as local:
        (status, answer), streamed = await asyncio.gather(
            local.whole("in one piece"), local.stream("streamed")
        )
    assert (status, answer["error"]["code"]) == (504, "timeout")
    assert "or for a stream" in answer["error"]["message"]
    assert streamed.errors[0]["code"] == "timeout"
    assert "stream" not in streamed.errors[0]["message"]
    ended = local.service.metrics.text().decode()
    assert 'aweigh_router_requests_total{model_name="local",status="504"} 2.0' in ended
    told = [each.__dict__["fields"] for each in caplog.records if each.msg == "request"]
    assert [(each["status"], each["error"]) for each in told] == [(504, "timeout")] * 2
    asked = [seen.body["prompt"] for seen in pod.seen]
    assert (asked.count("in one piece"), asked.count("streamed")) == (1, 3)


@pytest.mark.parametrize("broken", [True, False], ids=["no engine", "no connection"])
async def test_what_no_pod_takes_ends_in_time_though_they_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    monkeypatch.setattr(rooms, "LONGEST_REST_S", 0.1)
    monkeypatch.setattr(app, "_READ_S", 1.0)
    pod = Pod(broken=broken)
    async with running(pod), routing(tmp_path, [pod], wait_seconds=1.0) as local:
        await eventually(lambda: local.service.state().known_pods)
        if not broken:
            await pod.shut()
        hearing = asyncio.create_task(_keep_telling(pod))
        async with asyncio.timeout(10):
            (status, answer), streamed = await asyncio.gather(
                local.whole("hello"), local.stream("hello")
            )
            async with local.session.get(f"{local.url}/v1/models") as response:
                assert response.status == (200 if broken else 503)
        hearing.cancel()
    assert (status, answer["error"]["code"]) == (503, "overloaded")
    assert streamed.errors[0]["code"] == "overloaded"
    assert "No pod took this request within 1" in streamed.errors[0]["message"]


async def test_a_pod_that_falls_silent_loses_what_it_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Pod(hangs=True), Pod()
    async with running(one, two) as pods, routing(tmp_path, pods) as local:
        asking = asyncio.gather(*(local.whole(f"p {each}", max_tokens=3) for each in range(8)))
        await asyncio.sleep(0.2)
        monkeypatch.setattr(rooms, "SILENT_S", 1.0)
        two.tell()
        hearing = asyncio.create_task(_keep_telling(two))
        assert all(status == 200 for status, _ in await asking)
        hearing.cancel()


async def _keep_telling(pod: Pod) -> None:
    while True:
        pod.tell()
        await asyncio.sleep(0.05)


async def test_a_request_that_kills_its_pods_fails_alone(tmp_path: Path) -> None:
    deaths: list[int] = []
    pods = [Pod(dies_of="poison", revives=True, pace_s=0.02, deaths=deaths) for _ in range(3)]
    async with running(*pods), routing(tmp_path, pods, wait_seconds=30.0) as local:
        answered: list[int] = []
        asking = asyncio.create_task(_keep_asking_for_models(local, answered))  # takes no room
        killing = asyncio.create_task(local.stream("poison", max_tokens=5))
        streams = await asyncio.gather(
            *(local.stream(f"p {each}", max_tokens=20) for each in range(60))
        )
        killed = await killing
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    assert 200 in answered
    assert all(whole(each, f"p {i}", 20) for i, each in enumerate(streams))
    assert (len(deaths), deaths[-1]) == (3, 0)  # the third time it has the pod for itself
    assert killed.errors[0]["code"] == "pods_died"
    assert sum(each.body.get("prompt") == "poison" for pod in pods for each in pod.seen) == 3


async def _keep_asking_for_models(local: Local, answered: list[int]) -> None:
    while True:
        async with local.session.get(f"{local.url}/v1/models") as response:
            await response.read()
            answered.append(response.status)


async def test_a_stream_is_not_resumed_by_another_revision(tmp_path: Path) -> None:
    one, two = Pod(pace_s=0.02), Pod(pace_s=0.02)
    async with running(one, two) as pods, routing(tmp_path, pods) as local:
        asking = asyncio.create_task(local.stream("hello", max_tokens=50))
        await eventually(lambda: one.events + two.events >= 3)
        its, other = (one, two) if one.seen else (two, one)
        other.revision = "two"
        other.tell()
        await asyncio.sleep(0.1)
        await its.die()
        streamed = await asking
    assert streamed.errors[0]["code"] == "not_resumable"
    assert not other.seen


async def test_requests_wait_until_a_pod_has_room(tmp_path: Path) -> None:
    pod = Pod(refuses=True)
    async with running(pod), routing(tmp_path, [pod]) as local:
        asking = asyncio.create_task(local.stream("hello", max_tokens=3))
        await eventually(lambda: len(local.service.dispatch.line))
        await asyncio.sleep(0.2)
        pod.refuses = False
        pod.tell()
        streamed = await asking
    assert whole(streamed, "hello", 3)
    assert streamed.comments  # its client saw that it lives


async def test_a_pod_that_lies_about_its_room_costs_nobody_the_place(tmp_path: Path) -> None:
    liar, honest = Pod(refuses=True, lies=True), Pod(max_running=2)
    async with running(liar, honest) as pods, routing(tmp_path, pods) as local:
        streams = await asyncio.gather(
            *(local.stream(f"p {each}", max_tokens=3) for each in range(12))
        )
        told = local.service.metrics.text().decode()
    assert all(whole(each, f"p {i}", 3) for i, each in enumerate(streams))
    assert not liar.seen
    assert 'retries_total{model_name="local",reason="no_room"} 0.0' not in told
    assert 'aweigh_router_wait_seconds_count{model_name="local"} 12.0' in told


async def test_without_pods_a_request_is_held_and_then_told(tmp_path: Path) -> None:
    pod = Pod()
    async with running(pod):
        pass
    async with routing(tmp_path, [pod], wait_seconds=1.0) as local:
        (status, answer), streamed = await asyncio.gather(
            local.whole("hello"), local.stream("hello")
        )
    assert (status, answer["error"]["code"]) == (503, "no_pods")
    assert (streamed.status, streamed.errors[0]["code"]) == (200, "no_pods")
    assert set(streamed.comments) == {": waiting"}


async def test_where_waiting_helps_nobody_the_reason_comes_at_once(tmp_path: Path) -> None:
    async with routing(tmp_path, [Pod(url="http://127.0.0.1:9")]) as local:
        local.service.dispatch.reason = "ModelNotFound"
        for streamed in (await local.stream("hello"), await local.stream("hello")):
            assert (streamed.status, streamed.errors[0]["code"]) == (503, "no_pods")
            assert "ModelNotFound" in streamed.errors[0]["message"]


async def test_a_pod_that_is_started_again_is_waited_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "DOUBTFUL_S", 0.3)
    async with routing(tmp_path, [Pod(url="http://127.0.0.1:9")]) as local:
        local.service.dispatch.reason = "OutOfMemory"
        streamed = await local.stream("hello")
    assert ": waiting" in streamed.comments
    assert "OutOfMemory" in streamed.errors[0]["message"]


async def test_requests_that_came_before_the_first_pod_are_all_answered(tmp_path: Path) -> None:
    pod = Pod()
    async with running(pod):
        pass
    async with routing(tmp_path, [pod]) as local:
        asking = asyncio.gather(*(local.stream(f"p {each}", max_tokens=3) for each in range(100)))
        await eventually(lambda: len(local.service.dispatch.line) == 100)
        await pod.start()
        streams = await asking
        await pod.die()
    assert all(whole(each, f"p {i}", 3) for i, each in enumerate(streams))


async def test_none_of_200_streams_is_lost_and_no_pod_gets_too_many(tmp_path: Path) -> None:
    pods = [Pod(max_running=16, pace_s=0.002) for _ in range(3)]
    async with running(*pods), routing(tmp_path, pods) as local:
        streams = await asyncio.gather(
            *(local.stream(f"p {each}", max_tokens=8) for each in range(200))
        )
        assert (await local.state())["in_flight"] == 0
    assert all(whole(each, f"p {i}", 8) for i, each in enumerate(streams))
    assert max(pod.most_running for pod in pods) <= 16


async def test_requests_for_several_answers_get_their_turn(tmp_path: Path) -> None:
    pod = Pod(max_running=4, pace_s=0.005)
    async with running(pod), routing(tmp_path, [pod]) as local:
        single = [local.stream(f"p {each}", max_tokens=4) for each in range(30)]
        several = asyncio.create_task(_after(0.02, local, "several", n=4))
        await asyncio.gather(*single)
        assert whole(await several, "several", 4, n=4)


async def _after(delay_s: float, local: Local, prompt: str, n: int) -> Streamed:
    await asyncio.sleep(delay_s)
    return await local.stream(prompt, max_tokens=4, n=n)


async def test_a_client_that_goes_away_frees_its_place(tmp_path: Path) -> None:
    pod = Pod(max_running=1, pace_s=0.05)
    async with running(pod), routing(tmp_path, [pod]) as local:
        asking = asyncio.create_task(local.stream("hello", max_tokens=1000))
        await eventually(lambda: pod.running)
        asking.cancel()
        await eventually(lambda: not pod.running)
        assert whole(await local.stream("next", max_tokens=2), "next", 2)


async def test_a_failure_of_the_router_itself_is_not_taken_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise TimeoutError("a bug")

    monkeypatch.setattr(Reply, "whole", fails)
    pod = Pod()
    async with running(pod), routing(tmp_path, [pod]) as local:
        status, answer = await local.whole("hello")
    assert (status, answer["error"]["code"]) == (500, None)


async def test_a_client_that_does_not_read_makes_its_pod_wait(tmp_path: Path) -> None:
    pod = Pod()
    body = {"model": "m", "prompt": "hello", "stream": True, "max_tokens": 1_000_000}
    async with (
        running(pod),
        routing(tmp_path, [pod]) as local,
        local.session.post(f"{local.url}/v1/completions", json=body) as response,
    ):
        assert response.status == 200
        sent = -1
        while sent != pod.events:
            sent = pod.events
            await asyncio.sleep(0.5)
        assert sent < 500_000  # what the buffers of four sockets hold at most
        response.close()
        await eventually(lambda: not pod.running)


async def test_pods_that_hold_another_secret_are_asked_all_the_same_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "_BLIND_AGAIN_S", 0.05)
    old, new = Pod(secret="another-secret-0123456789"), Pod()
    async with running(old, new) as pods, routing(tmp_path, pods) as local:
        await eventually(lambda: local.service.state().known_pods == 2)
        assert (await local.state())["blind_pods"] == 1
        await new.die()
        assert whole(await local.stream("hello", max_tokens=3), "hello", 3)
        old.secret = SECRET
        await eventually(lambda: local.service.state().blind_pods == 0)


async def test_a_secret_that_changes_under_an_open_report_is_noticed_at_the_next_answer(
    tmp_path: Path,
) -> None:
    pod = Pod()
    async with running(pod), routing(tmp_path, [pod]) as local:
        assert whole(await local.stream("hello", max_tokens=3), "hello", 3)
        pod.secret = "another-secret-0123456789"
        assert (await local.state())["blind_pods"] == 0
        streams = await asyncio.gather(
            *(local.stream(f"p {each}", max_tokens=9) for each in range(8))
        )
        assert all(whole(each, f"p {i}", 9) for i, each in enumerate(streams))
        await eventually(lambda: local.service.state().blind_pods == 1)
        assert whole(await local.stream("hello", max_tokens=3), "hello", 3)


async def test_without_a_secret_no_pod_is_said_to_hold_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pod = Pod()
    async with running(pod), routing(tmp_path, [pod], router_secret_dir=None) as local:
        assert whole(await local.stream("hello", max_tokens=3), "hello", 3)
        assert (await local.state())["blind_pods"] == 0
    assert "another secret" not in caplog.text


async def test_what_is_open_while_keys_are_introduced_goes_on(tmp_path: Path) -> None:
    old, new = Pod(pace_s=0.02), Pod(wants_key=True)
    async with running(old, new) as pods, routing(tmp_path, pods) as local:
        await eventually(lambda: local.service.state().known_pods == 2)
        streaming = [local.stream(f"p {each}", max_tokens=50) for each in range(8)]
        asking = asyncio.gather(local.whole("hello", max_tokens=50), *streaming)
        await eventually(lambda: old.running == 9)
        assert not new.seen
        await old.die()
        (status, _), *streams = await asking
        assert status == 200
        assert all(whole(each, f"p {i}", 50) for i, each in enumerate(streams))
        assert (await local.whole("made up later"))[0] == 401


async def test_who_could_not_be_asked_has_admitted_nobody(tmp_path: Path) -> None:
    old, new = Pod(), Pod(wants_key=True)
    async with running(old, new) as pods, routing(tmp_path, pods) as local:
        await eventually(lambda: local.service.state().known_pods == 2)
        await old.shut()
        answers = await asyncio.gather(*(local.whole(f"p {each}") for each in range(8)))
    assert {status for status, _ in answers} == {401}


async def test_an_error_of_the_request_is_for_the_client(tmp_path: Path) -> None:
    async with running(Pod()) as pods, routing(tmp_path, pods) as local:
        status, answer = await local.whole("hello", temperature=3)
    assert status == 400
    assert "temperature" in answer["error"]["message"]


async def test_once_a_request_has_died_alone_those_beside_it_run_beside_others_again(
    tmp_path: Path,
) -> None:
    pods = [Pod(dies_of="poison", revives=True, max_running=24, pace_s=0.02) for _ in range(3)]
    async with running(*pods), routing(tmp_path, pods, wait_seconds=60.0) as local:
        beside = [
            asyncio.create_task(local.stream(f"p {each}", max_tokens=60)) for each in range(60)
        ]
        await eventually(lambda: sum(pod.running for pod in pods) == len(beside))
        killed = await local.stream("poison", max_tokens=4)
        streams = await asyncio.gather(*beside)
    assert killed.errors[0]["code"] == "pods_died"
    assert all(whole(each, f"p {i}", 60) for i, each in enumerate(streams))
    alone = [seen for pod in pods for seen in pod.seen if ALONE_HEADER in seen.headers]
    prompts = [seen.body["prompt"] for seen in alone]
    assert prompts.count("poison") == 1
    assert len(prompts) <= 3  # one of three pods has a single request; it is among the first
