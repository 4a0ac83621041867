"""What the GPU kernel of skinny products becomes on GPUs that are not here."""

from typing import Any

import pytest

from aweigh_kernels.gpu.skinny_matmul import multiply, multiply_gated, multiply_turned
from aweigh_kernels.skinny_matmul import schedule, tokens_of
from tests.kernels.architectures import ARCHITECTURES, PROCESSORS, SHARED_BYTES
from tests.kernels.machine_code import MachineCode, compiled


def code_of(
    architecture: int,
    num_tokens: int,
    out_size: int,
    in_size: int,
    kernel: Any = multiply,
    output: str = "*bf16",
) -> MachineCode:
    types = dict.fromkeys(("x", "weight", "bias"), "*bf16") | {"output": output}
    types |= {"sums": "*fp32", "arrived": "*i32", "num_tokens": "i32"}
    chosen = schedule(num_tokens, out_size, in_size, PROCESSORS)
    early = architecture >= 90
    constants = {
        "OUT": out_size,
        "IN": in_size,
        "TOKENS": tokens_of(num_tokens),
        "ROWS": chosen.rows,
        "DEPTH": chosen.depth,
        "SPLITS": chosen.splits,
        "AHEAD": chosen.ahead,
        "BIAS": False,
        "EARLY": early,
    }
    if kernel is multiply_gated:
        constants |= {"GELU": False}
    if kernel is multiply_turned:
        fp8 = architecture >= 89
        types |= dict.fromkeys(("cos", "sin"), "*bf16") | {"kv": "*fp8e4nv" if fp8 else "*bf16"}
        types |= {"slots": "*i64", "key_scale": "fp32", "value_scale": "fp32"}
        constants |= {"SIZE": 128, "KV_HEADS": 8, "FP8": fp8}
    return compiled(
        kernel,
        architecture,
        types,
        constants,
        num_warps=chosen.num_warps,
        num_stages=chosen.stages_within(SHARED_BYTES[architecture], num_tokens),
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("num_tokens", "out_size", "in_size", "output"),
    [
        (1, 6144, 4096, "*bf16"),
        (1, 28_672, 4096, "*bf16"),
        (64, 4096, 14_336, "*bf16"),
        (64, 128_256, 4096, "*fp32"),
    ],
)
def test_tiles_come_asynchronously_and_tensor_cores_multiply(
    architecture: int, num_tokens: int, out_size: int, in_size: int, output: str
) -> None:
    code = code_of(architecture, num_tokens, out_size, in_size, output=output)
    assert code.count("LDGSTS") or code.count("UTMALDG")  # asynchronous copies
    assert code.count("HMMA") or code.count("HGMMA") or code.count("UTCHMMA")
    assert code.stack_bytes == 0
    assert code.shared_bytes <= SHARED_BYTES[architecture]
    assert bool(code.count("ACQBULK")) == (architecture >= 90)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("num_tokens", [1, 64])
@pytest.mark.parametrize(
    ("kernel", "out_size"), [(multiply_gated, 28_672), (multiply_turned, 6144)]
)
def test_what_follows_a_product_stays_in_registers(
    architecture: int, num_tokens: int, kernel: Any, out_size: int
) -> None:
    code = code_of(architecture, num_tokens, out_size, 4096, kernel)
    assert code.count("LDGSTS") or code.count("UTMALDG")
    assert code.stack_bytes == 0
    assert code.shared_bytes <= SHARED_BYTES[architecture]
