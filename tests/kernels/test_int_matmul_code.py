"""What the GPU kernels of products with integers become on GPUs that are not here."""

import pytest

from aweigh_kernels.gpu.int_matmul import multiply, unpack
from aweigh_kernels.int_matmul import schedule
from aweigh_kernels.int_packing import Packed, pack
from tests.kernels.machine_code import ARCHITECTURES, SMALL_BLACKWELL, MachineCode, compiled
from tests.kernels.weights import Draw

PROCESSORS = 132
MOST_WORK = {  # instructions for a number
    (2, "bf16"): 1.2, (2, "fp16"): 1.2, (3, "bf16"): 1.4, (4, "bf16"): 1.5, (4, "fp16"): 1.2,
    (8, "bf16"): 2.3,
}  # fmt: skip
MOST_BYTES = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}  # shared


def packed(bits: int, group: int, architecture: int, shape: tuple[int, int]) -> Packed:
    """The kernel's constants depend on the shape alone: a few rows of the weight are packed."""
    weight = Draw().ints(64, shape[1], bits, group)
    few = pack(weight.q, weight.scale, None, bits, group, fours=architecture not in (90, 100))
    return Packed(few.words, few.factors, shape, few.bits, few.group, few.fours)


def code_of(
    architecture: int, weight: Packed, num_tokens: int, kind: str = "bf16"
) -> tuple[MachineCode, int]:
    """With the numbers that a thread unpacks in a step."""
    types = {"x": f"*{kind}", "words": "*i32", "factors": "*i32", "output": f"*{kind}"}
    types |= {"sums": "*fp32", "arrived": "*i32", "num_tokens": "i32"}
    chosen = schedule(num_tokens, weight, PROCESSORS).within(MOST_BYTES[architecture], weight)
    constants = {
        "OUT": weight.shape[0],
        "IN": weight.shape[1],
        "GROUP": weight.group,
        "BITS": weight.bits,
        "TOKENS": chosen.tokens,
        "ROWS": chosen.rows,
        "DEPTH": weight.depth,
        "SPLITS": chosen.splits,
        "UNROLL": chosen.unroll,
        "EARLY": architecture >= 90,
        "FOURS": weight.fours,
        "PAIRS": True,
    }
    code = compiled(
        multiply,
        architecture,
        types,
        constants,
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
    )
    return code, chosen.rows * weight.depth * chosen.unroll // (32 * chosen.num_warps)


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
    code, numbers = code_of(architecture, weight, num_tokens, kind)
    assert code.stack_bytes == 0
    assert code.shared_bytes <= MOST_BYTES[architecture]
    assert code.count("LDGSTS")  # asynchronous copies
    assert bool(code.count("ACQBULK")) == (architecture >= 90)
    if architecture == 100:  # whose tensor cores take them from memory of their own
        assert code.count("UTCHMMA")
        assert code.tensor_columns <= 512
        return
    loop = code.loop()
    assert not code.overwrites_operands()
    assert loop.count("HGMMA" if architecture == 90 else "HMMA")
    for waits in ("STS", "STSM", "SHFL", "LDG", "LDL"):
        assert not loop.count(waits), waits
    if architecture == 90:
        work = sum(loop.count(each) for each in ("LOP3", "SHF", "HFMA2", "HADD2", "PRMT"))
        assert work <= MOST_WORK[bits, kind] * numbers + 24  # and addresses
        alone = num_tokens <= 64 and shape[0] > 128 * PROCESSORS  # nobody's registers hold sums
        few = 2 if num_tokens <= 16 else 3
        programs, threads = (few, 128) if num_tokens <= 32 else (1 + alone, 256)
        assert code.registers * programs * threads <= 65_536  # of a multiprocessor
        assert (code.shared_bytes + 1024) * programs <= 228 << 10


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("bits", "kind"), [(2, "bf16"), (3, "fp16"), (4, "bf16"), (8, "fp16")])
def test_a_weight_is_made_dense_by_long_reads_and_writes(
    architecture: int, bits: int, kind: str
) -> None:
    weight = packed(bits, 128, architecture, (4096, 4096))
    types = {"words": "*i32", "factors": "*i32", "output": f"*{kind}", "first": "i32"}
    constants = {"OUT": 4096, "IN": 4096, "GROUP": 128, "BITS": weight.bits}
    constants |= {"DEPTH": weight.depth, "FOURS": weight.fours, "PAIRS": True}
    code = compiled(unpack, architecture, types, constants, num_warps=4)
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
