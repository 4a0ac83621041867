"""What the kernels that round to NVFP4 become on GPUs that are not here."""

import re

import pytest

from aweigh_kernels.gpu.fp4_rounding import quantize_groups, round_groups
from tests.kernels.architectures import ARCHITECTURES
from tests.kernels.machine_code import MachineCode, compiled

NUMBERS = 16  # of a thread
MOST_WORK = 20  # instructions for a number: at 4.3 TB/s a multiprocessor has time for 18
FIXED = {"BLOCK": 128, "FUSED": True}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("swizzled", [False, True])
def test_a_thread_quantizes_a_group_by_itself(architecture: int, swizzled: bool) -> None:
    types = {"x": "*bf16", "global_scale": "*fp64", "codes": "*i32", "scales": "*u8"}
    constants = {"COLUMNS": 256, "SWIZZLED": swizzled, "EARLY": architecture >= 90, **FIXED}
    code = compiled(
        quantize_groups, architecture, types | {"num_groups": "i32"}, constants, num_warps=4
    )
    expect_alone(code)
    assert code.count("STG.E.64")
    if architecture == 90 and not swizzled:
        assert straight(code) <= MOST_WORK * NUMBERS


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_a_thread_rounds_a_group_by_itself(architecture: int, kind: str) -> None:
    types = {"x": f"*{kind}", "global_scale": "*fp64", "output": f"*{kind}", "num_groups": "i32"}
    code = compiled(
        round_groups, architecture, types, {"EARLY": architecture >= 90, **FIXED}, num_warps=4
    )
    expect_alone(code)
    assert code.count("STG.E.128") == 2


def expect_alone(code: MachineCode) -> None:
    """Long reads, and no numbers that move between threads."""
    assert code.count("LDG.E.128") == 2
    assert code.stack_bytes == 0
    for moves in ("SHFL", "LDS", "STS"):
        assert not code.count(moves), moves


def straight(code: MachineCode) -> int:
    """Instructions before the end: behind it are quotients that are out of the ordinary."""
    lines = re.findall(r"/\*[0-9a-f]{4,}\*/ +(.*?);", code.text)
    return max(place for place, said in enumerate(lines) if "EXIT" in said)
