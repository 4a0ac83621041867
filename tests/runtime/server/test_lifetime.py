"""How a server starts, drains, and dies. Each test has a server of its own."""

import asyncio
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from aweigh_runtime import wire
from aweigh_runtime.child import Child
from aweigh_runtime.config import Config
from aweigh_runtime.engine.client import EngineClient
from aweigh_runtime.engine.messages import Fetched
from aweigh_runtime.server import lifetime
from aweigh_runtime.server.ports import Ports
from tests.runtime.serving import MODEL, Served, serving, wait_for
from tests.runtime.text.helmsman import DIRECTORY

STREAM = {"model": MODEL, "prompt": "The", "max_tokens": 150, "temperature": 2.0, "stream": True}


@contextmanager
def ready(directory: Path, *flags: str) -> Iterator[Served]:
    with serving(directory, "--dtype=fp32", *flags) as served:
        served.wait_ready()
        yield served


@contextmanager
def streaming(served: Served, **fields: object) -> Iterator[Iterator[str]]:
    """An open stream that has sent its first event."""
    url = f"{served.url}/v1/completions"
    with httpx.stream("POST", url, json={**STREAM, **fields}, timeout=60) as response:
        assert response.status_code == 200
        lines = (line for line in response.iter_lines() if line)
        assert next(lines).startswith("data: {")
        yield lines


def gone(pid: int) -> bool:
    """Ended, and reaped or about to be."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def healthy(served: Served) -> bool:
    """By either port, if there still is one."""
    for url in (f"{served.url}/health", f"{served.admin_url}/livez"):
        with suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return True
    return False


def test_while_loading_the_admin_port_answers_and_the_api_says_so(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        wait_for(lambda: _listens(served.port), 30, served)
        answer = served.chat()
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "Loading model"
        assert int(answer.headers["Retry-After"]) >= 1
        assert served.admin("/livez").status_code == 200
        assert served.admin("/readyz").status_code == 503
        assert served.state().phase == "loading"
        assert httpx.get(f"{served.url}/health").status_code == 503

        children = served.children()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=5) == 0  # nothing to drain
        wait_for(lambda: all(gone(pid) for pid in children.values()))


def test_ctrl_c_while_loading_ends_everything_quietly(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        wait_for(lambda: _listens(served.port), 30, served)
        os.killpg(served.process.pid, signal.SIGINT)
        assert served.process.wait(timeout=5) == 0
        assert "Traceback" not in served.log.read_text()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_drain_lets_open_streams_finish_and_then_ends(tmp_path: Path) -> None:
    with (
        ready(tmp_path, "--drain-settle-seconds=1") as served,
        streaming(served, max_tokens=100) as lines,
    ):
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: served.admin("/readyz").status_code == 503)
        assert served.state().phase == "draining"
        settling = served.chat(max_tokens=1)
        assert settling.status_code == 200
        assert settling.headers["Connection"] == "close"
        *_, last = lines
        assert last == "data: [DONE]"
        assert served.process.wait(timeout=10) == 0
        assert not served.termination_log.exists()


def test_after_settling_new_requests_are_refused_while_open_ones_go_on(tmp_path: Path) -> None:
    with ready(tmp_path) as served, streaming(served, max_tokens=600, ignore_eos=True) as lines:
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: served.chat(max_tokens=1).status_code == 503)
        assert served.chat(max_tokens=1).json()["error"]["code"] == "draining"
        assert httpx.get(f"{served.url}/health").status_code == 503
        assert served.admin("/livez").status_code == 200
        *_, last = lines
        assert last == "data: [DONE]"
        assert served.process.wait(timeout=10) == 0


def test_a_body_that_is_still_arriving_when_it_drains_gets_its_answer(tmp_path: Path) -> None:
    body = json.dumps({"model": MODEL, "prompt": "The " * 400, "max_tokens": 2}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    with (
        ready(tmp_path, "--drain-settle-seconds=3") as served,
        socket.create_connection(("127.0.0.1", served.port)) as client,
    ):
        client.sendall(head.encode() + body[:1000])
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: served.chat(max_tokens=1).status_code == 503)
        client.sendall(body[1000:])
        answer = client.makefile("rb").readline()
        assert answer.startswith(b"HTTP/1.1 200")
        assert served.process.wait(timeout=10) == 0


def test_what_does_not_finish_in_time_is_told_so(tmp_path: Path) -> None:
    with (
        ready(tmp_path, "--drain-timeout-seconds=0") as served,
        streaming(served, n=8, max_tokens=2000) as lines,
    ):
        served.process.send_signal(signal.SIGTERM)
        *_, last = lines
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"
        assert served.process.wait(timeout=10) == 0


def test_fifty_open_streams_all_end_complete(tmp_path: Path) -> None:
    async def follow(client: httpx.AsyncClient, begun: asyncio.Semaphore) -> list[str]:
        body = {**STREAM, "max_tokens": 60, "ignore_eos": True}
        body["stream_options"] = {"include_usage": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            lines: list[str] = []
            async for line in response.aiter_lines():
                if not lines:
                    begun.release()
                lines += [line] if line else []
            return lines

    async def follow_all(served: Served) -> list[list[str]]:
        begun = asyncio.Semaphore(0)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=served.url, timeout=120, limits=limits) as client:
            following = [asyncio.create_task(follow(client, begun)) for _ in range(50)]
            for _ in following:
                await begun.acquire()
            served.process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*following)

    with ready(tmp_path, "--max-running=64") as served:
        streams = asyncio.run(follow_all(served))
        assert len(streams) == 50
        for *_, usage, last in streams:
            assert last == "data: [DONE]"
            figures = json.loads(usage.removeprefix("data: "))["usage"]
            assert figures["completion_tokens"] == 60
        assert served.process.wait(timeout=10) == 0
        assert not served.termination_log.exists()


def test_a_second_signal_ends_the_drain(tmp_path: Path) -> None:
    with ready(tmp_path) as served, streaming(served, n=8, max_tokens=2000) as lines:
        served.process.send_signal(signal.SIGINT)
        wait_for(lambda: served.admin("/readyz").status_code == 503)
        served.process.send_signal(signal.SIGINT)
        *_, last = lines
        assert "error" in last
        assert served.process.wait(timeout=5) == 0


def test_a_killed_engine_fails_open_requests_and_ends_the_server(tmp_path: Path) -> None:
    with ready(tmp_path) as served, streaming(served, n=4) as lines:
        os.kill(served.children()["process"], signal.SIGKILL)
        *_, last = lines
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
        assert not healthy(served)
        assert served.process.wait(timeout=5) == 137
        termination = served.termination()
        assert (termination["condition"], termination["reason"]) == (
            "WorkloadReady",
            "Restarting",
        )
        assert "SIGKILL" in termination["message"]
        logged = served.log.read_text().splitlines()
        (line,) = [line for line in logged if line.startswith("error:")]
        assert "SIGKILL" in line
        (record,) = [line for line in logged if '"level": "error"' in line]
        assert json.loads(record)["message"] == "the engine stopped"
        assert "SIGKILL" in json.loads(record)["reason"]


def test_a_hung_engine_turns_probes_red_and_back(tmp_path: Path) -> None:
    with ready(tmp_path) as served:
        engine = served.children()["process"]
        stopped_s = time.monotonic()
        os.kill(engine, signal.SIGSTOP)
        assert served.admin("/livez").status_code == 200
        wait_for(lambda: served.admin("/livez").status_code == 503, deadline_s=20)
        assert time.monotonic() - stopped_s < 10.5
        assert "silent" in served.admin("/livez").text
        assert served.admin("/readyz").status_code == 503
        assert httpx.get(f"{served.url}/health").status_code == 503
        assert served.chat().status_code == 503
        os.kill(engine, signal.SIGCONT)
        wait_for(lambda: served.admin("/livez").status_code == 200)
        assert httpx.get(f"{served.url}/health").status_code == 200
        assert served.chat(max_tokens=1).status_code == 200


def test_a_hung_engine_fails_what_is_open_and_serves_on_when_it_recovers(tmp_path: Path) -> None:
    with ready(tmp_path) as served, streaming(served, n=8, max_tokens=2000) as lines:
        engine = served.children()["process"]
        os.kill(engine, signal.SIGSTOP)
        *_, last = lines
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine"
        assert served.admin("/livez").status_code == 503
        os.kill(engine, signal.SIGCONT)
        wait_for(lambda: served.admin("/livez").status_code == 200)
        assert served.chat(max_tokens=1).status_code == 200
        wait_for(lambda: served.state().running == 0)  # nobody waits for the failed ones


def test_a_server_whose_engine_hangs_does_not_wait_when_it_must_end(tmp_path: Path) -> None:
    with ready(tmp_path, "--drain-settle-seconds=60") as served:
        os.kill(served.children()["process"], signal.SIGSTOP)
        wait_for(lambda: served.admin("/livez").status_code == 503, deadline_s=20)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=10) == 70
        termination = served.termination()
        assert (termination["condition"], termination["reason"]) == (
            "WorkloadReady",
            "InternalError",
        )
        assert "silent" in termination["message"]


def test_an_engine_that_hangs_during_the_drain_ends_it(tmp_path: Path) -> None:
    with ready(tmp_path) as served, streaming(served, n=8, max_tokens=2000) as lines:
        os.kill(served.children()["process"], signal.SIGSTOP)
        served.process.send_signal(signal.SIGTERM)
        *_, last = lines
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine"
        assert served.process.wait(timeout=10) == 70
        assert "silent" in served.termination()["message"]


def test_no_process_outlives_a_killed_server(tmp_path: Path) -> None:
    with ready(tmp_path) as served, streaming(served):
        children = served.children()
        assert set(children) == {"process", "template_worker"}
        served.process.kill()
        wait_for(lambda: all(gone(pid) for pid in children.values()))


def broken(directory: Path, **files: str | None) -> str:
    """A copy of the model with files replaced or removed."""
    copy = directory / "model"
    shutil.copytree(DIRECTORY, copy)
    for name, content in files.items():
        path = copy / name.replace("__", ".")
        path.unlink()
        if content is not None:
            path.write_text(content)
    return f"file://{copy}"


@pytest.mark.parametrize(
    ("files", "code", "reason", "message"),
    [
        pytest.param({"config__json": None}, 66, "ModelUnreadable", "config.json", id="no config"),
        pytest.param(
            {"config__json": '{"architectures": ["MambaForCausalLM"]}'},
            78,
            "UnsupportedModel",
            "MambaForCausalLM",
            id="unknown architecture",
        ),
        pytest.param(
            {"tokenizer__json": "{}"}, 66, "ModelUnreadable", "tokenizer.json", id="no tokenizer"
        ),
        pytest.param(
            {"tokenizer_config__json": '{"chat_template": "{% if %}"}'},
            66,
            "ModelUnreadable",
            "chat template",
            id="broken template",
        ),
    ],
)
def test_a_model_that_cannot_be_served_ends_the_server_with_one_clear_line(
    tmp_path: Path, files: dict[str, str | None], code: int, reason: str, message: str
) -> None:
    with serving(tmp_path, uri=broken(tmp_path, **files)) as served:
        assert served.process.wait(timeout=60) == code
        lines = served.log.read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("error: ")]
        assert message in line
        assert "Traceback" not in served.log.read_text()
        assert served.termination()["reason"] == reason
        assert line == f"error: {served.termination()['message']}"
        assert sum(message in each for each in lines) == 1  # told once


def test_a_missing_model_ends_the_server(tmp_path: Path) -> None:
    with serving(tmp_path, uri="file:///no/such/model") as served:
        assert served.process.wait(timeout=60) == 66
        assert served.termination()["reason"] == "ModelNotFound"


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(tmp_path, f"--port={port}") as served:
            assert served.process.wait(timeout=30) == 78
            assert f"port {port}" in served.termination()["message"]


def test_a_model_without_a_template_continues_texts_and_says_so(tmp_path: Path) -> None:
    uri = broken(tmp_path, tokenizer_config__json="{}")
    with serving(tmp_path, uri=uri) as served:
        served.wait_ready()
        refused = served.chat()
        assert refused.status_code == 400
        assert "/v1/completions" in refused.json()["error"]["message"]
        assert served.complete("A Pod", max_tokens=2).status_code == 200


class SlowPorts(Ports):
    """A connection that is open takes its time to end."""

    async def __aexit__(self, *error: Any) -> None:
        await asyncio.sleep(0.5)
        await super().__aexit__(*error)


async def test_a_model_that_arrives_while_the_server_ends_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "Ports", SlowPorts)
    ours, theirs = socket.socketpair()
    child = await Child.start("aweigh_runtime.nothing")
    child.writer.close()
    reader, writer = await asyncio.open_connection(sock=ours)
    engine = EngineClient(Child(child.process, reader, writer), lambda loading: None)
    config = Config(
        uri="builtin://none", model_name=MODEL, cache_dir=tmp_path, port=0, admin_port=0
    )
    running = asyncio.create_task(lifetime.run(config, engine, lambda url: None))
    await asyncio.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.1)
    theirs.sendall(wire.frame(Fetched(str(DIRECTORY))))
    await asyncio.wait_for(running, 10)
    theirs.close()
    await engine.close()
