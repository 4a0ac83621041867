"""The library of kernels in CUDA C++: how it comes to be, and what becomes of it on each GPU."""

import ctypes
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from aweigh_kernels import cuda_library, sparse_int_matmul
from aweigh_kernels.compiled import NotCompiled
from aweigh_kernels.cuda_library import ARCHITECTURES
from aweigh_kernels.sparse_int_matmul import Schedule
from aweigh_kernels.sparse_packing import DEPTH, ROWS
from tests.kernels.machine_code import MachineCode, of_library

MOST_WORK = {(4, 0): 1.25, (4, 1): 1.5, (8, 0): 1.25, (8, 1): 1.75}  # by bits, bf16; of a number
KIND = re.compile(r"sparse_int_multiplyILi(\d)ELb(\d)ELi(\d)ELi(\d)E")


@pytest.fixture
def nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No library in the cache, and none in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cuda_library.library.cache_clear()
    yield tmp_path
    cuda_library.library.cache_clear()


@pytest.fixture(scope="module")
def built() -> Path:
    if cuda_library.nvcc() is None:
        pytest.skip("nvcc is not installed; `make env` installs it")
    return cuda_library.file()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sparse_tensor_cores_multiply_what_comes_by_asynchronous_copies(
    built: Path, architecture: str
) -> None:
    codes = of_library(built, architecture)
    assert (len(codes), sum("unpack" in name for name in codes)) == (4 * 7, 4)
    for name, code in codes.items():
        assert code.stack_bytes == 0, name
        if found := KIND.search(name):
            bits, wide, tiles, warps = map(int, found.groups())
            expect_multiply(code, bits, Schedule(tiles, warps, 1))
            expect_products(code.loop(), wide, tiles, together=architecture == "90a" and tiles >= 4)
            assert bool(code.count("ACQBULK")) == (architecture != "80")
            if architecture == "90a" and tiles == 1:
                work = sum(code.loop().count(each) for each in ("LOP3", "SHF", "HFMA2", "HADD2"))
                assert work <= MOST_WORK[bits, wide] * ROWS * DEPTH / 2 / 32 + 32, name
        else:
            assert code.count("STG.E.64")


def expect_multiply(code: MachineCode, bits: int, schedule: Schedule) -> None:
    loop = code.loop()
    assert re.findall(r"LDS\.128", loop.text)
    assert loop.count("LDGSTS") >= (bits + 2) * ROWS * DEPTH // 2 // 128 // 32 + 1
    for waits in ("STS", "STG", "LDG", "LDL", "SHFL"):
        assert not loop.count(waits), waits
    threads = schedule.resident * schedule.warps * 32
    assert code.registers * threads <= 65_536  # of a multiprocessor


def expect_products(loop: MachineCode, wide: int, tiles: int, *, together: bool) -> None:
    kind = r"\.F32\.BF16 R" if wide else r"\.F32 R"
    alone = len(re.findall(r"HMMA\.SP\.16832" + kind, loop.text))
    of_four_warps = len(re.findall(rf"HGMMA\.SP\.64x{8 * tiles}x32" + kind, loop.text))
    assert (alone, of_four_warps) == ((0, 8) if together else (8 * tiles, 0))
    assert bool(loop.count("LDSM")) != together


def test_python_and_cuda_agree_on_what_they_hand_over() -> None:
    text = (cuda_library.sources() / "sparse_int_layout.cuh").read_text()
    (said,) = re.findall(r"struct Arguments \{(.*?)\};", text, re.DOTALL)
    lines = re.findall(r"^ *((?:const )?\w+) ([*\w, ]+);", said, re.MULTILINE)
    names = [name.strip("* ") for _, several in lines for name in several.split(",")]
    fields = sparse_int_matmul._Arguments._fields_
    assert names == [name for name, *_ in fields]
    kinds = [
        ctypes.c_void_p if "*" in several else ctypes.c_int
        for _, several in lines
        for _ in several.split(",")
    ]
    assert kinds == [kind for _, kind, *_ in fields]


def test_without_nvcc_there_are_no_such_kernels_and_one_warning_says_so(
    nothing_kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda_library, "nvcc", lambda: None)
    with caplog.at_level(logging.WARNING):
        assert cuda_library.library() is None
        assert cuda_library.library() is None
    (record,) = caplog.records
    assert record.getMessage() == (
        "there are no kernels in CUDA C++, torch computes instead: nvcc is not installed; "
        "`pip install 'aweigh[csrc]'` has one"
    )


def test_a_compiler_that_fails_is_quoted(
    nothing_kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = nothing_kept / "nvcc"
    compiler.write_text("#!/bin/sh\necho warning: old; echo x.cu: error: no g++; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{nothing_kept}:{os.environ['PATH']}")
    with pytest.raises(NotCompiled, match=r"nvcc: x\.cu: error: no g\+\+$"):
        cuda_library.file()
    assert not list((nothing_kept / "cache" / "aweigh" / "kernels").iterdir())


def test_what_is_compiled_once_is_kept_until_the_sources_change(
    nothing_kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, sources = nothing_kept / "nvcc", nothing_kept / "csrc"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; echo x >> "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{nothing_kept}:{os.environ['PATH']}")
    sources.mkdir()
    (sources / "one.cu").write_text("first")
    monkeypatch.setattr(cuda_library, "sources", lambda: sources)
    first = cuda_library.file()
    assert cuda_library.file() == first
    assert first.read_text() == "x\n"
    (sources / "one.cu").write_text("second")
    assert cuda_library.file() != first
    assert first.exists()  # for a process of another checkout
