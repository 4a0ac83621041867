"""API keys: who gets in, who does not, and how keys are exchanged under a running server."""

import asyncio
import base64
import hashlib
import itertools
import logging
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from multidict import CIMultiDict

from aweigh_api import mounts
from aweigh_api.api_keys import Key, Keys
from aweigh_api.mounts import UnusableSecret
from aweigh_runtime.server.app import application
from tests.runtime.server.local import Local, loading, ready, secret
from tests.runtime.serving import MODEL, serving

ALICE = "alice-0123456789abcdef"
BOB = "bob-0123456789abcdefgh"


@pytest.fixture
def keys_dir(tmp_path: Path) -> Path:
    return secret(tmp_path / "keys", alice=f"{ALICE}\n", bob=BOB)


@pytest.fixture
async def locked(tmp_path: Path, keys_dir: Path) -> AsyncIterator[Local]:
    async with loading(tmp_path, api_keys_dir=keys_dir) as local:
        yield local


def bearer(key: str) -> CIMultiDict[str]:
    return CIMultiDict({"Authorization": f"Bearer {key}"})


def let_in(keys: Keys, key: str) -> str | None:
    owner = keys.owner(bearer(key))
    return None if owner is None else owner.name


async def test_every_route_but_health_needs_a_key(locked: Local) -> None:
    routes = [
        (route.method, re.sub(r"{\w+}", "x", route.resource.canonical))
        for route in application(locked.service).router.routes()
        if route.resource is not None
    ]
    assert len(routes) >= 6
    async with httpx.AsyncClient(base_url=locked.url) as client:
        for method, path in [*routes, ("GET", "/metrics"), ("GET", "/no/such/path")]:
            closed = await client.request(method, path)
            is_open = path == "/health"
            assert (closed.status_code == 401) != is_open, f"{method} {path}"
            opened = await client.request(method, path, headers=bearer(ALICE))
            assert opened.status_code != 401, f"{method} {path}"


async def test_the_refusal_is_openais_and_says_how(locked: Local) -> None:
    async with httpx.AsyncClient(base_url=locked.url) as client:
        refused = await client.get("/v1/models")
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == 'Bearer, Basic realm="Aweigh"'
    error = refused.json()["error"]
    assert error["code"] == "invalid_api_key"
    assert "Authorization: Bearer" in error["message"]


async def test_what_is_no_key_opens_nothing(locked: Local) -> None:
    headers = [
        "",
        "Bearer",
        f"Basic {ALICE}",
        ALICE,
        f"Bearer {ALICE[:-1]}",
        f"Bearer {ALICE}x",
        f"Bearer {ALICE} {BOB}",
        f"Bearer {ALICE.upper()}",
        "Bearer " + "x" * 5000,
        "Bearer schlüssel-0123456789",
    ]
    async with httpx.AsyncClient(base_url=locked.url) as client:
        for header in headers:
            given = [(b"Authorization", header.encode())]
            assert (await client.get("/v1/models", headers=given)).status_code == 401, header


async def test_the_scheme_is_read_in_any_case_and_two_headers_are_none(locked: Local) -> None:
    async with httpx.AsyncClient(base_url=locked.url) as client:
        for scheme in ("bearer", "BEARER", "Bearer "):
            headers = {"Authorization": f"{scheme} {BOB}"}
            assert (await client.get("/v1/models", headers=headers)).status_code == 503  # loading
        twice = [("Authorization", f"Bearer {ALICE}"), ("Authorization", f"Bearer {BOB}")]
        assert (await client.get("/v1/models", headers=twice)).status_code == 401


WAYS = (
    "GET /v1/models HTTP/1.1\r\nHost: a/?x=",
    "GET /v1/models HTTP/1.1\r\nHost: h/health#",
    "GET /v1/models HTTP/1.1\r\nHost: /health",
    "GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: a/health",
    "GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Forwarded-Uri: /health\r\nX-Original-Url: /health",
    "GET /v1/models HTTP/1.0",
    "GET http://a/v1/models HTTP/1.1\r\nHost: a",
    "GET http://a/health/../v1/models HTTP/1.1\r\nHost: a",
    "GET http://a:80/v1/models?/health HTTP/1.1\r\nHost: a",
    "GET //v1/models HTTP/1.1\r\nHost: a",
    "GET //health/v1/models HTTP/1.1\r\nHost: a",
    "GET /v1//models HTTP/1.1\r\nHost: a",
    "GET /v1/models/ HTTP/1.1\r\nHost: a",
    "GET /v1/models/%2e%2e/%2e%2e/health HTTP/1.1\r\nHost: a",
    "GET /health/..%2fv1/models HTTP/1.1\r\nHost: a",
    "GET /health/../v1/models HTTP/1.1\r\nHost: a",
    "GET /health%2f..%2fv1/models HTTP/1.1\r\nHost: a",
    "GET /%76%31/models HTTP/1.1\r\nHost: a",
    "GET /v1/%6dodels HTTP/1.1\r\nHost: a",
    "GET /v1/models%00/health HTTP/1.1\r\nHost: a",
    "GET /v1/models;/health HTTP/1.1\r\nHost: a",
    "GET /v1/models#/health HTTP/1.1\r\nHost: a",
    "GET \\v1\\models HTTP/1.1\r\nHost: a",
    "get /v1/models HTTP/1.1\r\nHost: a",
    "Get /v1/models HTTP/1.1\r\nHost: a",
    "HEAD /v1/models HTTP/1.1\r\nHost: a",
    "OPTIONS * HTTP/1.1\r\nHost: a",
    "CONNECT a:80 HTTP/1.1\r\nHost: a",
    "GET /v1/models HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade",
    "POST /health HTTP/1.1\r\nHost: a\r\nX-Http-Method-Override: GET",
    "GET /v1/models HTTP/1.1\r\nHost: a\r\nCookie: key=x",
    f"GET /v1/models?api_key={ALICE} HTTP/1.1\r\nHost: a",
    f"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Api-Key: {ALICE}",
)


async def test_a_browser_sends_the_key_as_a_password_from_our_own_pages_only(
    locked: Local,
) -> None:
    async def status(password: str, **headers: str) -> int:
        given = base64.b64encode(password.encode()).decode()
        asked = {"Authorization": f"Basic {given}", **headers}
        return (await client.get("/v1/models", headers=asked)).status_code

    host = locked.url.removeprefix("http://")
    async with httpx.AsyncClient(base_url=locked.url) as client:
        assert await status(f"anybody:{ALICE}") == 503  # it loads
        assert await status(f":{ALICE}", Origin=f"http://{host}") == 503
        assert (
            await status(f":{ALICE}", Origin="https://aweigh.example", Host="Aweigh.Example") == 503
        )
        for wrong in (ALICE, f"{ALICE}:", f"{ALICE}:wrong", ":"):
            assert await status(wrong) == 401
        for foreign in (
            "http://evil.example",
            f"http://{host}.evil.example",
            "null",
            "",
            host,
            "http://[",
        ):
            assert await status(f":{ALICE}", Origin=foreign) == 401, foreign
        for garbage in ("Basic", "Basic %%%", "Basic YQ=", f"Basic {ALICE}"):
            refused = await client.get("/v1/models", headers={"Authorization": garbage})
            assert refused.status_code == 401


async def test_no_way_of_writing_a_request_gets_around_the_key(locked: Local) -> None:
    for way in WAYS:
        reader, writer = await asyncio.open_connection("127.0.0.1", locked.port)
        writer.write(f"{way}\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answer.split(b" ")[1] in (b"401", b"400"), (way, answer)
        assert b'"data"' not in answer


async def test_one_keys_flood_leaves_room_for_another_key(tmp_path: Path, keys_dir: Path) -> None:
    long = {"model": MODEL, "prompt": "The", "max_tokens": 1500, "ignore_eos": True}
    async with (
        ready(tmp_path, api_keys_dir=keys_dir, max_running=6, max_waiting=2) as local,
        httpx.AsyncClient(base_url=f"{local.url}/v1", timeout=60) as client,
    ):

        async def complete(key: str, **fields: object) -> httpx.Response:
            return await client.post("/completions", json={**long, **fields}, headers=bearer(key))

        flood = [asyncio.ensure_future(complete(ALICE)) for _ in range(20)]
        soon = itertools.islice(asyncio.as_completed(flood), 16)  # half of 8 seats are alice's
        assert {(await each).status_code for each in soon} == {429}
        answered = await complete(BOB, max_tokens=1)
        assert answered.status_code == 200
        assert sum(not each.done() for each in flood) == 4
        for each in flood:
            each.cancel()
        await asyncio.gather(*flood, return_exceptions=True)


async def test_the_only_key_may_take_all_seats(tmp_path: Path) -> None:
    keys_dir = secret(tmp_path / "keys", alice=ALICE)
    async with loading(tmp_path, api_keys_dir=keys_dir, max_running=2, max_waiting=6) as local:
        async with httpx.AsyncClient(base_url=local.url) as client:
            await client.get("/v1/models", headers=bearer(ALICE))
        with local.service.seats.take(5, b"alice"), local.service.seats.take(3, b"alice"):
            pass


def test_a_key_is_known_by_its_digest(keys_dir: Path) -> None:
    keys = Keys(keys_dir)
    for name, key in (("alice", ALICE), ("bob", BOB)):
        assert keys.owner(bearer(key)) == Key(name, hashlib.sha256(key.encode()).digest())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no key"),
        ({"a": ""}, "0 characters"),
        ({"a": "\n"}, "0 characters"),
        ({"a": "short-key-12345"}, "15 characters"),
        ({"a": "x", "b": "y"}, "1 characters"),
        ({"a": "x" * 1025}, "more characters"),
        ({"a": f"{ALICE}\n{BOB}"}, "line"),
        ({"a": f"{ALICE} {BOB}"}, "spaces"),
        ({"a": "schlüssel-0123456789"}, "ASCII"),
    ],
)
def test_keys_that_are_no_good_let_nobody_in(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(UnusableSecret, match=message) as refused:
        Keys(secret(tmp_path / "keys", **files))
    assert not any(len(key) > 9 and key in str(refused.value) for key in files.values())


def test_one_bad_key_shuts_nobody_else_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(secret(tmp_path / "keys", alice=ALICE, bad="x"))
    assert (let_in(keys, ALICE), let_in(keys, "x")) == ("alice", None)
    assert "bad has 1 characters" in caplog.text


def test_a_directory_that_is_not_there_lets_nobody_in(tmp_path: Path) -> None:
    with pytest.raises(UnusableSecret, match="No such file"):
        Keys(tmp_path / "nowhere")


def test_no_key_is_kept_in_memory(keys_dir: Path) -> None:
    assert ALICE not in repr(vars(Keys(keys_dir)))


def test_keys_are_exchanged_without_a_restart(
    keys_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mounts, "_BETWEEN_LOOKS_S", 0.0)
    keys = Keys(keys_dir)
    assert (let_in(keys, ALICE), let_in(keys, BOB)) == ("alice", "bob")

    secret(keys_dir, alice="alice-has-a-new-key", carol="carol-0123456789abcdef")
    assert let_in(keys, ALICE) is None
    assert let_in(keys, "alice-has-a-new-key") == "alice"
    assert let_in(keys, "carol-0123456789abcdef") == "carol"
    assert let_in(keys, BOB) is None

    with caplog.at_level(logging.ERROR, "aweigh.server"):
        secret(keys_dir, alice="short", carol="carol-0123456789abcdef")
        assert let_in(keys, "alice-has-a-new-key") is None  # revoked, though not well replaced
        assert let_in(keys, "short") is None
        assert let_in(keys, "carol-0123456789abcdef") == "carol"
        secret(keys_dir)
        for nobodys in ("carol-0123456789abcdef", "alice-has-a-new-key", ""):
            assert let_in(keys, nobodys) is None
    assert [str(keys_dir / "alice") in r.message for r in caplog.records] == [True, False]
    assert "holds no key" in caplog.records[-1].message

    secret(keys_dir, bob=BOB)
    assert let_in(keys, BOB) == "bob"
    assert let_in(keys, "alice-has-a-new-key") is None


def test_the_directory_is_looked_at_once_a_second_at_most(
    keys_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(keys_dir)
    looks = 0
    really = os.scandir

    def counted(directory: Path) -> object:
        nonlocal looks
        looks += 1
        return really(directory)

    monkeypatch.setattr(os, "scandir", counted)
    for _ in range(1000):
        assert let_in(keys, ALICE) == "alice"
    assert looks <= 1


def test_a_server_without_a_usable_key_ends_with_one_clear_line(tmp_path: Path) -> None:
    directory = secret(tmp_path / "keys")
    with serving(tmp_path, f"--api-keys-dir={directory}") as served:
        assert served.process.wait(timeout=60) == 78
        assert served.termination()["reason"] == "InvalidConfiguration"
        assert f"{directory} holds no key" in served.termination()["message"]
