"""The wheel that users install, in an environment of its own and far from the checkout."""

import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from aweigh_kernels import cuda_library

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 60.0


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel; third-party packages come from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("aweigh-*.whl")

    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=120)
    (packages,) = environment.glob("lib/python3.*/site-packages")
    # A path that a .pth file adds is not searched for further .pth files, so the editable install
    # of the checkout stays behind.
    (packages / "third-party.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = str(environment / "bin/pip")
    install = [pip, "install", "--no-index", "--no-deps", "--quiet", str(wheel)]
    subprocess.run(install, check=True, timeout=120)
    return environment


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_wheel_is_imported_and_not_the_checkout(environment: Path) -> None:
    modules = "aweigh_api, aweigh_cli, aweigh_http, aweigh_operator, aweigh_router, aweigh_runtime"
    code = f"import {modules}; print([m.__file__ for m in ({modules})])"
    output = subprocess.run(
        [environment / "bin/python", "-c", code],
        check=True, capture_output=True, text=True, cwd=environment,
    ).stdout  # fmt: skip
    assert output.count(str(environment)) == 6, output


def test_the_wheel_has_the_sources_of_kernels_in_cuda(environment: Path) -> None:
    code = (
        "from aweigh_kernels.cuda_library import file_name, sources; print(file_name(), sources())"
    )
    output = subprocess.run(
        [environment / "bin/python", "-c", code],
        check=True, capture_output=True, text=True, cwd=environment,
    ).stdout  # fmt: skip
    name, sources = output.split()
    assert name == cuda_library.file_name()
    assert str(environment) in sources


def test_local_serves_an_inferenceservice_far_from_the_checkout(
    environment: Path, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    shutil.copy(ROOT / "examples/helmsman.yaml", tmp_path)
    port, admin_port = free_port(), free_port()
    started = time.monotonic()
    server = subprocess.Popen(
        [
            environment / "bin/aweigh", "local", "-f", "helmsman.yaml",
            f"--port={port}", f"--admin-port={admin_port}",
        ],
        cwd=tmp_path,
    )  # fmt: skip
    try:
        wait_healthy(f"http://127.0.0.1:{port}/health", server)
        tell(f"aweigh local: ready after {time.monotonic() - started:.1f} s")
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json={
                "model": "helmsman",
                "messages": [{"role": "user", "content": "What is a Pod?"}],
                "temperature": 0,
            },
            timeout=60,
        )
        assert "containers" in answer.json()["choices"][0]["message"]["content"]
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0


def wait_healthy(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert server.poll() is None, f"aweigh local ended with {server.returncode}"
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"{url} was not healthy within {START_TIMEOUT_S:.0f} s")
