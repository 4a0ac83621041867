"""C kernels for CPUs, compiled on the machine that runs them: a quarter of a second each.

As Triton's launchers, they need a C compiler where they run. Without one there are none.
"""

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

# Never -ffast-math: linking with it makes the whole process round small numbers to zero.
_FLAGS = (
    "-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC",
    "-shared",
)  # fmt: skip
_DEADLINE_S = 20.0
_log = logging.getLogger(__name__)


class NotCompiled(Exception):
    """Says why."""


def compiled(name: str, constants: Mapping[str, int]) -> ctypes.CDLL | None:
    """A kernel for some constants.

    Args:
        name: of a file in `cpu/`.
        constants: macros.

    Returns:
        None: there is no compiler here, or it fails; a warning has said it once.
    """
    return _compiled(name, tuple(sorted(constants.items())))


@cache
def _compiled(name: str, constants: tuple[tuple[str, int], ...]) -> ctypes.CDLL | None:
    compiler = _compiler()
    if compiler is None:
        return None
    source = Path(__file__).parent / "cpu" / name
    macros = [f"-D{key}={value}" for key, value in constants]
    try:
        with tempfile.TemporaryDirectory(
            prefix="aweigh-kernel-", ignore_cleanup_errors=True
        ) as folder:
            target = Path(folder) / f"{source.stem}.so"
            run([compiler, *_FLAGS, *macros, "-o", str(target), str(source)], _DEADLINE_S)
            return ctypes.CDLL(str(target))  # it stays loaded when its file is gone
    except (OSError, NotCompiled) as error:
        _log.warning("%s is not compiled, torch computes instead: %s", name, error)
        return None


@cache
def _compiler() -> str | None:
    found = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "gcc", "cc"))), None)
    if found is None:
        _log.warning("no C compiler is installed: on a CPU torch computes what C kernels would")
    return found


def run(command: list[str], deadline_s: float) -> None:
    """Run a compiler. It starts others: all of them end with it.

    Raises:
        NotCompiled: it fails, or takes longer; quotes its first error.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise NotCompiled(f"{command[0]} took over {deadline_s:g} s") from error
    if process.returncode:
        said = output.strip().splitlines() or [f"it ended with {process.returncode}"]
        first = next((line for line in said if "error" in line), said[-1])
        raise NotCompiled(f"{command[0]}: {first}")
