"""A real `aweigh serve` in a process of its own, for tests."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from aweigh_api.state import State

MODEL = "helmsman"
START_DEADLINE_S = 60.0
_MAIN = "from aweigh_cli.main import main; main()"


@dataclass
class Served:
    """The process and its two ports."""

    process: subprocess.Popen[bytes]
    port: int
    admin_port: int
    termination_log: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def state(self) -> State:
        return State.model_validate_json(httpx.get(f"{self.admin_url}/state").text)

    def admin(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.admin_url}{path}")

    def metric(self, name: str) -> float:
        """The first sample of a metric."""
        for line in self.admin("/metrics").text.splitlines():
            if line.startswith((f"{name}{{", f"{name} ")):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name}")

    def at_rest(self) -> bool:
        """Whether nothing runs or waits, and nobody holds memory."""
        state = self.state()
        held = None if state.kv_tokens is None else state.kv_tokens.held
        return (state.running, state.waiting, state.waiting_prompt_tokens, held) == (0, 0, 0, 0)

    def complaints(self) -> list[str]:
        """Warnings and errors in its log."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if json.loads(line)["level"] in ("warning", "error")]

    def chat(self, content: str = "What is a Pod?", **fields: Any) -> httpx.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60)

    def complete(self, prompt: Any, **fields: Any) -> httpx.Response:
        body = {"model": MODEL, "prompt": prompt, **fields}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=60)

    def termination(self) -> dict[str, str]:
        termination: dict[str, str] = json.loads(self.termination_log.read_text())
        return termination

    def children(self) -> dict[str, int]:
        """Process ids by the last part of the module's name: process, template_worker."""
        pid = self.process.pid
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        commands = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in listed}
        return {line.split("\0")[3].rsplit(".")[-1]: child for child, line in commands.items()}

    def wait_ready(self, deadline_s: float = START_DEADLINE_S) -> None:
        wait_for(lambda: self._green("/readyz"), deadline_s, self)

    def _green(self, path: str) -> bool:
        try:
            return self.admin(path).status_code == 200
        except httpx.TransportError:
            return False


def wait_for(
    condition: Callable[[], bool], deadline_s: float = 10.0, served: Served | None = None
) -> None:
    """Wait until something holds; fail with the server's log when it does not."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        gone = served is not None and served.process.poll() is not None
        if gone or time.monotonic() > end_s:
            log = "" if served is None else served.log.read_text()
            raise AssertionError(f"not within {deadline_s} s\n{log}")
        time.sleep(0.02)


@contextmanager
def serving(
    directory: Path, *flags: str, uri: str = "builtin://helmsman-8m", main: str = _MAIN
) -> Iterator[Served]:
    """Start a server and end it; it may not be ready yet."""
    port, admin_port = _free_ports()
    termination_log, log = directory / "termination-log", directory / "log"
    arguments = [
        *(sys.executable, "-c", main, "serve", uri, f"--model-name={MODEL}", "--device=cpu"),
        *(f"--port={port}", f"--admin-port={admin_port}", f"--cache-dir={directory / 'cache'}"),
        *(f"--termination-log={termination_log}", *flags),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, stdout=output, stderr=output, env=environment, process_group=0
        )
    try:
        yield Served(process, port, admin_port, termination_log, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
