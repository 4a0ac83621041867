"""What the GPU kernels of products with NVFP4 become on GPUs that are not here."""

import pytest
import torch

from aweigh_kernels.fp4_packing import Fp4Packed, pack
from aweigh_kernels.gpu.fp4_matmul import multiply, unpack
from aweigh_kernels.int_matmul import schedule
from tests.kernels.machine_code import ARCHITECTURES, SMALL_BLACKWELL, MachineCode, compiled
from tests.kernels.test_int_matmul_code import MOST_BYTES, PROCESSORS
from tests.kernels.weights import Draw

MOST_WORK = {"bf16": 2.4, "fp16": 2.5}  # instructions for a number
KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def packed(shape: tuple[int, int], kind: str, architecture: int) -> Fp4Packed:
    """The kernel's constants depend on the shape alone: a few rows of the weight are packed."""
    weight = Draw().fp4(64, shape[1])
    fours = architecture not in (90, 100)
    few = pack(weight.q, weight.scale, weight.global_scale, KINDS[kind], fours=fours)
    return Fp4Packed(few.words, few.scales, few.factors, shape, few.dtype, fours)


def code_of(
    architecture: int, weight: Fp4Packed, num_tokens: int, kind: str
) -> tuple[MachineCode, int]:
    """With the numbers that a thread unpacks in a step."""
    types = {"x": f"*{kind}", "words": "*i32", "scales": "*i32", "factors": "*fp32"}
    types |= {"output": f"*{kind}", "sums": "*fp32", "arrived": "*i32", "num_tokens": "i32"}
    chosen = schedule(num_tokens, weight, PROCESSORS).within(MOST_BYTES[architecture], weight)
    constants = {
        "OUT": weight.shape[0],
        "IN": weight.shape[1],
        "TOKENS": chosen.tokens,
        "ROWS": chosen.rows,
        "SPLITS": chosen.splits,
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
    return code, chosen.rows * weight.depth // (32 * chosen.num_warps)


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
        work = sum(loop.count(each) for each in ("LOP3", "SHF", "HFMA2", "HMUL2", "PRMT", "IMAD"))
        assert work <= MOST_WORK[kind] * numbers + 24  # and addresses
        alone = num_tokens <= 64 and shape[0] > 128 * PROCESSORS  # nobody's registers hold sums
        few = 2 if num_tokens <= 16 else 3
        programs, threads = (few, 128) if num_tokens <= 32 else (1 + alone, 256)
        assert code.registers * programs * threads <= 65_536  # of a multiprocessor
        assert (code.shared_bytes + 1024) * programs <= 228 << 10


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_weight_is_made_dense_by_long_reads_and_writes(architecture: int, kind: str) -> None:
    weight = packed((4096, 4096), kind, architecture)
    types = {"words": "*i32", "scales": "*i32", "factors": "*fp32", "output": f"*{kind}"}
    constants = {"OUT": 4096, "IN": 4096, "FOURS": weight.fours, "PAIRS": True}
    code = compiled(unpack, architecture, types | {"first": "i32"}, constants, num_warps=4)
    assert code.stack_bytes == 0
    for wide in ("LDG.E.128", "STG.E.128"):
        assert code.count(wide)
