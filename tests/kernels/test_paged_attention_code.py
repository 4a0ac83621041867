"""What the GPU kernels of attention become on GPUs that are not here."""

from dataclasses import replace

import pytest
import torch
import triton

from aweigh_kernels import paged_attention_gpu
from aweigh_kernels.gpu.paged_attention import attend_share
from aweigh_kernels.gpu.paged_join import join
from aweigh_kernels.gpus import LEAST_SHARED_BYTES
from aweigh_kernels.paged_attention_gpu import SPILLED_BYTES, WIDE_BYTES
from tests.kernels.architectures import ARCHITECTURES, gpu
from tests.kernels.machine_code import MachineCode, compiled

ROWS = {1: 16, 5: 32, 9: 64}  # of Llama's four heads for each of keys, by new tokens


def share(
    architecture: int,
    kept: str,
    new: int,
    *,
    size: int = 128,
    dtype: torch.dtype = torch.bfloat16,
    windowed: bool = False,
    requests: int = 16,
    lines: int = 1000,
    common: bool = False,
) -> MachineCode:
    own = "*fp32" if dtype == torch.float32 else "*bf16"
    paired = kept == "fp8e4nv"
    pointers = {"query": own, "kv": "*i16" if paired else f"*{kept}", "output": own}
    pointers |= dict.fromkeys(("partial", "logs"), "*fp32")
    pointers |= dict.fromkeys(("firsts", "counts", "seen", "common", "ends", "table"), "*i32")
    numbers = dict.fromkeys(("query_stride", "table_stride", "num_requests", "shares"), "i32")
    numbers |= dict.fromkeys(("scale", "value_scale", "soft_cap"), "fp32") | {"window": "i32"}
    size_up = triton.next_power_of_2(size)
    position_bytes = 2 * size_up * (1 if paired else dtype.itemsize)
    room = replace(gpu(80), shared_bytes=WIDE_BYTES if lines < 1000 else LEAST_SHARED_BYTES)
    chosen = paged_attention_gpu.schedule(ROWS[new], position_bytes, lines, room)
    constants = {
        "HEADS": 32,
        "KV_HEADS": 8,
        "SIZE": size,
        "SIZE_UP": size_up,
        "ROWS": ROWS[new],
        "REQUESTS": requests,
        "BLOCK": 16,
        "TILE": chosen.tile,
        "CAPPED": windowed,
        "WINDOWED": windowed,
        "COMMON": common,
        "PAIRED": paired,
        "EARLY": architecture >= 90,
    }
    return compiled(
        attend_share,
        architecture,
        pointers | numbers,
        constants,
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("new", list(ROWS))
def test_tiles_come_asynchronously_and_tensor_cores_multiply(architecture: int, new: int) -> None:
    code = share(architecture, "bf16", new)
    assert code.count("LDGSTS") or code.count("UTMALDG")  # asynchronous copies
    assert code.count("HMMA") or code.count("HGMMA") or code.count("UTCHMMA")
    # Long drafts need a few registers more than there are; half of the programs would cost more.
    assert code.stack_bytes <= (SPILLED_BYTES if architecture != 90 and new > 5 else 0)
    assert code.shared_bytes <= LEAST_SHARED_BYTES


@pytest.mark.parametrize("architecture", [89, 90, 100])
def test_a_cache_of_8_bits_is_read_without_spilling(architecture: int) -> None:
    code = share(architecture, "fp8e4nv", 1)
    assert code.stack_bytes == 0
    assert code.count("HMMA") or code.count("HGMMA") or code.count("UTCHMMA")
    assert "LDS.U8" not in code.text  # tiles are loaded for tensor cores, two numbers at once
    assert code.shared_bytes <= LEAST_SHARED_BYTES


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
    assert code.shared_bytes <= LEAST_SHARED_BYTES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("by_share", [False, True])
def test_parts_are_joined_without_spilling(architecture: int, by_share: bool) -> None:
    pointers = {"output": "*bf16", "partial": "*fp32", "logs": "*fp32"}
    pointers |= dict.fromkeys(("firsts", "counts", "seen"), "*i32")
    pointers |= dict.fromkeys(("num_requests", "shares", "window"), "i32")
    constants = {"HEADS": 32, "KV_HEADS": 8, "SIZE": 128, "SIZE_UP": 128, "ROWS": 16}
    constants |= {"REQUESTS": 128, "TILE": 64, "WINDOWED": False}
    constants |= {"PARTS": paged_attention_gpu._PARTS, "BY_SHARE": by_share}
    constants["EARLY"] = architecture >= 90
    code = compiled(join, architecture, pointers, constants, num_warps=2, num_stages=3)
    assert code.stack_bytes == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("common", [False, True])
def test_a_thousand_requests_fit_into_registers(architecture: int, common: bool) -> None:
    assert share(architecture, "bf16", 1, requests=1024, common=common).stack_bytes == 0


@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize(("new", "lines"), [(1, 8), (5, 8), (1, 128)])
def test_few_requests_have_more_on_their_way_where_shared_memory_is_large(
    architecture: int, new: int, lines: int
) -> None:
    code = share(architecture, "bf16", new, lines=lines)
    assert code.stack_bytes == 0
    assert LEAST_SHARED_BYTES < code.shared_bytes <= WIDE_BYTES


def test_few_steps_compile_what_any_step_of_a_server_may_need() -> None:
    heads, position_bytes, large = (32, 8), 512, gpu(80)
    tried = paged_attention_gpu.kinds(heads, position_bytes, (256, 17), large)
    assert (1, 1) in tried
    assert len(tried) <= 20

    def needs(requests: int, tokens: int) -> object:
        rows = max(16, triton.next_power_of_2(4 * tokens))
        chosen = paged_attention_gpu.schedule(rows, position_bytes, requests * 8, large)
        return rows, chosen, paged_attention_gpu.requests_of(requests)

    compiled_for = {needs(*each) for each in tried}
    for requests in range(1, 257):
        for tokens in range(1, 18):
            assert needs(requests, tokens) in compiled_for
