"""What is made of the words of compute-sanitizer; a script plays it."""

import os
import sys
from pathlib import Path

import pytest

from tests.kernels import sanitizer
from tests.kernels.sanitized import RAN, kernels
from tests.kernels.sanitizer import findings
from tests.runtime.serving import wait_for

READ = """\
========= Invalid __global__ read of size 2 bytes
=========     at attend_share+0x1230 in paged_attention.py:142
=========     by thread (3,0,0) in block (1,0,0)
=========     Address 0x7f7a4e000100 is out of bounds
"""
RACE = """\
========= Error: Race reported between Write access at decide+0x50 in sampling.py:13
=========     and Read access at decide+0xa0 in sampling.py:14 [2048 hazards]
=========
"""
OLDER = """\
========= Uninitialized __global__ memory read of size 4 bytes
=========     at 0x88 in /x/skinny_matmul.py:41:multiply
=========
"""
OF_CUDA = """\
========= Race reported between Read access at int_multiply+0x90 in int_matmul.cu:9
========= Invalid __shared__ write of size 16 bytes
=========     at void aweigh::<unnamed>::sparse_int_unpack<(int)4, (bool)1>(aweigh::Arguments)+0x50
"""
OF_TORCH = """\
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void at::native::elementwise_kernel<128>(int, join)+0x250 in Loops.cuh:41
=========     by thread (16,0,0) in block (0,0,0)
=========
========= Host API uninitialized memory access by cudaMemcpy source
"""
IN_STRAY = """\
========= Uninitialized __global__ memory read of size 4 bytes
=========     at stray+0x70
"""
NAMES = {name.rpartition(".")[2] for name in kernels()}


def test_only_what_is_said_of_our_kernels_counts() -> None:
    found = findings(READ + OF_TORCH + RACE + OLDER, NAMES)
    assert [each.splitlines()[0].strip() for each in found] == [
        "Invalid __global__ read of size 2 bytes",
        "Error: Race reported between Write access at decide+0x50 in sampling.py:13",
        "Uninitialized __global__ memory read of size 4 bytes",
    ]
    assert "paged_attention.py:142" in found[0]
    assert len(findings(OF_CUDA, NAMES)) == 2
    assert findings(OF_TORCH, NAMES) == []


def test_what_is_watched_is_what_python_launches() -> None:
    assert {name.rpartition(".")[2] for name in kernels()} == {
        *("attend_common", "attend_share", "join", "join_common"),
        *("attend_tile", "attend_items", "normalize", "normalize_rounded"),
        *("turn_by", "turn_and_keep"),
        *("multiply", "multiply_gated", "multiply_turned", "unpack"),
        *("multiply_few", "multiply_few_gated", "multiply_few_turned", "multiply_many", "widen"),
        *("choose", "group", "add_weighted"),
        *("multiply_dense", "multiply_ints", "multiply_bytes"),
        *("round_as_given", "round_by_token", "round_by_largest", "round_by_group"),
        *("round_groups", "quantize_groups"),
        *("summarize", "spread", "decide"),
        *("follow", "weigh"),  # and another `choose`
        *("int_multiply", "sparse_int_unpack", "hopper_int_multiply"),
    }


ALL_RAN = f"{RAN} {' '.join(kernels())}\n========= ERROR SUMMARY: 0 errors\n"


@pytest.mark.parametrize(
    ("clean", "wrong", "code", "said"),
    [
        (ALL_RAN + OF_TORCH, IN_STRAY, 0, "racecheck sampling"),
        (ALL_RAN + RACE, IN_STRAY, 1, "Write access at decide"),
        (ALL_RAN, "", 1, "found nothing in a wrong kernel"),
        ("Segmentation fault\n", IN_STRAY, 1, "stopped before its end: Segmentation fault"),
        (ALL_RAN.replace("rms_norm.normalize", ""), IN_STRAY, 1, "never saw rms_norm.normalize"),
    ],
)
def test_any_finding_fails_and_so_does_a_tool_that_finds_nothing(
    clean: str,
    wrong: str,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, text in (("clean", clean), ("stray", wrong)):
        (tmp_path / name).write_text(text)
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        f"#!/bin/sh\ncase $* in *stray) cat {tmp_path}/stray;; *) cat {tmp_path}/clean;; esac\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "argv", ["sanitizer"])

    assert sanitizer.main() == code

    assert said in " ".join(capsys.readouterr().out.split())


def test_a_tool_that_does_not_end_is_ended_with_what_it_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\nsleep 60 &\necho $!\nwait\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    stuck = sanitizer.run("memcheck", "rows", 49152, 1.0)

    assert stuck.wrong() == [f"not done within 1 s: {stuck.output.strip()}"]
    watched = Path(f"/proc/{stuck.output.strip()}/cmdline")
    wait_for(lambda: not watched.exists() or not watched.read_bytes())  # gone, or a zombie
