"""Kernels in CUDA C++ without a GPU: their very source, compiled for this machine.

`on_cpu` has in C++ what their instructions do, and lets threads take turns.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from aweigh_kernels import cuda_int_matmul, cuda_library
from aweigh_kernels.skinny_matmul import Scratch
from aweigh_kernels.tile_matmul import Workspace
from tests.kernels.architectures import PROCESSORS


@pytest.fixture(scope="session")
def kernels_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("on-cpu")
    for original in (cuda_library.sources(), Path(__file__).parent / "on_cpu"):
        shutil.copytree(original, folder, dirs_exist_ok=True)  # the latter has its own instructions
    library = folder / "kernels.so"
    together = folder / "kernels.cu"  # the memory that a block shares is one for all
    together.write_text("".join(f'#include "{name}"\n' for name in cuda_library.SOURCES))
    command = ["g++", "-std=c++17", "-O1", "-w", f"-I{folder}", "-shared", "-fPIC", "-xc++"]
    subprocess.run([*command, "-o", library, together], check=True, timeout=120)
    return ctypes.CDLL(str(library))


@pytest.fixture
def workspace_on_cpu(
    kernels_on_cpu: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workspace]:
    """Products with tensors of a CPU are launched there; what they leave is taken away."""
    monkeypatch.setattr(cuda_int_matmul, "library", lambda: kernels_on_cpu)
    monkeypatch.setattr(cuda_int_matmul, "starts_early", lambda _: True)
    stream = SimpleNamespace(cuda_stream=None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    cuda_int_matmul.ready.cache_clear()
    made = Workspace.__new__(Workspace)
    made.scratch = Scratch.__new__(Scratch)
    made.scratch.sums = torch.full((PROCESSORS * 64 * 1024,), torch.nan)
    made.scratch.arrived = torch.zeros(3 * PROCESSORS, dtype=torch.int32)
    yield made
    cuda_int_matmul.ready.cache_clear()
    assert not made.scratch.arrived.any()
