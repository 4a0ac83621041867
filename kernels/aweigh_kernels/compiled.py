"""C kernels for CPUs, compiled on the machine that runs them: half a second each, once a process.

As Triton's launchers, they need a C compiler where they run. Without one there are none.
"""

import ctypes
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

# Never -ffast-math: linking with it makes the whole process round small numbers to zero.
_FLAGS = (
    "-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC",
    "-shared",
)  # fmt: skip
_DEADLINE_S = 60
_log = logging.getLogger(__name__)


def compiled(name: str, constants: Mapping[str, int]) -> ctypes.CDLL | None:
    """A kernel for some constants.

    Args:
        name: of a file in `cpu/`.
        constants: macros.

    Returns:
        None: there is no compiler here, or it refuses; a warning has said it once.
    """
    return _compiled(name, tuple(sorted(constants.items())))


@cache
def _compiled(name: str, constants: tuple[tuple[str, int], ...]) -> ctypes.CDLL | None:
    compiler = _compiler()
    if compiler is None:
        return None
    source = Path(__file__).parent / "cpu" / name
    macros = [f"-D{key}={value}" for key, value in constants]
    with tempfile.TemporaryDirectory(prefix="aweigh-kernel-") as folder:
        target = Path(folder) / f"{source.stem}.so"
        try:
            subprocess.run(
                [compiler, *_FLAGS, *macros, "-o", str(target), str(source)],
                check=True,
                capture_output=True,
                text=True,
                timeout=_DEADLINE_S,
            )
            return ctypes.CDLL(str(target))  # it stays loaded when its file is gone
        except subprocess.CalledProcessError as error:
            reason = error.stderr.strip().splitlines()[-1:] or [str(error)]
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = [str(error)]
    _log.warning("%s is not compiled, torch computes instead: %s", name, reason[0])
    return None


@cache
def _compiler() -> str | None:
    found = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "gcc", "cc"))), None)
    if found is None:
        _log.warning("no C compiler is installed: on a CPU torch computes what C kernels would")
    return found
