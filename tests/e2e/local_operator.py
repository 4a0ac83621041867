"""The operator as a process of this machine: it can be killed, restarted and looked into.

It works on one namespace, or with none on all, with the rights of whoever runs the tests.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from aiohttp.test_utils import unused_port

from tests.cluster.cluster import Cluster
from tests.cluster.places import CHECKOUT

START_TIMEOUT_S = 75.0  # it begins once it knows everything, or after a minute
STOP_TIMEOUT_S = 15.0
COMMAND = [sys.executable, "-c", "from aweigh_operator.main import main; main()"]


@dataclass
class LocalOperator:
    """One life of an operator after the other."""

    cluster: Cluster
    namespace: str
    image: str
    options: tuple[str, ...] = ()
    router_image: str = ""  # none: of the present code
    host: str = ""  # the name of the machine that it believes to be on; none: this one's
    log: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    _process: subprocess.Popen[bytes] | None = None
    _ports: tuple[int, int] = (0, 0)

    def start(self) -> None:
        """Start it and wait until it watches."""
        self._ports = unused_port(), unused_port()
        flags = [
            f"--namespace={self.namespace}",
            f"--runtime-image={self.image}",
            f"--router-image={self.router_image or self.cluster.image('router')}",
            f"--probe-port={self._ports[0]}",
            f"--metrics-port={self._ports[1]}",
            *self.options,
        ]
        environment = {**self.cluster.environment(), "PYTHONPATH": str(CHECKOUT / "operator")}
        command = [*COMMAND, *flags]
        if self.host:
            named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.host]
            command = [*named, *command]
        self._process = subprocess.Popen(command, env=environment, stderr=self.log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._ready():
            assert self.running(), f"the operator has ended:\n{self.said()}"
            assert time.monotonic() < deadline, f"the operator is not ready:\n{self.said()}"
            time.sleep(0.05)

    def stop(self) -> tuple[int, float]:
        """Ask it to stop; gives its exit code and how long that took."""
        process, begun = self._running(), time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_TIMEOUT_S)
        self._process = None
        return code, time.monotonic() - begun

    def kill(self) -> None:
        """End it as a crash would."""
        process = self._running()
        process.kill()
        process.wait()
        self._process = None

    def running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.poll() is None

    def said(self) -> str:
        """Its log."""
        self.log.seek(0)
        return self.log.read().decode()

    def metrics(self) -> dict[str, float]:
        """Its metrics by name and labels."""
        text = _get(self._ports[1], "/metrics")
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    def rss_mib(self) -> float:
        """Memory that it holds."""
        pages = int(Path(f"/proc/{self._running().pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def peak_mib(self) -> float:
        """The most memory that it has held."""
        status = Path(f"/proc/{self._running().pid}/status").read_text()
        (line,) = (each for each in status.splitlines() if each.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024

    def cpu_s(self) -> float:
        """Seconds of a processor that it has taken."""
        fields = Path(f"/proc/{self._running().pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _ready(self) -> bool:
        with contextlib.suppress(OSError):
            return _get(self._ports[0], "/readyz") == "ok"
        return False

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process


@contextlib.contextmanager
def local_operator(
    cluster: Cluster, namespace: str, image: str, *options: str
) -> Iterator[LocalOperator]:
    """An operator that runs, until the context ends."""
    operator = LocalOperator(cluster, namespace, image, options)
    try:
        operator.start()
        yield operator
    finally:
        if operator.running():
            operator.kill()
        operator.log.close()


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
        text: str = response.read().decode()
        return text
