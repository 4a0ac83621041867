"""What the GPU kernels of products with integers become on GPUs that are not here."""

import pytest

from aweigh_kernels.gpu.int_matmul import multiply, unpack
from aweigh_kernels.int_packing import Packed, pack
from aweigh_kernels.tile_schedule import schedule
from tests.kernels.architectures import ARCHITECTURES, PROCESSORS, SMALL_BLACKWELL, WARPGROUPS
from tests.kernels.machine_code import compiled
from tests.kernels.tile_code import (
    expect_resident,
    expect_unpacked_in_registers,
    multiplied_by,
)
from tests.kernels.weights import Draw

TENSORS = {"words": "*i32", "factors": "*i32"}
MOST_WORK = {  # instructions for a number
    (2, "bf16"): 1.2, (2, "fp16"): 1.2, (3, "bf16"): 1.4, (4, "bf16"): 1.5, (4, "fp16"): 1.2,
    (8, "bf16"): 2.3,
}  # fmt: skip


def packed(bits: int, group: int, architecture: int, shape: tuple[int, int]) -> Packed:
    """The kernel's constants depend on the shape alone: a few rows of the weight are packed."""
    weight = Draw().ints(64, shape[1], bits, group)
    few = pack(weight.q, weight.scale, None, bits, group, fours=architecture not in WARPGROUPS)
    return Packed(few.words, few.factors, shape, few.bits, few.group, few.fours)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, SMALL_BLACKWELL])
@pytest.mark.parametrize(
    ("bits", "group", "num_tokens", "shape", "kind"),
    [
        (4, 128, 1, (28_672, 4096), "bf16"),
        (4, 128, 64, (28_672, 4096), "fp16"),
        (4, 32, 20, (6144, 4096), "bf16"),
        (4, 128, 200, (28_672, 4096), "bf16"),
        (4, 64, 1, (2304, 9216 + 64), "bf16"),
        (8, 4096, 64, (6144, 4096), "bf16"),
        (2, 128, 1, (28_672, 4096), "bf16"),
        (2, 32, 64, (6144, 4096), "fp16"),
        (3, 128, 16, (6144, 4096), "bf16"),
        (3, 4096, 200, (28_672, 4096), "bf16"),
    ],
)
def test_integers_are_unpacked_where_tensor_cores_take_them(
    architecture: int, bits: int, group: int, num_tokens: int, shape: tuple[int, int], kind: str
) -> None:
    weight = packed(bits, group, architecture, shape)
    code, numbers = multiplied_by(
        multiply, architecture, weight, TENSORS, num_tokens, kind, unrolls=True
    )
    expect_unpacked_in_registers(code, architecture)
    if architecture == 90:
        loop = code.loop()
        work = sum(loop.count(each) for each in ("LOP3", "SHF", "HFMA2", "HADD2", "PRMT"))
        assert work <= MOST_WORK[bits, kind] * numbers + 24  # and addresses
        expect_resident(code, num_tokens, shape[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("bits", "kind"), [(2, "bf16"), (3, "fp16"), (4, "bf16"), (8, "fp16")])
def test_a_weight_is_made_dense_by_long_reads_and_writes(
    architecture: int, bits: int, kind: str
) -> None:
    weight = packed(bits, 128, architecture, (4096, 4096))
    types = TENSORS | {"output": f"*{kind}", "first": "i32"}
    code = compiled(unpack, architecture, types, weight.constants | {"PAIRS": True}, num_warps=4)
    assert code.stack_bytes == 0
    for wide in ("LDG.E.128", "STG.E.128"):
        assert code.count(wide)


def test_programs_share_rows_only_to_fill_a_gpu() -> None:
    weight = packed(4, 128, 90, (4096, 4096))
    for tokens in (1, 16, 17, 64, 65, 128, 256):
        chosen = schedule(tokens, weight, PROCESSORS)
        programs = 4096 // chosen.rows * -(-tokens // chosen.tokens) * chosen.splits
        assert programs <= 3 * PROCESSORS
        assert programs * 2 > PROCESSORS or tokens > 64
    large = packed(4, 128, 90, (57_344, 8192))
    assert {schedule(tokens, large, PROCESSORS).splits for tokens in (1, 64, 256)} == {1}
