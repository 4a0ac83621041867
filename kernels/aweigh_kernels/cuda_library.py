"""Kernels of ours in CUDA C++ (`csrc/`): one library for all GPUs, called through ctypes.

It is built with an image, or by the first process of a checkout that needs it, and kept outside:

    python -m aweigh_kernels.cuda_library FOLDER

Without one and without nvcc there are none of these kernels: Triton or torch compute instead.
"""

import ctypes
import hashlib
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

from aweigh_kernels.compiled import NotCompiled, run

ARCHITECTURES = ("80", "90a", "100a")
SOURCES = ("int_matmul.cu", "hopper_int_matmul.cu")
_FLAGS = (
    "-std=c++17", "-O3", "-shared", "-cudart=static", "--threads=0",
    *(f"-gencode=arch=compute_{each},code=sm_{each}" for each in ARCHITECTURES),
    # Nobody else sees this library's names, nor it theirs: torch has another CUDA runtime.
    "-Xcompiler=-fPIC,-fvisibility=hidden", "-Xlinker=--exclude-libs=ALL",
)  # fmt: skip
_DEADLINE_S = 300.0
_log = logging.getLogger(__name__)


@cache
def library() -> ctypes.CDLL | None:
    """The library, built where it is not yet.

    Returns:
        None: it is not there and cannot be built; a warning has said so once.
    """
    try:
        return ctypes.CDLL(str(file()))
    except (OSError, NotCompiled) as error:
        _log.warning("there are no kernels in CUDA C++, others compute instead: %s", error)
        return None


def file() -> Path:
    """The library's file: in this package, where an image has it, or in the cache.

    Raises:
        NotCompiled: it is in neither, and there is no nvcc, or it fails.
    """
    name = file_name()
    for folder in (Path(__file__).parent, _cache()):
        if (folder / name).exists():
            return folder / name
    _log.info("compiling the kernels in %s, which takes about a minute", sources())
    return build(_cache())


def build(folder: Path) -> Path:
    """Compile the library into a folder, which is made; return the file.

    Raises:
        NotCompiled: there is no nvcc, or it fails.
    """
    compiler = nvcc()
    if compiler is None:
        raise NotCompiled("nvcc is not installed; `pip install 'aweigh[csrc]'` has one")
    folder.mkdir(parents=True, exist_ok=True)
    # Others may build it at the same time: each of them puts a whole file in place.
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        target = Path(unfinished) / file_name()
        run(command(compiler, target), _DEADLINE_S)
        return target.replace(folder / file_name())


def command(compiler: Path, target: Path) -> list[str]:
    """What compiles all sources."""
    root = compiler.resolve().parents[1]
    libraries = [f"-L{root / name}" for name in ("lib64", "lib")]
    files = [str(sources() / name) for name in SOURCES]
    return [str(compiler), *_FLAGS, *libraries, "-o", str(target), *files]


def sources() -> Path:
    """Where the sources are: beside this package in a checkout, in it where it is installed."""
    installed = Path(__file__).parent / "csrc"
    return installed if installed.exists() else Path(__file__).parents[2] / "csrc"


def file_name() -> str:
    """Another one for other sources and flags: one that is found is never stale."""
    found = hashlib.sha256(repr(_FLAGS).encode())
    for path in sorted(sources().iterdir()):
        if path.suffix in (".cu", ".cuh"):
            found.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"aweigh-cuda-{found.hexdigest()[:16]}.so"


def nvcc() -> Path | None:
    """The compiler of NVIDIA's Python packages, whose version ours pins, or that on PATH."""
    packages = importlib.util.find_spec("nvidia")
    for folder in (packages.submodule_search_locations or []) if packages else []:
        for path in Path(folder).glob("cu*/bin/nvcc"):
            return path
    found = shutil.which("nvcc")
    return Path(found) if found else None


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "aweigh" / "kernels"


if __name__ == "__main__":
    sys.stdout.write(f"{build(Path(sys.argv[1]))}\n")
