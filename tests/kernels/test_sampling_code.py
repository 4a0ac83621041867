"""What the GPU kernels of sampling become on GPUs that are not here."""

import pytest

from aweigh_kernels.gpu import sampling
from aweigh_kernels.sampling_gpu import (
    DECIDE_SHARED_BYTES,
    DECIDE_WARPS,
    SPREAD_WARPS,
    SUMMARIZE_REGISTERS,
    SUMMARIZE_WARPS,
)
from tests.kernels.architectures import ARCHITECTURES
from tests.kernels.machine_code import MachineCode, compiled

TYPES = {
    "logits": "*fp32",
    "settings": "*i64",
    "maxima": "*fp32",
    "sums": "*i64",
    "order": "*i32",
    "listed": "*i64",
    "tokens": "*i64",
    "largest": "*fp32",
    "size": "i32",
    "chunks": "i32",
}


def code(name: str, architecture: int, num_warps: int) -> MachineCode:
    kernel = getattr(sampling, name)
    types = {each: TYPES[each] for each in kernel.arg_names if each in TYPES}
    constants = {"GROUPS_UP": 1024, "SUMMED": True, "EARLY": architecture >= 90}
    own = {each: value for each, value in constants.items() if each in kernel.arg_names}
    return compiled(kernel, architecture, types, own, ["size"], num_warps=num_warps, num_stages=3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_pass_over_all_logits_has_eight_loads_of_16_bytes_on_their_way(
    architecture: int,
) -> None:
    found = code("summarize", architecture, SUMMARIZE_WARPS)
    assert found.count(r"LDG\.E\.128") == 8
    assert found.stack_bytes == 0
    assert found.registers <= SUMMARIZE_REGISTERS
    assert bool(found.count("ACQBULK")) == (architecture >= 90)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_race_of_all_tokens_stays_in_registers(architecture: int) -> None:
    found = code("spread", architecture, SPREAD_WARPS)
    assert found.stack_bytes == 0
    each = sampling.CHUNK.value // (32 * SPREAD_WARPS)  # tokens of a thread
    assert found.count(r"LDG\.E\.128") >= each // 4
    assert found.count("MUFU.EX2") >= each


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_deciding_stays_in_registers(architecture: int) -> None:
    found = code("decide", architecture, DECIDE_WARPS)
    assert found.stack_bytes == 0
    assert found.shared_bytes <= DECIDE_SHARED_BYTES
