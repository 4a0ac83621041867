"""What the GPU kernels of products with NVFP4 become on GPUs that are not here."""

import pytest
import torch

from aweigh_kernels.fp4_packing import Fp4Packed, pack
from aweigh_kernels.gpu.fp4_matmul import multiply, unpack
from tests.kernels.architectures import ARCHITECTURES, SMALL_BLACKWELL, WARPGROUPS
from tests.kernels.machine_code import compiled
from tests.kernels.tile_code import (
    expect_resident,
    expect_unpacked_in_registers,
    multiplied_by,
)
from tests.kernels.weights import Draw

TENSORS = {"words": "*i32", "scales": "*i32", "factors": "*fp32"}
MOST_WORK = {"bf16": 2.4, "fp16": 2.5}  # instructions for a number
KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def packed(shape: tuple[int, int], kind: str, architecture: int) -> Fp4Packed:
    """The kernel's constants depend on the shape alone: a few rows of the weight are packed."""
    weight = Draw().fp4(64, shape[1])
    fours = architecture not in WARPGROUPS
    few = pack(weight.q, weight.scale, weight.global_scale, KINDS[kind], fours=fours)
    return Fp4Packed(few.words, few.scales, few.factors, shape, few.dtype, fours)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, SMALL_BLACKWELL])
@pytest.mark.parametrize(
    ("num_tokens", "shape", "kind"),
    [
        (1, (28_672, 4096), "bf16"),
        (16, (6144, 4096 + 64), "fp16"),
        (64, (28_672, 4096), "bf16"),
        (200, (28_672, 4096), "bf16"),
    ],
)
def test_codes_are_unpacked_where_tensor_cores_take_them(
    architecture: int, num_tokens: int, shape: tuple[int, int], kind: str
) -> None:
    weight = packed(shape, kind, architecture)
    code, numbers = multiplied_by(multiply, architecture, weight, TENSORS, num_tokens, kind)
    expect_unpacked_in_registers(code, architecture)
    if architecture == 90:
        loop = code.loop()
        work = sum(loop.count(each) for each in ("LOP3", "SHF", "HFMA2", "HMUL2", "PRMT", "IMAD"))
        assert work <= MOST_WORK[kind] * numbers + 24  # and addresses
        expect_resident(code, num_tokens, shape[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_weight_is_made_dense_by_long_reads_and_writes(architecture: int, kind: str) -> None:
    weight = packed((4096, 4096), kind, architecture)
    types = TENSORS | {"output": f"*{kind}", "first": "i32"}
    code = compiled(unpack, architecture, types, weight.constants | {"PAIRS": True}, num_warps=4)
    assert code.stack_bytes == 0
    for wide in ("LDG.E.128", "STG.E.128"):
        assert code.count(wide)
