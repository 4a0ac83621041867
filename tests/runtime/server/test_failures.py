"""Answers that the engine cannot finish: before the first token, and after it."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import msgspec
import pytest

from aweigh_runtime import wire
from aweigh_runtime.child import Child
from aweigh_runtime.config import Config
from aweigh_runtime.engine.client import EngineClient
from aweigh_runtime.engine.messages import (
    Counters,
    Failure,
    FailureKind,
    Fetched,
    KvTokens,
    Output,
    Ready,
    Stepped,
    Work,
)
from aweigh_runtime.server.ports import Ports
from aweigh_runtime.server.service import Service
from tests.runtime.serving import MODEL
from tests.runtime.text.helmsman import BACKEND, DIRECTORY

READY = Ready(2048, 8192, "fp32", "none", "fp32", 8, 16, 100, 1, None)
(POD,) = BACKEND.encode(" Pod", add_special_tokens=False).ids


async def fail_everything(end: socket.socket, kind: FailureKind, num_tokens: int) -> None:
    """The engine's side: some tokens for each answer, then its failure."""
    reader, writer = await asyncio.open_connection(sock=end)
    writer.write(wire.frame(Fetched(str(DIRECTORY))) + wire.frame(READY))
    with suppress(EOFError):
        while True:
            work = msgspec.msgpack.decode(await wire.read_frame(reader), type=Work)
            for submission in work.submitted:
                if num_tokens:
                    output = Output(submission.id, [POD] * num_tokens, None)
                    writer.write(wire.frame(stepped([output], [])))
                    await asyncio.sleep(0.2)  # so that the stream has begun
                failure = Failure(submission.id, kind, "the engine's words")
                writer.write(wire.frame(stepped([], [failure])))
    writer.close()


def stepped(outputs: list[Output], failures: list[Failure]) -> Stepped:
    return Stepped(outputs, failures, 0, 0, 0, Counters(), KvTokens(), None, 0.01)


@asynccontextmanager
async def failing(directory: Path, kind: FailureKind, num_tokens: int) -> AsyncIterator[str]:
    """The URL of a server whose engine fails every request."""
    ours, theirs = socket.socketpair()
    child = await Child.start("aweigh_runtime.nothing")
    child.writer.close()
    reader, writer = await asyncio.open_connection(sock=ours)
    engine = EngineClient(Child(child.process, reader, writer), lambda loading: None)
    config = Config(
        uri="builtin://none", model_name=MODEL, cache_dir=directory, port=0, admin_port=0
    )
    service = Service(config, engine)
    script = asyncio.create_task(fail_everything(theirs, kind, num_tokens))
    watching = asyncio.create_task(engine.watch())
    try:
        async with Ports(config, service) as ports:
            await service.load()
            yield ports.url
    finally:
        await service.close()
        await engine.close()
        await asyncio.gather(script, watching)


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("too_long", 400, "context_length_exceeded"),
        ("grammar", 400, "grammar"),
        ("out_of_memory", 503, "out_of_memory"),
        ("internal", 500, None),
    ],
)
async def test_a_failure_before_the_first_token_has_its_status_streamed_or_not(
    tmp_path: Path, kind: FailureKind, status: int, code: str | None
) -> None:
    async with failing(tmp_path, kind, 0) as url, httpx.AsyncClient() as client:
        for stream in (False, True):
            body = {"model": MODEL, "prompt": "A", "n": 2, "stream": stream}
            response = await client.post(f"{url}/completions", json=body)
            assert response.status_code == status
            error = response.json()["error"]
            assert error["code"] == code
            assert ("the engine's words" in error["message"]) == (status == 400)
            assert ("Retry-After" in response.headers) == (status == 503)


async def test_a_failure_after_the_first_token_is_the_streams_last_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aweigh.requests")
    async with failing(tmp_path, "out_of_memory", 2) as url, httpx.AsyncClient() as client:
        body = {"model": MODEL, "prompt": "A", "stream": True}
        response = await client.post(f"{url}/completions", json=body)
        assert response.status_code == 200
        text, error = (json.loads(e[6:]) for e in response.text.split("\n\n") if e)
        assert text["choices"][0]["text"] == " Pod Pod"
        assert error["error"]["code"] == "out_of_memory"
        whole = await client.post(f"{url}/completions", json={**body, "stream": False})
        assert whole.status_code == 503
    told = [each.__dict__["fields"] for each in caplog.records if each.msg == "request"]
    assert [(each["status"], each["error"]) for each in told] == [(503, "out_of_memory")] * 2
