"""`aweigh fetch`: models come into the cache, and whoever watches sees how far it is."""

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from aweigh_api.state import State
from aweigh_api.termination import Termination
from tests.cli.command import arguments, aweigh, environment
from tests.runtime.hub import Hub

BUILTIN = Path(__file__).parents[2] / "runtime/aweigh_runtime/builtin"
DRAFT, MODEL = BUILTIN / "helmsman-1m-draft", BUILTIN / "helmsman-8m"


def test_models_are_where_servers_look_and_are_not_asked_for_again(tmp_path: Path) -> None:
    with Hub() as hub:
        commit = hub.add("acme/mate", DRAFT)
        hub.add("acme/helmsman", MODEL)
        known = environment(HF_ENDPOINT=hub.url)
        given = ("hf://acme/helmsman", f"hf://acme/mate@{commit}", f"--cache-dir={tmp_path}")
        first = aweigh("fetch", *given, env=known)
        assert first.returncode == 0, first.stderr
        folders = [Path(line) for line in first.stdout.splitlines()]
        assert [(each / "config.json").is_file() for each in folders] == [True, True]
        hub.faults.every_status = 503
        second = aweigh("fetch", given[1], given[2], env=known)
        assert (second.returncode, second.stdout.strip()) == (0, str(folders[1]))


def test_how_far_it_is_can_be_read_as_of_a_server(tmp_path: Path) -> None:
    port = free_port()
    with Hub() as hub:
        hub.add("acme/helmsman", MODEL)
        hub.faults.piece_delay_s = 0.2
        command = arguments(
            "fetch", "hf://acme/helmsman", f"--cache-dir={tmp_path}", f"--admin-port={port}"
        )
        with subprocess.Popen(command, env=environment(HF_ENDPOINT=hub.url)) as running:
            state = watched(port)
            assert state.phase == "loading"
            assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 503
            assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
            hub.faults.piece_delay_s = 0.0
            assert running.wait(60) == 0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def watched(port: int) -> State:
    """A report in the middle of the download."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = State.model_validate_json(httpx.get(f"http://127.0.0.1:{port}/state").text)
        except httpx.TransportError:
            time.sleep(0.1)
            continue
        loading = state.loading
        if loading is not None and 0 < loading.done_bytes < (loading.total_bytes or 0):
            return state
    raise AssertionError("no report of a download under way within 30 s")


def test_a_failure_is_one_line_and_the_last_word_of_a_pod(tmp_path: Path) -> None:
    log = tmp_path / "word"
    with Hub() as hub:
        found = aweigh(
            "fetch", "hf://acme/nobody", f"--cache-dir={tmp_path}", f"--termination-log={log}",
            env=environment(HF_ENDPOINT=hub.url),
        )  # fmt: skip
    assert found.returncode == 66, found.stderr
    assert found.stderr.startswith("error: ")
    word: Any = json.loads(log.read_text())
    assert word["reason"] == "AccessDenied"  # nobody learns which private ones there are
    assert Termination.parse(log.read_text()) is not None
