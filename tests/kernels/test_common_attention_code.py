"""What the GPU kernels for requests that begin alike become on GPUs that are not here."""

import pytest
import triton

from aweigh_kernels import common_attention_gpu
from aweigh_kernels.gpu.common_attention import attend_common
from aweigh_kernels.gpu.paged_join import join_common
from tests.kernels.architectures import ARCHITECTURES, SHARED_BYTES, gpu
from tests.kernels.machine_code import MachineCode, compiled

UNITS = ("tokens_each", "most_units", "room")


def common(architecture: int, kept: str, *, size: int = 128, capped: bool = False) -> MachineCode:
    pointers = {"query": "*bf16", "kv": f"*{kept}", "partial": "*fp32", "logs": "*fp32"}
    of_requests = ("firsts", "counts", "common", "members", "units", "table")
    pointers |= dict.fromkeys(of_requests, "*i32")
    numbers = dict.fromkeys(("query_stride", "table_stride", *UNITS), "i32")
    numbers |= dict.fromkeys(("scale", "value_scale", "soft_cap"), "fp32")
    chosen = common_attention_gpu.schedule(size, gpu(architecture))
    constants = {
        "HEADS": 32,
        "KV_HEADS": 8,
        "SIZE": size,
        "SIZE_UP": triton.next_power_of_2(size),
        "ROWS": chosen.rows,
        "UNITS": 16,
        "BLOCK": 16,
        "TILE": chosen.tile,
        "CAPPED": capped,
        "EARLY": architecture >= 90,
    }
    return compiled(
        attend_common,
        architecture,
        pointers | numbers,
        constants,
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("kept", "size", "capped"),
    [
        ("bf16", 128, False),
        ("bf16", 64, False),
        ("bf16", 256, True),
        ("bf16", 80, False),
        ("fp8e4nv", 128, False),
    ],
)
def test_units_are_multiplied_by_tensor_cores_without_spilling(
    architecture: int, kept: str, size: int, capped: bool
) -> None:
    if kept == "fp8e4nv" and architecture < 89:
        pytest.skip("it does not convert such numbers")
    code = common(architecture, kept, size=size, capped=capped)
    assert code.count("HMMA") or code.count("HGMMA") or code.count("UTCHMMA")
    # Numbers of 8 bits are widened in registers there, and a few are missing.
    assert code.stack_bytes <= (16 if kept == "fp8e4nv" and architecture == 89 else 0)
    assert code.registers <= 255
    assert code.shared_bytes <= SHARED_BYTES[architecture]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parts_of_both_kernels_are_joined_without_spilling(architecture: int) -> None:
    pointers = {"output": "*bf16"}
    floats = ("partial", "logs", "common_partial", "common_logs")
    pointers |= dict.fromkeys(floats, "*fp32")
    of_requests = ("firsts", "counts", "seen", "common", "ends", "places", "units")
    pointers |= dict.fromkeys(of_requests, "*i32")
    numbers = dict.fromkeys(("num_requests", "shares", *UNITS, "programs"), "i32")
    constants = {"HEADS": 32, "KV_HEADS": 8, "SIZE": 128, "SIZE_UP": 128, "ROWS": 16}
    constants |= {"TILE": 64, "PARTS": 16, "EARLY": architecture >= 90}
    constants |= {"COMMON_ROWS": 128, "COMMON_TILE": 64, "UNITS": 16}
    types = pointers | numbers
    code = compiled(join_common, architecture, types, constants, num_warps=2, num_stages=3)
    assert code.stack_bytes == 0
