"""What the GPU kernels of attention become on GPUs that are not here."""

import pytest
import torch
import triton

from aweigh_kernels import paged_attention_gpu
from aweigh_kernels.gpu.paged_attention import attend_share, join
from tests.kernels.machine_code import ARCHITECTURES, MachineCode, compiled

ROWS = {1: 16, 9: 64}  # of Llama's four heads for each of keys, by new tokens


def share(
    architecture: int,
    kept: str,
    new: int,
    *,
    size: int = 128,
    dtype: torch.dtype = torch.bfloat16,
    windowed: bool = False,
    requests: int = 16,
) -> MachineCode:
    own = "*fp32" if dtype == torch.float32 else "*bf16"
    paired = kept == "fp8e4nv"
    pointers = {"query": own, "kv": "*i16" if paired else f"*{kept}", "output": own}
    pointers |= dict.fromkeys(("partial", "logs"), "*fp32")
    pointers |= dict.fromkeys(("firsts", "counts", "seen", "table"), "*i32")
    numbers = dict.fromkeys(("query_stride", "table_stride", "num_requests", "shares"), "i32")
    numbers |= dict.fromkeys(("scale", "value_scale", "soft_cap"), "fp32") | {"window": "i32"}
    constants = {
        "HEADS": 32,
        "KV_HEADS": 8,
        "SIZE": size,
        "SIZE_UP": triton.next_power_of_2(size),
        "ROWS": ROWS[new],
        "REQUESTS": requests,
        "BLOCK": 16,
        "TILE": paged_attention_gpu.tile_of(size, dtype),
        "LEAST": 4,
        "CAPPED": windowed,
        "WINDOWED": windowed,
        "PAIRED": paired,
        "EARLY": architecture >= 90,
    }
    kept_as = torch.float8_e4m3fn if kept == "fp8e4nv" else dtype
    warps = paged_attention_gpu.warps_of(ROWS[new], kept_as)
    stages = paged_attention_gpu.stages_of(ROWS[new])
    return compiled(
        attend_share,
        architecture,
        pointers | numbers,
        constants,
        num_warps=warps,
        num_stages=stages,
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("new", list(ROWS))
def test_tiles_come_asynchronously_and_tensor_cores_multiply(architecture: int, new: int) -> None:
    code = share(architecture, "bf16", new)
    assert code.count("LDGSTS") or code.count("UTMALDG")  # asynchronous copies
    assert code.count("HMMA") or code.count("HGMMA") or code.count("UTCHMMA")
    assert code.stack_bytes <= (16 if architecture < 90 and new > 1 else 0)
    assert code.registers <= 255
    assert code.shared_bytes <= 99 << 10  # what every one of them has


@pytest.mark.parametrize("architecture", [89, 90, 100])
def test_a_cache_of_8_bits_is_read_without_spilling(architecture: int) -> None:
    code = share(architecture, "fp8e4nv", 1)
    assert code.stack_bytes == 0
    assert code.count("HMMA") or code.count("HGMMA") or code.count("UTCHMMA")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("size", "dtype", "new", "windowed"),
    [
        (256, torch.bfloat16, 1, True),
        (256, torch.bfloat16, 9, False),
        (128, torch.float32, 1, False),
        (80, torch.bfloat16, 1, False),
    ],
)
def test_wide_heads_and_numbers_fit_into_every_gpu(
    architecture: int, size: int, dtype: torch.dtype, new: int, windowed: bool
) -> None:
    kept = "fp32" if dtype == torch.float32 else "bf16"
    code = share(architecture, kept, new, size=size, dtype=dtype, windowed=windowed)
    assert code.shared_bytes <= 99 << 10


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("by_share", [False, True])
def test_parts_are_joined_without_spilling(architecture: int, by_share: bool) -> None:
    pointers = {"output": "*bf16", "partial": "*fp32", "logs": "*fp32"}
    pointers |= dict.fromkeys(("firsts", "counts", "seen"), "*i32")
    pointers |= dict.fromkeys(("num_requests", "shares", "window"), "i32")
    constants = {"HEADS": 32, "KV_HEADS": 8, "SIZE": 128, "SIZE_UP": 128, "ROWS": 16}
    constants |= {"REQUESTS": 128, "TILE": 64, "LEAST": 4, "WINDOWED": False}
    constants |= {"PARTS": paged_attention_gpu._PARTS, "BY_SHARE": by_share}
    constants["EARLY"] = architecture >= 90
    code = compiled(join, architecture, pointers, constants, num_warps=2, num_stages=3)
    assert code.stack_bytes == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_thousand_requests_fit_into_registers(architecture: int) -> None:
    assert share(architecture, "bf16", 1, requests=1024).stack_bytes == 0
