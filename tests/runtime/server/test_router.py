"""What a pod does for its service's router, and does for nobody else."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from aweigh_api import mounts
from aweigh_api.mounts import UnusableSecret
from aweigh_api.routing import (
    ALONE_HEADER,
    KEEP_PATH,
    MAX_RESUMED_BYTES,
    REPORT_PATH,
    RESUME_FIELD,
    ROOM_HEADER,
    ROUTER_HEADER,
    SECRET_HEADER,
    TENANT_HEADER,
    TOKENS_COMMENT,
    Room,
)
from aweigh_http.bodies import MAX_BODY_BYTES
from aweigh_runtime.engine.messages import Counters, KvTokens, Stepped
from aweigh_runtime.server import seats
from aweigh_runtime.server.router_secret import RouterSecret
from aweigh_runtime.server.seats import room
from tests.runtime.server.local import Local, loading, ready, secret
from tests.runtime.serving import MODEL
from tests.runtime.text.helmsman import BACKEND

ALICE, SHOWN = "alice-0123456789abcdef", "what-the-router-shows"
ROUTER = {SECRET_HEADER: SHOWN}
FOR_ALICE = {**ROUTER, TENANT_HEADER: hashlib.sha256(ALICE.encode()).hexdigest()}
LONG = {"model": MODEL, "prompt": "The", "max_tokens": 1500, "ignore_eos": True}
MAX_RUNNING = 3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Local]:
    """A server with a router and API keys."""
    directory = tmp_path_factory.mktemp("router")
    settings: dict[str, Any] = {
        "api_keys_dir": secret(directory / "keys", alice=ALICE),
        "router_secret_dir": secret(directory / "router", secret=f"{SHOWN}\n"),
        "max_running": MAX_RUNNING,
    }
    async with ready(directory, **settings) as local:
        yield local


@pytest_asyncio.fixture(loop_scope="module")
async def client(local: Local) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=local.url, timeout=60) as client:
        yield client


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("shown", [None, "", SHOWN[:-1], SHOWN.upper(), f"{SHOWN}, {SHOWN}"])
async def test_without_the_secret_a_request_is_any_clients(
    client: httpx.AsyncClient, shown: str | None
) -> None:
    headers = {} if shown is None else {SECRET_HEADER: shown}
    body = {"model": MODEL, "prompt": "A Pod", "stream": True, RESUME_FIELD: "nonsense"}
    assert (await client.post("/v1/completions", json=body, headers=headers)).status_code == 401
    headers |= {"Authorization": f"Bearer {ALICE}"}
    answered = await client.post("/v1/completions", json=body, headers=headers)
    assert answered.status_code == 200
    assert ROOM_HEADER not in answered.headers
    assert not any(line.startswith(":") for line in answered.text.splitlines())
    assert (await client.get(REPORT_PATH, headers=headers)).status_code == 404


@pytest.mark.asyncio(loop_scope="module")
async def test_the_router_names_whose_key_it_saw_and_so_whose_cache_a_request_may_use(
    client: httpx.AsyncClient,
) -> None:
    body = {"model": MODEL, "prompt": "A Pod is " * 20, "max_tokens": 1}

    async def cached(**headers: str) -> int:
        answered = await client.post("/v1/completions", json=body, headers=headers)
        assert answered.status_code == 200, answered.text
        assert (ROOM_HEADER in answered.headers) == (SECRET_HEADER in headers)
        found: int = answered.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return found

    assert await cached(Authorization=f"Bearer {ALICE}") == 0
    assert await cached(**ROUTER, **{TENANT_HEADER: "0b" * 32}) == 0
    assert await cached(**FOR_ALICE) > 0
    refused = await client.post(
        "/v1/completions", json=body, headers={**ROUTER, TENANT_HEADER: "alice"}
    )
    assert refused.status_code == 400
    assert TENANT_HEADER in refused.json()["error"]["message"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("named", [None, ""])
async def test_where_the_router_names_nobody_the_key_is_asked_for_here(
    client: httpx.AsyncClient, named: str | None
) -> None:
    headers = ROUTER if named is None else {**ROUTER, TENANT_HEADER: named}
    body = {"model": MODEL, "prompt": "A Pod", "max_tokens": 1}
    for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/none")):
        refused = await client.request(method, path, json=body, headers=headers)
        assert refused.status_code == 401
    for key, status in ((f"{ALICE}0", 401), (ALICE, 200)):
        bearer = {**headers, "Authorization": f"Bearer {key}"}
        answered = await client.post("/v1/completions", json=body, headers=bearer)
        assert answered.status_code == status
    async with client.stream("GET", REPORT_PATH, headers=headers) as report:
        assert report.status_code == 200  # it is for the router itself


@pytest.mark.asyncio(loop_scope="module")
async def test_the_document_for_clients_says_nothing_of_it(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json", headers=FOR_ALICE)).text
    for name in (RESUME_FIELD, REPORT_PATH, SECRET_HEADER, ROOM_HEADER):
        assert name not in document


@pytest.mark.asyncio(loop_scope="module")
async def test_what_cannot_begin_at_once_is_refused_with_nothing_done(
    local: Local, client: httpx.AsyncClient
) -> None:
    figures, seats = local.service.figures, local.service.seats
    before = (figures.arrived_requests, figures.num_turned_away)
    flood = [
        asyncio.create_task(client.post("/v1/completions", json=LONG, headers=FOR_ALICE))
        for _ in range(3 * MAX_RUNNING)
    ]
    for each in asyncio.as_completed(flood[:]):
        refused = await each
        assert (refused.status_code, refused.headers[ROOM_HEADER]) == (429, "0")
        assert refused.json()["error"]["code"] == "no_room"
        if sum(not task.done() for task in flood) == MAX_RUNNING:
            break
    assert (seats.room, seats.open_requests) == (0, MAX_RUNNING)
    await until(lambda: figures.arrived_requests == before[0] + MAX_RUNNING)
    waits = asyncio.create_task(  # a client without the secret waits for its turn
        client.post("/v1/completions", json=LONG, headers={"Authorization": f"Bearer {ALICE}"})
    )
    await until(lambda: seats.open_requests > MAX_RUNNING)
    for task in [*flood, waits]:
        task.cancel()
    await asyncio.gather(*flood, waits, return_exceptions=True)
    await until(lambda: seats.open_requests == 0)
    assert figures.arrived_requests <= before[0] + MAX_RUNNING + 1
    assert figures.num_turned_away == before[1]
    many = {**LONG, "n": 2 * MAX_RUNNING, "max_tokens": 2}  # all that there is, and it takes turns
    assert (await client.post("/v1/completions", json=many, headers=FOR_ALICE)).status_code == 200


@pytest.mark.asyncio(loop_scope="module")
async def test_the_report_tells_at_once_and_whenever_the_room_changes(
    local: Local, client: httpx.AsyncClient
) -> None:
    async with (
        client.stream("GET", REPORT_PATH, headers=ROUTER) as one,
        client.stream("GET", REPORT_PATH, headers=ROUTER) as other,
    ):
        for report in (one, other):
            lines = report.aiter_lines()
            first = Room.model_validate_json(await anext(lines))
            assert (first.boot_id, first.phase) == (local.service.boot_id, "ready")
            assert first.room == MAX_RUNNING
            assert first.revision
            assert first.model == MODEL
            body = {**LONG, "n": 2}
            asked = asyncio.create_task(
                client.post("/v1/completions", json=body, headers=FOR_ALICE)
            )
            told = [Room.model_validate_json(await anext(lines))]
            while (told[-1].room, told[-1].running) != (MAX_RUNNING - 2, 2):
                told.append(Room.model_validate_json(await anext(lines)))
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            while told[-1].room != MAX_RUNNING:
                told.append(Room.model_validate_json(await anext(lines)))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_router_that_names_itself_is_told_what_it_holds(
    local: Local, client: httpx.AsyncClient
) -> None:
    ours, other = ({**FOR_ALICE, ROUTER_HEADER: name} for name in ("ours", "other"))

    async def told(headers: dict[str, str]) -> Room:
        async with client.stream("GET", REPORT_PATH, headers=headers) as report:
            return Room.model_validate_json(await anext(report.aiter_lines()))

    asked = asyncio.create_task(client.post("/v1/completions", json={**LONG, "n": 2}, headers=ours))
    await until(lambda: local.service.seats.num_taken == 2)
    assert [(await told(each)).yours for each in (ours, other, FOR_ALICE)] == [2, 0, None]
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await until(lambda: local.service.seats.num_taken == 0)
    assert (await told(ours)).yours == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_kept_for_one_router_no_other_gets(
    local: Local, client: httpx.AsyncClient
) -> None:
    ours, other = ({**FOR_ALICE, ROUTER_HEADER: name} for name in ("ours", "other"))
    seats = local.service.seats

    async def keep(headers: dict[str, str]) -> int:
        return (await client.post(KEEP_PATH, headers=headers)).status_code

    async def ask(headers: dict[str, str], **fields: Any) -> int:
        body = {**LONG, "max_tokens": 2, **fields}
        return (await client.post("/v1/completions", json=body, headers=headers)).status_code

    assert [await keep(each) for each in ({}, FOR_ALICE)] == [401, 404]
    begun = asyncio.create_task(client.post("/v1/completions", json=LONG, headers=other))
    await until(lambda: seats.num_taken == 1)
    assert [await keep(each) for each in (ours, other, ours)] == [204, 409, 204]
    assert [seats.room_for(each) for each in ("ours", "other")] == [MAX_RUNNING - 1, 0]
    assert [await ask(each, n=3) for each in (ours, other)] == [429, 429]
    assert [await ask(each) for each in (ours, other)] == [200, 429]
    begun.cancel()
    await asyncio.gather(begun, return_exceptions=True)
    await until(lambda: seats.num_taken == 0)
    assert [await ask(each, n=3) for each in (other, ours, other)] == [429, 200, 200]


@pytest.mark.asyncio(loop_scope="module")
async def test_who_reads_reports_is_told_that_room_is_kept_and_when_it_is_no_longer(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "KEEP_S", 0.3)
    other = {**FOR_ALICE, ROUTER_HEADER: "other"}
    async with client.stream("GET", REPORT_PATH, headers=other) as report:
        lines = report.aiter_lines()
        told = [Room.model_validate_json(await anext(lines)).room]
        await client.post(KEEP_PATH, headers={**FOR_ALICE, ROUTER_HEADER: "ours"})
        async with asyncio.timeout(3):
            told += [Room.model_validate_json(await anext(lines)).room for _ in range(2)]
    assert told == [MAX_RUNNING, 0, MAX_RUNNING]


@pytest.mark.asyncio(loop_scope="module")
async def test_beside_what_is_to_run_alone_nothing_runs(
    local: Local, client: httpx.AsyncClient
) -> None:
    bearer = {"Authorization": f"Bearer {ALICE}"}
    first, other = ({**FOR_ALICE, ROUTER_HEADER: name} for name in ("first", "other"))
    alone = {**first, ALONE_HEADER: "1"}
    seats, short = local.service.seats, {**LONG, "max_tokens": 2}

    async def ask(headers: dict[str, str], path: str = "/v1/completions") -> int:
        return (await client.post(path, json=short, headers=headers)).status_code

    for begins, refused in ((other, (alone,)), (alone, (first, other, alone, bearer))):
        begun = asyncio.create_task(client.post("/v1/completions", json=LONG, headers=begins))
        await until(lambda: seats.num_taken == 1)
        assert [await ask(each) for each in refused] == [429] * len(refused)
        begun.cancel()
        await asyncio.gather(begun, return_exceptions=True)
        await until(lambda: seats.num_taken == 0)
    assert [await ask(each) for each in (alone, other, alone)] == [200, 200, 200]
    begun = asyncio.create_task(
        client.post("/v1/completions", json=LONG, headers={**bearer, ALONE_HEADER: "1"})
    )
    await until(lambda: seats.num_taken == 1)
    assert await ask(other) == 200  # no client has anything for itself
    begun.cancel()
    await asyncio.gather(begun, return_exceptions=True)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_stream_whose_request_was_as_long_as_may_be_can_be_resumed(
    client: httpx.AsyncClient,
) -> None:
    fields = {"model": MODEL, "prompt": "A Pod", "stream": True, "max_tokens": 2}
    fields["user"] = "u" * (MAX_BODY_BYTES - len(json.dumps(fields)) - 12)
    resume = {"id": "cmpl-1", "created": 1, "answers": [{"tokens": [5]}]}
    whole, resumed = json.dumps(fields), json.dumps({**fields, RESUME_FIELD: resume})
    assert len(whole) == MAX_BODY_BYTES
    bearer = {"Authorization": f"Bearer {ALICE}"}
    for body, headers, status in (
        (whole, bearer, 200),
        (resumed, FOR_ALICE, 200),
        (resumed, bearer, 413),
        (" " * MAX_RESUMED_BYTES + resumed, FOR_ALICE, 413),
    ):
        answered = await client.post("/v1/completions", content=body, headers=headers)
        assert answered.status_code == status, answered.text[:300]


async def test_the_report_ends_with_the_server(tmp_path: Path) -> None:
    async with httpx.AsyncClient() as client:
        mounted = secret(tmp_path / "router", secret=SHOWN)
        async with loading(tmp_path, router_secret_dir=mounted) as local:
            request = client.build_request("GET", f"{local.url}{REPORT_PATH}", headers=ROUTER)
            report = await client.send(request, stream=True)
            lines = report.aiter_lines()
            await anext(lines)
            local.service.phase = "draining"
            drained = Room.model_validate_json(await anext(lines))
            assert (drained.phase, drained.room) == ("draining", 0)
        assert [json.loads(line)["phase"] async for line in lines][1:] == []


@pytest.mark.asyncio(loop_scope="module")
async def test_a_stream_for_the_router_names_all_tokens_before_their_events(
    client: httpx.AsyncClient,
) -> None:
    body = {
        "model": MODEL,
        "prompt": "The Pod",
        "stream": True,
        "max_tokens": 30,
        "n": 2,
        "temperature": 1.5,
        "seed": 5,
        "stop": ["e", "\n"],
        "min_tokens": 12,
    }
    plain = {"Authorization": f"Bearer {ALICE}"}
    told = await client.post("/v1/completions", json=body, headers=FOR_ALICE)
    untold = await client.post("/v1/completions", json=body, headers=plain)
    tokens: list[list[int]] = [[], []]
    texts = ["", ""]
    for block in told.text.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]:
        *comments, data = block.splitlines()
        for comment in comments:
            index, ids = comment.removeprefix(TOKENS_COMMENT).split(" ")
            tokens[int(index)] += map(int, ids.split(","))
        (choice,) = json.loads(data.removeprefix("data: "))["choices"]
        texts[choice["index"]] += choice["text"]
    for taken, text in zip(tokens, texts, strict=True):
        assert 12 <= len(taken) <= 30
        assert BACKEND.decode(taken).startswith(text)
    assert texts == joined(untold.text)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 30 s")


def joined(stream: str) -> list[str]:
    texts = ["", ""]
    for data in stream.split("\n\n")[:-2]:
        (choice,) = json.loads(data.removeprefix("data: "))["choices"]
        texts[choice["index"]] += choice["text"]
    return texts


def test_the_secret_is_exchanged_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_BETWEEN_LOOKS_S", 0.0)
    directory = secret(tmp_path / "router", secret=SHOWN)
    kept = RouterSecret(directory)
    assert SHOWN not in repr(vars(kept))
    assert kept.opens(CIMultiDict(ROUTER))
    secret(directory, secret="another-secret-0123456789")
    assert not kept.opens(CIMultiDict(ROUTER))
    assert kept.opens(CIMultiDict({SECRET_HEADER: "another-secret-0123456789"}))
    secret(directory, secret="short")
    assert not kept.opens(CIMultiDict({SECRET_HEADER: "short"}))
    secret(directory, secret=SHOWN)
    assert kept.opens(CIMultiDict(ROUTER))


def test_a_secret_that_is_no_good_ends_the_start(tmp_path: Path) -> None:
    for files in ({}, {"secret": "short"}, {"other": SHOWN}):
        with pytest.raises(UnusableSecret, match="router's secret"):
            RouterSecret(secret(tmp_path / "router", **files))


@given(
    running=st.integers(0, 8),
    unheard=st.integers(0, 4),
    held=st.integers(0, 1000),
    own=st.none() | st.floats(1, 500),
    waiting=st.sampled_from([0, 7]),
)
def test_room_is_what_places_and_memory_leave(
    running: int, unheard: int, held: int, own: float | None, waiting: int
) -> None:
    kv = KvTokens(capacity=1000, held=held)
    said = Stepped([], [], running, waiting, waiting, Counters(), kv, own, None)
    taken = running + unheard
    found = room(said, taken, 12)
    assert 0 <= found <= 12 - taken
    if taken == 0:
        assert found == 12
    elif waiting:
        assert found == 0
    elif own is None:
        assert found == 12 - taken
    elif found:
        assert held + (unheard + found) * own <= 1000 + 1e-6
