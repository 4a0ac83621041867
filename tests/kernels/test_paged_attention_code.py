"""What the GPU kernels of attention become on GPUs that are not here."""

import pytest

from aweigh_kernels import paged_attention_gpu
from aweigh_kernels.gpu.paged_attention import attend_part, join
from tests.kernels.machine_code import ARCHITECTURES, MachineCode, compiled

ROWS = {1: 16, 9: 64}  # of Llama's four heads for each of keys, by new tokens


def part(architecture: int, kept: str, new: int, *, split: bool = True) -> MachineCode:
    pointers = {"query": "*bf16", "kv": f"*{kept}", "output": "*bf16"}
    pointers |= dict.fromkeys(("partial", "logs"), "*fp32" if split else "*bf16")
    pointers |= dict.fromkeys(("firsts", "counts", "seen", "table"), "*i32")
    numbers = dict.fromkeys(("query_stride", "table_stride", "parts"), "i32")
    numbers |= dict.fromkeys(("scale", "value_scale", "soft_cap"), "fp32") | {"window": "i32"}
    constants = {
        "HEADS": 32,
        "KV_HEADS": 8,
        "SIZE": 128,
        "SIZE_UP": 128,
        "ROWS": ROWS[new],
        "BLOCK": 16,
        "TILE": paged_attention_gpu._TILE,
        "SPLIT": split,
        "CAPPED": False,
        "WINDOWED": False,
    }
    warps = 2 if ROWS[new] <= paged_attention_gpu._FEW_ROWS else 4
    stages = paged_attention_gpu._STAGES
    return compiled(
        attend_part, architecture, pointers | numbers, constants, num_warps=warps, num_stages=stages
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("new", list(ROWS))
def test_tiles_come_asynchronously_and_tensor_cores_multiply(architecture: int, new: int) -> None:
    code = part(architecture, "bf16", new)
    assert code.count("LDGSTS") or code.count("UTMALDG")  # asynchronous copies
    assert code.count("HMMA") or code.count("HGMMA") or code.count("UTCHMMA")
    assert code.stack_bytes == 0
    assert code.registers <= 255
    assert code.shared_bytes <= 99 << 10  # what every one of them has


@pytest.mark.parametrize("architecture", [89, 90, 100])
def test_a_cache_of_8_bits_is_read_without_spilling(architecture: int) -> None:
    code = part(architecture, "fp8e4nv", 1)
    assert code.stack_bytes == 0
    assert code.count("HMMA") or code.count("HGMMA") or code.count("UTCHMMA")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parts_are_joined_without_spilling(architecture: int) -> None:
    pointers = {"output": "*bf16", "partial": "*fp32", "logs": "*fp32"}
    pointers |= {"firsts": "*i32", "counts": "*i32", "parts": "i32"}
    shape = {"HEADS": 32, "KV_HEADS": 8, "SIZE": 128, "SIZE_UP": 128, "ROWS": 16}
    shape["MOST_PARTS"] = paged_attention_gpu._MOST_PARTS
    code = compiled(join, architecture, pointers, shape, num_warps=2, num_stages=3)
    assert code.stack_bytes == 0
