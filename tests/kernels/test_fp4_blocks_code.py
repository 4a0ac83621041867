"""What products of NVFP4 on both sides become on a large Blackwell, which is not here."""

import pytest

from aweigh_kernels.fp4_blocks import division
from aweigh_kernels.gpu.fp4_matmul_blackwell import multiply
from tests.kernels.architectures import SHARED_BYTES
from tests.kernels.machine_code import compiled

PROCESSORS = 148


@pytest.mark.parametrize("num_tokens", [1, 64, 4096])
@pytest.mark.parametrize("size", [(6144, 4096), (28_672, 4096 + 16)], ids=str)
def test_tensor_cores_multiply_codes_with_their_scales(
    num_tokens: int, size: tuple[int, int]
) -> None:
    chosen = division(num_tokens, *size, PROCESSORS)
    types = {"codes": "*u8", "scales": "*fp8e4nv", "of_all": "*fp64", "weight": "*u8"}
    types |= {"weight_scales": "*fp8e4nv", "factors": "*fp32", "output": "*bf16"}
    types |= {"sums": "*fp32", "arrived": "*i32", "num_tokens": "i32"}
    constants = {"OUT": size[0], "IN": size[1], "TOKENS": chosen.tokens, "DEPTH": 256}
    constants |= {"SPLITS": chosen.splits, "EARLY": True}
    warps = 8 if chosen.tokens == 128 else 4
    code = compiled(multiply, 100, types, constants, num_warps=warps, num_stages=4)
    assert code.count("UTCOMMA")  # of 4 bits; those of 8 or 16 have other names
    assert not code.count("UTCHMMA|UTCQMMA|HMMA")
    assert code.count("LDGSTS")
    assert code.stack_bytes == 0
    assert code.shared_bytes <= SHARED_BYTES[100]
    assert code.tensor_columns <= 512


def test_programs_share_rows_only_to_fill_a_gpu() -> None:
    for num_tokens in (1, 16, 64, 65, 1000):
        chosen = division(num_tokens, 4096, 4096, PROCESSORS)
        programs = 4096 // 128 * -(-num_tokens // chosen.tokens) * chosen.splits
        assert chosen.splits == 1 or programs <= PROCESSORS
        assert chosen.splits == 1 or chosen.tokens <= 64  # for more there is no memory
