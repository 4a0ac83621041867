"""The library of kernels in CUDA C++: how it comes to be, and what becomes of it on each GPU."""

import ctypes
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aweigh_kernels import cuda_int_matmul, cuda_library
from aweigh_kernels.compiled import NotCompiled
from aweigh_kernels.cuda_int_matmul import ROWS, Schedule
from aweigh_kernels.cuda_library import ARCHITECTURES
from tests.kernels.machine_code import MachineCode, of_library

MOST_WORK = {  # of a number that is kept, by kind, bits, bf16
    ("SparseInt", 4, 0): 1.25, ("SparseInt", 4, 1): 1.5, ("SparseInt", 8, 0): 1.25,
    ("SparseInt", 8, 1): 1.75, ("Int", 4, 0): 1.25, ("Int", 4, 1): 1.5, ("Int", 8, 0): 1.5,
    ("Int", 8, 1): 2.5, ("Many", 4, 0): 1.7, ("Many", 4, 1): 2.0,
    ("Many", 8, 0): 2.0, ("Many", 8, 1): 3.0,
}  # fmt: skip
KIND = re.compile(r"\d(SparseInt|Int)ILi(\d)EEELb(\d)ELi(\d)ELi(\d)E")
MANY = re.compile(r"hopper_int_multiply.*TileILi(\d)ELi\dELi(\d)ELi(\d+)ELi\dEEELb(\d)E")


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
def test_tensor_cores_multiply_what_comes_by_asynchronous_copies(
    built: Path, architecture: str
) -> None:
    codes = of_library(built, architecture)
    assert (len(codes), sum("unpack" in name for name in codes)) == (4 * 7 + 4 * 1 + 4 * 5, 4)
    for name, code in codes.items():
        assert code.stack_bytes == 0, name
        if found := KIND.search(name):
            kind, (bits, wide, tiles, warps) = found[1], map(int, found.groups()[1:])
            kept = expect_multiply(code, kind, bits, wide, Schedule(tiles, warps, 1))
            assert bool(code.count("ACQBULK")) == (architecture != "80")
            if architecture == "90a" and tiles == 1:
                work = sum(
                    code.loop("HMMA").count(each) for each in ("LOP3", "SHF", "HFMA2", "HADD2")
                )
                assert work <= MOST_WORK[kind, bits, wide] * kept / 32 + 32, name
        elif found := MANY.search(name):
            if architecture == "90a":
                expect_many(code, *map(int, found.groups()))
            else:
                assert not code.count("HMMA")  # nobody calls it
        else:
            assert code.count("STG.E.64")


def expect_multiply(code: MachineCode, kind: str, bits: int, wide: int, schedule: Schedule) -> int:
    """How many numbers a warp has in a step."""
    loop, units = code.loop("HMMA"), 2 if schedule.tiles == 8 else 1  # of a warp
    sparse, columns = kind == "SparseInt", 128 if kind == "SparseInt" else 512 // bits
    core = "HMMA.SP.16832.F32" if sparse else "HMMA.16816.F32"
    products = len(re.findall(re.escape(core + ".BF16" * wide) + r" R", loop.text))
    assert products == 2 * columns // (32 if sparse else 16) * schedule.tiles
    assert loop.count("LDSM") == columns // 32 * schedule.tiles // units
    kept = ROWS * columns // (2 if sparse else 1)
    pieces = kept * (bits + 2 * sparse) // 128 // 32
    assert len(re.findall(r"LDS\.128", loop.text)) == units * pieces
    assert loop.count("LDGSTS") >= pieces + 1
    for waits in ("STS", "STG", "LDG", "LDL", "SHFL"):
        assert not loop.count(waits), waits
    threads = schedule.resident * schedule.warps * 32
    assert code.registers * threads <= 65_536  # of a multiprocessor
    return kept


def expect_many(code: MachineCode, bits: int, own: int, tokens: int, wide: int) -> None:
    """Products of a step in two halves: while one is multiplied the other is unpacked.

    A warpgroup has `own` times 64 rows.
    """
    kind = "F32.BF16" if wide else "F32"
    core = re.escape(f"HGMMA.64x{tokens}x16.{kind} ") + r"R\d+, R(\d+), gdesc"
    text, wait = code.text, r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\d)"
    assert re.findall(wait, text) == ["1", "1", "0"]  # one half is always on its way
    first, _, second, *_ = re.split(wait, text)
    left = [set(re.findall(core, half)) for half in (first, second)]
    assert [len(each) for each in left] == [16 // bits * own] * 2
    assert not left[0] & left[1]  # registers of one half are not those of the other
    work = sum(second.count(each) for each in ("LOP3", "SHF", "HFMA2", "HADD2", "HMUL2"))
    assert work <= MOST_WORK["Many", bits, wide] * 128 // bits * own
    assert second.count("LDS") == own
    for waits in ("STS", "STG", "LDG", "LDL", "SHFL", "MEMBAR"):
        assert not second.count(waits), waits
    assert code.count("UTMALDG.2D.MULTICAST") == 8 // bits
    assert code.registers * 3 * 128 <= 65_536  # two that multiply, and one that copies


_AFTER = ("NOTHING", "GATE_SILU", "GATE_GELU", "TURN")


def test_python_and_cuda_agree_on_what_they_hand_over() -> None:
    text = (cuda_library.sources() / "arguments.cuh").read_text()
    (said,) = re.findall(r"struct Arguments \{(.*?)\};", text, re.DOTALL)
    lines = re.findall(r"^ *((?:const )?\w+) ([*\w, ]+);", said, re.MULTILINE)
    names = [name.strip("* ") for _, several in lines for name in several.split(",")]
    fields = cuda_int_matmul.Arguments._fields_
    assert names == [name for name, *_ in fields]
    kinds = [
        ctypes.c_void_p if "*" in several else {"int": ctypes.c_int, "float": ctypes.c_float}[kind]
        for kind, several in lines
        for _ in several.split(",")
    ]
    assert kinds == [kind for _, kind, *_ in fields]
    (after,) = re.findall(r"enum After \{ (.*?) \}", text)
    gates, turn = cuda_int_matmul.GATES, cuda_int_matmul.TURN
    numbers = [0, gates["silu"], gates["gelu_pytorch_tanh"], turn]
    assert [after.split(", ").index(name) for name in _AFTER] == numbers


def test_without_nvcc_there_are_no_such_kernels_and_one_warning_says_so(
    nothing_kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda_library, "nvcc", lambda: None)
    with caplog.at_level(logging.WARNING):
        assert cuda_library.library() is None
        assert cuda_library.library() is None
    (record,) = caplog.records
    assert record.getMessage() == (
        "there are no kernels in CUDA C++, others compute instead: nvcc is not installed; "
        "`pip install 'aweigh[csrc]'` has one"
    )


@pytest.mark.parametrize("pinned", [True, False])
def test_the_pinned_nvcc_comes_before_that_on_path(tmp_path: Path, pinned: bool) -> None:
    of_packages = put_nvcc(tmp_path / "nvidia" / "cu13" / "bin") if pinned else None
    on_path = put_nvcc(tmp_path / "bin")
    source = Path(cuda_library.__file__).parents[1]
    ask = "from aweigh_kernels.cuda_library import nvcc; print(nvcc())"
    done = subprocess.run(
        [sys.executable, "-S", "-c", ask],  # which sees no other packages
        env={"PYTHONPATH": f"{source}:{tmp_path}", "PATH": str(on_path.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(of_packages or on_path)


def test_a_compiler_that_fails_is_quoted(
    nothing_kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_nvcc(
        nothing_kept / "nvidia" / "cu13" / "bin",
        "echo warning: old; echo x.cu: error: no g++; exit 1",
    )
    monkeypatch.syspath_prepend(nothing_kept)
    with pytest.raises(NotCompiled, match=r"nvcc: x\.cu: error: no g\+\+$"):
        cuda_library.file()
    assert not list((nothing_kept / "cache" / "aweigh" / "kernels").iterdir())


def test_what_is_compiled_once_is_kept_until_the_sources_change(
    nothing_kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = 'while [ "$1" != -o ]; do shift; done; echo x >> "$2"'
    put_nvcc(nothing_kept / "nvidia" / "cu13" / "bin", write)
    monkeypatch.syspath_prepend(nothing_kept)
    sources = nothing_kept / "csrc"
    sources.mkdir()
    (sources / "one.cu").write_text("first")
    monkeypatch.setattr(cuda_library, "sources", lambda: sources)
    first = cuda_library.file()
    assert cuda_library.file() == first
    assert first.read_text() == "x\n"
    (sources / "one.cu").write_text("second")
    assert cuda_library.file() != first
    assert first.exists()  # for a process of another checkout


def put_nvcc(folder: Path, script: str = "") -> Path:
    folder.mkdir(parents=True)
    compiler = folder / "nvcc"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    return compiler
