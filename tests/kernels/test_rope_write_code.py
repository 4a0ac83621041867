"""What the GPU kernel of rotary embedding becomes on GPUs that are not here."""

import pytest

from aweigh_kernels.gpu.rope_write import turn_and_keep
from tests.kernels.architectures import ARCHITECTURES
from tests.kernels.machine_code import MachineCode, compiled


def code_of(architecture: int, kept: str, size: int) -> MachineCode:
    types = dict.fromkeys(("heads", "cos", "sin"), "*bf16") | {"kv": f"*{kept}", "slots": "*i64"}
    types |= dict.fromkeys(("key_scale", "value_scale"), "fp32")
    constants = {
        "HEADS": 32,
        "KV_HEADS": 8,
        "SIZE": 128,
        "HALF": size // 2,
        "HALF_UP": size // 2,
        "REST": 128 - size,
        "REST_UP": max(128 - size, 1),
        "TILE": 16,
        "FP8": kept != "bf16",
        "EARLY": architecture >= 90,
    }
    return compiled(
        turn_and_keep, architecture, types, constants, num_warps=size // 32, num_stages=3
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [128, 64])
def test_heads_stay_in_registers_and_move_16_bytes_at_a_time(architecture: int, size: int) -> None:
    code = code_of(architecture, "bf16", size)
    assert code.count(r"LDG\.E\.128") >= 2  # both halves
    assert code.count(r"STG\.E\.128") >= 4  # to where they were, and to the cache
    assert not code.count(r"(LDG|STG)\.E\.U16")
    assert code.stack_bytes == 0


@pytest.mark.parametrize("architecture", [89, 90, 100])
def test_a_cache_of_8_bits_is_written_without_spilling(architecture: int) -> None:
    code = code_of(architecture, "fp8e4nv", 128)
    assert code.stack_bytes == 0
    assert not code.count(r"STG\.E\.U8")
