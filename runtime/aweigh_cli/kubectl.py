"""Calls kubectl, which knows the user's clusters and credentials; nothing here reads them."""

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aweigh_cli.failures import CommandFailure

GET_S = 10  # for each of kubectl's requests
FORWARD_TIMEOUT_S = 20.0
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


def kubectl(*arguments: str) -> str:
    """Standard output of a kubectl command; its own words when it fails."""
    done = subprocess.run(
        [_executable(), *arguments], capture_output=True, text=True, check=False, errors="replace"
    )
    if done.returncode != 0:
        # Client libraries log above the line that kubectl means for people.
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CommandFailure(f"kubectl {' '.join(arguments)}: {said}")
    return done.stdout


def get(*arguments: str) -> str:
    """What `kubectl get` says, if the API server answers in time."""
    return kubectl("get", *arguments, f"--request-timeout={GET_S}s")


@contextmanager
def port_forward(service: str, port: int, namespace: str | None) -> Iterator[int]:
    """Forward a free local port to a Service for as long as the context lasts."""
    scope = ["--namespace", namespace] if namespace else []
    command = [_executable(), "port-forward", *scope, f"service/{service}", f":{port}"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    watchdog = threading.Timer(FORWARD_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        local_port = _forwarded_port(process, service)
        watchdog.cancel()
        yield local_port
    finally:
        watchdog.cancel()
        process.terminate()
        process.wait()


def _forwarded_port(process: "subprocess.Popen[str]", service: str) -> int:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        match = _FORWARDING.search(line)
        if match:
            # kubectl tells of every connection, and would stop when nobody reads.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return int(match[1])
        said.append(line.strip())
    reason = "; ".join(filter(None, said)) or f"no answer within {FORWARD_TIMEOUT_S:.0f} s"
    raise CommandFailure(f"cannot reach Service {service}: {reason}")


def _executable() -> str:
    path = shutil.which("kubectl")
    if path is None:
        raise CommandFailure(
            "kubectl is not on the PATH; install it, or give the URL of an endpoint instead of a "
            "name"
        )
    return path
