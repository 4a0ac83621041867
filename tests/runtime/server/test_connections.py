"""Connections: how long clients may take, how many there may be, and when they are cut off."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import uvloop
from aiohttp import http_parser, web

from aweigh_http import bodies, connection
from aweigh_http.connection import Limits
from aweigh_http.door import Door
from aweigh_http.errors import ApiError
from aweigh_runtime.engine import client
from aweigh_runtime.failures import InvalidConfiguration
from tests.conftest import Tell
from tests.runtime.server.local import loading, ready
from tests.runtime.serving import MODEL, Served, wait_for

HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
NUM_IDLE = 10_000


@contextlib.asynccontextmanager
async def door(application: web.Application, limits: Limits) -> AsyncIterator[int]:
    opened = Door(application, limits, None)
    await opened.open("127.0.0.1", 0)
    try:
        yield opened.port
    finally:
        await opened.close()


async def seconds_until_closed(reader: asyncio.StreamReader) -> float:
    started_s = time.monotonic()
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 20)
    return time.monotonic() - started_s


async def test_a_request_that_never_gets_past_its_headers_is_cut_off(tmp_path: Path) -> None:
    limits = Limits(head_s=0.5)
    async with loading(tmp_path, limits) as local:
        for beginning in (b"G", HEALTH[:-2], b"POST /v1/completions HTTP/1.1\r\nContent-Length: 9"):
            reader, writer = await asyncio.open_connection("127.0.0.1", local.port)
            writer.write(beginning)
            assert 0.4 < await seconds_until_closed(reader) < 5
            writer.close()

        reader, writer = await asyncio.open_connection("127.0.0.1", local.port)
        writer.write(HEALTH)  # a good beginning does not help later
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503")
        closed = asyncio.create_task(seconds_until_closed(reader))
        for byte in HEALTH[:-2]:  # neither does a byte now and then
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
            if closed.done():
                break
        assert await closed < 5
        writer.close()


async def test_an_idle_connection_has_more_time_than_a_slow_request(tmp_path: Path) -> None:
    async with loading(tmp_path, Limits(head_s=0.2, idle_s=1.0)) as local:
        reader, writer = await asyncio.open_connection("127.0.0.1", local.port)
        for _ in range(2):
            writer.write(HEALTH[:9])
            await asyncio.sleep(0.05)
            writer.write(HEALTH[9:])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            await asyncio.sleep(0.5)
        assert 0.3 < await seconds_until_closed(reader) < 5
        writer.close()


async def test_a_body_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "DEADLINE_S", 0.3)

    async def read(request: web.Request) -> web.Response:
        try:
            async with bodies.Bodies(1 << 20).read(request, b""):
                return web.Response()
        except ApiError as error:
            return error.response()

    application = web.Application()
    application.router.add_post("/", read)
    async with door(application, Limits()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nnot all of it")
        answer = await asyncio.wait_for(reader.readuntil(b"}}"), 10)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within" in answer
        writer.close()


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
async def test_a_client_that_does_not_read_is_cut_off(streamed: bool) -> None:
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        try:
            if not streamed:
                return web.Response(body=b"x" * (64 << 20))
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 100_000)
        finally:
            ended.set()

    application = web.Application()
    application.router.add_get("/", endless)
    async with door(application, Limits(stall_s=0.5)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 10)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.wait_for(ended.wait(), 10)
        await asyncio.sleep(1)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1 << 30)
        writer.close()


NOTHING_TOLD = struct.Struct("40xI")  # a field of tcp_info that Linux leaves 0


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
async def test_a_client_that_takes_hardly_anything_is_cut_off(
    told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not told:
        monkeypatch.setattr(connection, "_BYTES_ACKED", NOTHING_TOLD)

    ended = asyncio.Event()

    async def large(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            await response.write(b"x" * (16 << 20))
        finally:
            ended.set()
        return response

    application = web.Application()
    application.router.add_get("/", large)
    async with door(application, Limits(stall_s=0.5)) as port:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop, end_s = asyncio.get_running_loop(), time.monotonic() + 5
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            while not ended.is_set():
                assert time.monotonic() < end_s
                assert await loop.sock_recv(client, 900)
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
async def test_a_slow_reader_that_goes_on_reading_is_not_cut_off(
    streamed: bool, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, stall_s = 16 << 20, 0.5
    if not told:
        monkeypatch.setattr(connection, "_BYTES_ACKED", NOTHING_TOLD)

    async def large(request: web.Request) -> web.StreamResponse:
        if not streamed:
            return web.Response(body=b"x" * size)
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(4):  # so much at once that writing waits for many stall times
            await response.write(b"x" * (size // 4))
        return response

    application = web.Application()
    application.router.add_get("/", large)
    async with door(application, Limits(stall_s=stall_s)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=64 << 10)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received, started_s = 0, time.monotonic()
        while piece := await reader.read(64 << 10):
            received += len(piece)
            await asyncio.sleep(0.02)
        assert received > size
        assert time.monotonic() - started_s > 8 * stall_s
        writer.close()


async def test_an_answer_that_nobody_reads_gives_its_blocks_back(tmp_path: Path) -> None:
    async with ready(tmp_path, Limits(stall_s=0.5)) as local:
        body = {"model": MODEL, "prompt": "The", "max_tokens": 2000, "n": 8, "stream": True}
        content = json.dumps({**body, "temperature": 2, "ignore_eos": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n"
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", local.port))
            await loop.sock_sendall(client, head.encode() + content)
            engine, end_s = local.service.engine, time.monotonic() + 60
            while engine.stepped.running < 8:
                assert time.monotonic() < end_s
                await asyncio.sleep(0.01)
            while engine.stepped.running > 0:
                assert time.monotonic() < end_s
                await asyncio.sleep(0.01)
            assert engine.stepped.counters.generated_tokens < 8 * 2000
            assert engine.stepped.kv.held == 0
            assert local.service.seats.open_requests == 0


async def test_a_stream_that_is_read_too_late_ends_with_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_UNREAD", 2000 // 8)  # for each answer
    async with ready(tmp_path) as local:
        body = {"model": MODEL, "prompt": "The", "max_tokens": 2000, "n": 8, "stream": True}
        body |= {"temperature": 2, "ignore_eos": True, "logprobs": 20}
        content = json.dumps(body).encode()
        lines = ("POST /v1/completions HTTP/1.1", "Host: a", "Connection: close")
        head = "\r\n".join((*lines, f"Content-Length: {len(content)}", "", ""))
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", local.port))
        reader, writer = await asyncio.open_connection(sock=slow, limit=1 << 10)
        writer.write(head.encode() + content)
        engine, end_s = local.service.engine, time.monotonic() + 60
        while engine.stepped.counters.generated_tokens == 0 or engine.stepped.running > 0:
            assert time.monotonic() < end_s
            await asyncio.sleep(0.01)
        assert engine.stepped.counters.generated_tokens < 8 * 2000
        events = await asyncio.wait_for(reader.read(), 30)
        assert b'"code":"left_unread"' in events[-1000:]
        assert b"[DONE]" not in events
        writer.close()


async def test_an_old_connection_is_closed_with_its_next_answer(tmp_path: Path) -> None:
    for age_s, ends in ((60.0, False), (-1.0, True)):
        async with (
            loading(tmp_path, Limits(age_s=age_s)) as local,
            httpx.AsyncClient(base_url=local.url) as client,
        ):
            for _ in range(2):
                answer = await client.get("/health")
                assert (answer.headers.get("Connection") == "close") == ends


async def test_one_connection_too_many_is_refused_and_probes_go_on(tmp_path: Path) -> None:
    async with loading(tmp_path, Limits(connections=2)) as local:
        first, second, third = [
            await asyncio.open_connection("127.0.0.1", local.port) for _ in range(3)
        ]
        assert await seconds_until_closed(third[0]) < 5
        async with httpx.AsyncClient() as client:
            admin = f"http://127.0.0.1:{local.ports.admin_port}"
            assert (await client.get(f"{admin}/livez")).status_code == 200
        first[1].close()
        await first[1].wait_closed()
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection("127.0.0.1", local.port)
        writer.write(HEALTH)
        assert (await reader.readline()).startswith(b"HTTP/1.1 503")
        for _, opened in (second, third, (reader, writer)):
            opened.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_one_connection_too_many_is_refused_on_either_event_loop(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def three_for_two() -> None:
        async with door(web.Application(), Limits(connections=2)) as port:
            opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            assert await seconds_until_closed(opened[2][0]) < 5
            for _, writer in opened:
                writer.transport.abort()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(three_for_two())


async def test_what_is_not_http_gets_openais_error_body(tmp_path: Path) -> None:
    garbage = (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: nine\r\n\r\n",
    )
    async with loading(tmp_path) as local:
        for each in garbage:
            reader, writer = await asyncio.open_connection("127.0.0.1", local.port)
            writer.write(each)
            head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
            writer.close()
            assert head.split(b" ")[1] == b"400", each[:60]
            assert b"aiohttp" not in head
            assert json.loads(body)["error"]["type"] == "invalid_request_error"


async def test_as_many_files_may_be_open_as_the_machine_allows(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] // 2, before[1]))
    try:
        async with loading(tmp_path):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_parser_that_is_safe_against_smuggling_is_the_one_in_use() -> None:
    assert http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy


async def test_a_server_without_the_safe_parser_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)
    with pytest.raises(InvalidConfiguration, match="parser in C"):
        async with loading(tmp_path):
            pass


def test_ten_thousand_idle_connections_are_held(server: Served, tell: Tell) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert hard > NUM_IDLE + 500, "raise the hard limit of open files for this test"
    before_kib, started_s = resident_kib(server), time.monotonic()
    with contextlib.ExitStack() as held:
        for _ in range(NUM_IDLE // 500):
            batch = [held.enter_context(connected(server)) for _ in range(500)]
            for connection in batch:
                connection.sendall(HEALTH)
            for connection in batch:
                assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        opened_s, asked_s = time.monotonic() - started_s, time.monotonic()
        assert server.chat(max_tokens=1).status_code == 200
        assert server.admin("/livez").status_code == 200
        answered_s = time.monotonic() - asked_s
        grown_kib = resident_kib(server) - before_kib
        tell(
            f"{NUM_IDLE} idle connections: opened in {opened_s:.1f} s, {grown_kib / NUM_IDLE:.1f} "
            f"KiB each; a chat and a probe meanwhile took {answered_s * 1000:.0f} ms"
        )
        for name, pid in server.children().items():
            if name.endswith("_worker"):
                os.kill(pid, signal.SIGKILL)
        form = {"choice": ["ten thousand", "connections"]}  # a new one: it has to be compiled
        answered = server.chat(max_tokens=9, structured_outputs=form)  # by two that start anew
        assert answered.status_code == 200, answered.text
        for connection in batch:  # they are still there
            connection.sendall(HEALTH)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    assert answered_s < 2
    assert grown_kib < NUM_IDLE * 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: server.chat(max_tokens=1).status_code == 200)


def connected(server: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def resident_kib(server: Served) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])
