"""`aweigh serve` and `aweigh local` as processes that really serve; the clients of examples."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.refusals import manifest
from tests.cli.command import arguments, aweigh, environment
from tests.cluster.places import CHECKOUT

EXAMPLES = CHECKOUT / "examples"
FREE_PORTS = ("--port=0", "--admin-port=0")
START_S = 60.0


class Server:
    """A serving process whose log is read until it is ready."""

    def __init__(self, *given: str, cwd: Path) -> None:
        self.process = subprocess.Popen(
            arguments(*given), cwd=cwd, env=environment(), stderr=subprocess.PIPE, text=True
        )
        self.log: list[dict[str, Any]] = []
        self.url = self._until_ready()

    def _until_ready(self) -> str:
        assert self.process.stderr is not None
        plain = []
        for line in self.process.stderr:
            if not line.startswith("{"):
                plain.append(line)
                continue
            self.log.append(json.loads(line))
            if self.log[-1]["message"] == "ready":
                return str(self.log[-1]["url"])
        raise AssertionError(f"the server ended: {plain}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The first example, served outside the checkout."""
    outside = tmp_path_factory.mktemp("outside")
    example = str(EXAMPLES / "helmsman.yaml")
    running = Server("local", "-f", example, *FREE_PORTS, cwd=outside)
    yield running
    running.process.kill()
    running.process.communicate()


def test_a_chat_gets_an_answer_from_a_local_service(server: Server) -> None:
    done = aweigh("chat", server.url, "--once", "What is a Pod?")
    assert done.returncode == 0, done.stderr
    assert "containers" in done.stdout


def test_two_servers_answer_behind_a_router(tmp_path: Path) -> None:
    example = str(EXAMPLES / "helmsman.yaml")
    settings = environment(AWEIGH_DEVISE="cpu", AWEIGH_WAIT_SECONDS="60", AWEIGH_MAX_RUNNING="4")
    with (tmp_path / "said").open("w") as said, subprocess.Popen(
        arguments("local", "-f", example, "--pods=2", *FREE_PORTS),
        cwd=tmp_path, env=settings, stdout=subprocess.PIPE, stderr=said, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = process.stdout.readline().partition(": 2 servers")[0]
        done = aweigh("chat", url, "--once", "What is a Pod?")  # it waits until one is ready
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=START_S) == 0
    assert "containers" in done.stdout, done.stderr
    warnings = [each for each in (tmp_path / "said").read_text().splitlines() if "effect" in each]
    (warning,) = warnings  # of what neither of both reads
    assert "AWEIGH_DEVISE has no effect: no setting of `aweigh local` has that name" in warning


def test_servers_that_end_say_why_and_nothing_of_the_routers_variables(tmp_path: Path) -> None:
    file = tmp_path / "chat.yaml"
    model = {"model": {"uri": f"file://{tmp_path}/nowhere"}}
    file.write_text(json.dumps(manifest("chat", model)))
    settings = environment(AWEIGH_WAIT_SECONDS="60", AWEIGH_DEVICE="cpu")
    done = aweigh("local", "-f", str(file), "--pods=2", *FREE_PORTS, env=settings)
    assert done.returncode == 1
    assert "all servers have ended; the last one said:" in done.stderr
    assert "/nowhere" in done.stderr
    assert "has no effect" not in done.stderr


def test_without_a_terminal_progress_is_in_the_log(server: Server) -> None:
    loading = [line for line in server.log if line["logger"] == "aweigh.start"]
    assert loading[-1]["done_bytes"] == loading[-1]["total_bytes"] > 0


def test_the_python_example_streams_an_answer(server: Server) -> None:
    client = [sys.executable, str(EXAMPLES / "openai_client.py"), server.url, "What is a Pod?"]
    done = subprocess.run(client, capture_output=True, text=True, check=True, timeout=60)
    assert "containers" in done.stdout


def test_the_shell_example_streams_an_answer(server: Server) -> None:
    client = [str(EXAMPLES / "curl.sh"), server.url, "helmsman", "What is a Pod?"]
    done = subprocess.run(client, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.count("data: {") > 5
    assert done.stdout.strip().endswith("data: [DONE]")


def test_a_terminal_is_told_how_to_talk_to_the_endpoint(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        arguments("serve", "builtin://helmsman-1m-draft", *FREE_PORTS),
        cwd=tmp_path, env=environment(TERM="xterm"), stdin=theirs, stdout=theirs, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        seen = _read_until(ours, lambda text: "curl http" in text)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=START_S) == 0
    os.close(ours)
    url = re.search(r"helmsman-1m-draft is ready at (http://127\.0\.0\.1:\d+/v1)", seen)
    assert url is not None, seen
    assert f'aweigh chat {url[1]} --once "What is a Pod?"' in seen


def test_a_port_that_is_taken_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = aweigh("serve", "builtin://helmsman-8m", f"--port={port}", "--admin-port=0")
    assert done.returncode == 78
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "give another --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_is_not_there_gives_its_exit_code() -> None:
    done = aweigh("serve", "file:///nowhere/at/all", *FREE_PORTS)
    assert done.returncode == 66
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "/nowhere/at/all" in line
    assert "Traceback" not in done.stderr


def _read_until(terminal: int, complete: Callable[[str], bool]) -> str:
    seen = ""
    deadline = time.monotonic() + START_S
    while not complete(seen):
        assert time.monotonic() < deadline, f"not yet: {seen!r}"
        seen += os.read(terminal, 65536).decode(errors="replace")
    return seen
