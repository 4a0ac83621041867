"""The command `aweigh-router` as a process: settings, failures at the start, and its end."""

import asyncio
import itertools
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from aweigh_api.termination import ExitCode
from aweigh_http.door import _most_connections
from aweigh_router import lifetime, settings
from tests.router.pod import Pod, running, text


@asynccontextmanager
async def process(*flags: str, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    command = (sys.executable, "-m", "aweigh_router.main", *flags)
    pipe, env = asyncio.subprocess.PIPE, {**os.environ, **variables}
    each = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=env)
    try:
        yield each
    finally:
        if each.returncode is None:
            each.kill()
        await each.communicate()


async def ports(router: asyncio.subprocess.Process) -> tuple[str, str]:
    """Where it listens, and where its admin port is."""
    assert router.stdout is not None
    words = (await router.stdout.readline()).decode().replace(",", "").split()
    return f"http://127.0.0.1:{words[2]}", f"http://127.0.0.1:{words[5]}"


async def says(session: aiohttp.ClientSession, url: str, words: str) -> None:
    """Wait until it does."""
    for _ in itertools.count():
        async with session.get(url) as response:
            if words in await response.text():
                return
        await asyncio.sleep(0.01)


async def test_it_finishes_open_streams_before_it_ends() -> None:
    pod = Pod(pace_s=0.05)
    async with running(pod):
        flags = ["--pod", pod.url, "--port=0", "--admin-port=0", "--drain-settle-seconds=0.2"]
        async with process(*flags) as router, aiohttp.ClientSession() as session:
            url, admin = await ports(router)
            body = {"model": "m", "prompt": "hello", "stream": True, "max_tokens": 60}
            async with session.post(f"{url}/v1/completions", json=body) as response:
                router.send_signal(signal.SIGTERM)
                async with asyncio.timeout(5):
                    await says(session, f"{admin}/readyz", "draining")
                events = (await response.read()).decode()
            assert events.endswith("data: [DONE]\n\n")
            assert all(f'"{word} "' in events for word in text("hello", 0, 60).split())
            async with asyncio.timeout(10):
                assert await router.wait() == 0


async def test_what_is_open_when_its_time_is_up_is_told_so() -> None:
    pod = Pod(pace_s=0.05)
    async with running(pod):
        flags = ["--pod", pod.url, "--port=0", "--admin-port=0", "--drain-settle-seconds=0"]
        async with (
            process(*flags, "--drain-timeout-seconds=0") as router,
            aiohttp.ClientSession() as session,
        ):
            url, _ = await ports(router)
            body = {"model": "m", "prompt": "hello", "stream": True, "max_tokens": 1000}
            async with session.post(f"{url}/v1/completions", json=body) as response:
                router.send_signal(signal.SIGTERM)
                last = (await response.read()).decode().strip().rpartition("data: ")[2]
            assert json.loads(last)["error"]["code"] == "draining"
            assert await router.wait() == 0


async def test_a_start_that_fails_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("short")
    for flags, words in (
        (["--pod=http://127.0.0.1:9", f"--api-keys-dir={tmp_path}"], "expected 16 to 1024"),
        (["--pod=http://127.0.0.1:9", f"--router-secret-dir={tmp_path}"], "router's secret"),
        (["--pods-service=chat-pods", "--namespace=ns", "--port=0", "--admin-port=0"], "--pod URL"),
    ):
        async with process(*flags) as router:
            _, said = await router.communicate()
            assert router.returncode == ExitCode.BAD_CONFIGURATION
            assert words in said.decode()


def test_flags_come_before_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {"AWEIGH_PORT": "1234", "AWEIGH_MAX_WAITING": "7"}
    read = settings.read(["--pod=http://a/", "--port=99"], environment)
    assert (read.pod, read.port, read.max_waiting) == (("http://a",), 99, 7)
    for flags, message in (
        ([], "either --pods-service"),
        (["--pods-service=x"], "needs --namespace"),
        (["--pod=http://a", "--max-waiting=0"], "--max-waiting is 0; expected 1 or more"),
    ):
        with pytest.raises(SystemExit):
            settings.read(flags, {})
        assert message in capsys.readouterr().err


async def test_a_variable_that_sets_nothing_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("short")
    flags = ("--pod=http://127.0.0.1:9", f"--api-keys-dir={tmp_path}")
    async with process(*flags, AWEIGH_WAIT_SECONS="9", AWEIGH_MAX_WAITING="9") as router:
        _, said = await router.communicate()
    (line,) = [each for each in said.decode().splitlines() if "no effect" in each]
    assert "AWEIGH_WAIT_SECONS has no effect" in json.loads(line)["message"]
    assert "did you mean AWEIGH_WAIT_SECONDS?" in line


def test_clients_leave_the_files_that_probes_and_reports_need() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, before[1]))
    try:
        clients, probes = map(_most_connections, (lifetime._CLIENTS, lifetime._PROBES))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (clients, probes) == (768, 256)  # a client takes two files
    assert 2048 - 2 * clients - probes >= 256  # for pods' reports and all else


async def test_a_port_that_is_taken_is_named() -> None:
    pod = Pod()
    async with running(pod):
        port = pod.url.rpartition(":")[2]
        async with process(f"--pod={pod.url}", "--admin-port=0", f"--port={port}") as router:
            _, said = await router.communicate()
    assert router.returncode == ExitCode.BAD_CONFIGURATION
    assert f"port {port}" in said.decode()
    assert "give another --port" in said.decode()


async def test_a_body_that_is_still_arriving_when_it_drains_gets_its_answer() -> None:
    pod = Pod()
    body = json.dumps({"model": "m", "prompt": "x" * (3 << 20), "max_tokens": 2}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with running(pod):
        flags = ["--pod", pod.url, "--port=0", "--admin-port=0", "--drain-settle-seconds=0"]
        async with process(*flags) as router, aiohttp.ClientSession() as session:
            url, admin = await ports(router)
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2]))
            writer.write(head.encode() + body[: 1 << 20])
            async with asyncio.timeout(20):
                await says(session, f"{admin}/metrics", 'open_requests{model_name="local"} 1.0')
                router.send_signal(signal.SIGTERM)
                await says(session, f"{url}/health", "draining")  # it takes nothing new
                writer.write(body[1 << 20 :])
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                writer.close()
                assert await router.wait() == 0
