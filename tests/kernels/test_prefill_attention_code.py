"""What the GPU kernels of prompts' attention become on GPUs that are not here."""

from math import gcd

import pytest
import triton

from aweigh_kernels import prefill_attention_gpu
from aweigh_kernels.gpu.prefill_attention import attend_tile
from aweigh_kernels.gpu.prefill_attention_hopper import (
    COLUMNS,
    POSITIONS,
    SHARED_BYTES,
    SPILLED_BYTES,
    SWIZZLED,
    attend_items,
)
from aweigh_kernels.gpus import LEAST_SHARED_BYTES
from tests.kernels.architectures import ARCHITECTURES
from tests.kernels.machine_code import MachineCode, compiled

MULTIPLIES = {80: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}


def tile(
    architecture: int, *, size: int = 128, kept: str = "bf16", windowed_and_capped: bool = False
) -> MachineCode:
    pointers = {"query": "*bf16", "kv": f"*{kept}", "output": "*bf16"}
    pointers |= {"tiles": "*i32", "table": "*i32"}
    numbers = dict.fromkeys(("query_stride", "table_stride", "window"), "i32")
    numbers |= dict.fromkeys(("scale", "value_scale", "soft_cap"), "fp32")
    demanding = (windowed_and_capped or kept != "bf16") and architecture < 90
    constants = {
        "HEADS": 32,
        "KV_HEADS": 8,
        "SIZE": size,
        "SIZE_UP": triton.next_power_of_2(size),
        "ROWS": prefill_attention_gpu.rows_of(size),
        "BLOCK": 16,
        "TILE": prefill_attention_gpu.positions_of(size, many_registers=demanding),
        "CAPPED": windowed_and_capped,
        "WINDOWED": windowed_and_capped,
    }
    return compiled(
        attend_tile, architecture, pointers | numbers, constants, num_warps=8, num_stages=2
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("size", "windowed_and_capped"),
    [(64, True), (80, False), (128, False), (128, True), (256, True)],
)
def test_tensor_cores_multiply_what_is_copied_asynchronously_and_nothing_is_spilled(
    architecture: int, size: int, windowed_and_capped: bool
) -> None:
    code = tile(architecture, size=size, windowed_and_capped=windowed_and_capped)
    assert code.count(MULTIPLIES[architecture])
    assert code.count("LDGSTS")
    # Triton leaves 128 registers there: a few addresses do not fit.
    assert code.stack_bytes <= (16 if architecture == 100 else 0)
    assert code.shared_bytes <= LEAST_SHARED_BYTES


@pytest.mark.parametrize("architecture", [89, 90, 100])
def test_a_cache_of_8_bits_is_read_without_spilling(architecture: int) -> None:
    code = tile(architecture, kept="fp8e4nv")
    assert code.count(MULTIPLIES[architecture])
    assert code.stack_bytes == 0


def items(*, size: int = 128, block: int = 16, windowed_and_capped: bool = False) -> MachineCode:
    box = f"{gcd(block, POSITIONS)}, {COLUMNS}"
    types = {"pages": f"tensordesc<bf16[{box}],{SWIZZLED!r}>"}
    types |= {"query": "*bf16", "output": "*bf16", "tiles": "*i32", "table": "*i32"}
    types |= dict.fromkeys(("num_items", "query_stride", "table_stride", "window"), "i32")
    types |= dict.fromkeys(("scale", "value_scale", "soft_cap"), "fp32")
    constants = {"HEADS": 32, "KV_HEADS": 8, "SIZE": size, "BLOCK": block}
    constants |= dict.fromkeys(("CAPPED", "WINDOWED"), windowed_and_capped)
    multiples = ("query_stride",)  # or queries could not be copied asynchronously
    return compiled(attend_items, 90, types, constants, multiples, num_warps=4)


@pytest.mark.parametrize(
    ("size", "block", "windowed_and_capped"),
    [(64, 16, False), (128, 16, False), (128, 128, False), (128, 16, True)],
)
def test_on_hopper_warps_that_copy_leave_their_registers_to_those_that_multiply(
    size: int, block: int, windowed_and_capped: bool
) -> None:
    code = items(size=size, block=block, windowed_and_capped=windowed_and_capped)
    copies_of_a_tile = 2 * POSITIONS // gcd(block, POSITIONS) * size // COLUMNS
    assert code.count("UTMALDG") == copies_of_a_tile  # by the copy engine
    assert code.count("USETMAXREG")
    assert code.count("HGMMA")
    assert not code.count("HMMA")
    assert code.count("LDGSTS")  # queries
    assert code.stack_bytes <= SPILLED_BYTES[size]
    products = size // 16 + POSITIONS // 16  # of a tile of keys, and of values
    over_tiles = [loop for loop in code.loops() if loop.count("HGMMA") == products]
    assert over_tiles
    assert not any("LDL" in loop or "STL" in loop for loop in over_tiles)
    assert code.shared_bytes <= SHARED_BYTES


def test_on_hopper_products_overlap_with_weighing() -> None:
    """The compiler prefers to wait for the values' product first."""
    after_scores = items().text.split("WARPGROUP.DEPBAR.LE gsb0, 0x1")
    between = [text.split("WARPGROUP.DEPBAR.LE gsb0, 0x0")[0] for text in after_scores[1:]]
    assert len(between) == 4  # a masked loop and one that is not, of two groups of warps
    assert [text.count("MUFU.EX2") >= 60 for text in between].count(True) == 2
