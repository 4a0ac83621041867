"""What the GPU kernels of weights of 8 bits become on GPUs that are not here."""

import re
from typing import Any

import pytest

from aweigh_kernels.byte_schedule import Few, Many, Shape, schedule
from aweigh_kernels.gpu import rms_norm, rounding
from aweigh_kernels.gpu.byte_matmul import multiply_few, multiply_many, widen
from aweigh_kernels.gpu.byte_paired import multiply_few_gated, multiply_few_turned
from tests.kernels.architectures import ARCHITECTURES, SHARED_BYTES, SHORT_SUMS, gpu
from tests.kernels.machine_code import MachineCode, compiled

MOST_COLUMNS = 512  # of tensor cores' own memory: a kernel that asks for more is not launched
E4M3, E5M2, INT8, CODES = "fp8e4nv", "fp8e5", "i8", "u8"
# What multiplies numbers of 8 bits; UTCQMMA and UTCIMMA do on sm_100 where tiles are large.
INTEGER = {80: "IMMA", 89: "IMMA", 90: "IGMMA", 100: "UTCIMMA|IMMA", 120: "IMMA"}
FLOATING = {89: "QMMA", 90: "QGMMA", 100: "UTCQMMA|QMMA", 120: "QMMA"}
SIXTEEN = {80: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA|HMMA", 120: "HMMA"}


def code_of(
    architecture: int,
    size: tuple[int, int, int],
    x: str,
    weight: str,
    *,
    grouped: bool = False,
    blocks: bool = False,
    zero: bool = False,
    int8: bool = True,
    kernel: Any = multiply_few,
) -> tuple[MachineCode, Few | Many]:
    num_tokens, out_size, width = size
    narrow = x in (E4M3, INT8)
    shape = Shape(num_tokens, out_size, width, 1 if narrow else 2, x == INT8, grouped or blocks)
    chosen = schedule(shape, gpu(architecture, int8=int8))
    whole = "*i32" if zero else "*fp32"
    types = {"x": f"*{x}", "weight": f"*{weight}", "x_scale": "*fp32", "x_zero": whole}
    types |= {"scale": "*fp32", "row_sums": whole, "output": "*bf16"}
    constants: dict[str, Any] = {
        "OUT": out_size,
        "WIDTH": width,
        "TOKENS": chosen.tokens,
        "ROWS": chosen.rows,
        "DEPTH": chosen.depth,
        "SCALED": narrow and not grouped,
        "GROUPED": grouped,
        "BLOCKS": blocks,
        "ZERO": zero,
        "SHORT": architecture in SHORT_SUMS,
        "EARLY": architecture >= 90,
    }
    if isinstance(chosen, Many):
        types["x"] = f"tensordesc<{x}[{chosen.tokens}, {chosen.depth}]>"
        types["weight"] = f"tensordesc<{weight}[{chosen.rows}, {chosen.depth}]>"
        constants["BAND"] = chosen.band
    else:
        types |= {"sums": "*i32" if x == INT8 else "*fp32", "arrived": "*i32"}
        constants |= {"IN": width, "SPLITS": chosen.splits, "AHEAD": chosen.ahead}
        constants |= {"CODES": weight == CODES, "HALVES": x == INT8 and not int8}
    if kernel is multiply_few_gated:
        types |= {"largest": "*i32"}
        constants |= {"GELU": False}
    if kernel is multiply_few_turned:
        types |= {"cos": "*bf16", "sin": "*bf16", "kv": f"*{E4M3}", "slots": "*i64"}
        types |= {"key_scale": "fp32", "value_scale": "fp32"}
        constants |= {"SIZE": 128, "KV_HEADS": 8, "FP8": True}
    code = compiled(
        multiply_many if isinstance(chosen, Many) else kernel,
        architecture,
        types | {"num_tokens": "i32"},
        constants,
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
    )
    return code, chosen


def expect_fast(code: MachineCode, architecture: int, instructions: dict[int, str]) -> None:
    """The right tensor core, asynchronous copies, and nothing that did not fit into registers."""
    kinds = set(re.findall(r"\b(UTC[A-Z]*MMA|[HQI]G?MMA)\b", code.text))
    assert kinds
    assert all(re.fullmatch(instructions[architecture], kind) for kind in kinds)
    assert code.count("LDGSTS") or code.count("UTMALDG")
    assert code.stack_bytes == 0
    assert code.shared_bytes <= SHARED_BYTES[architecture]
    assert code.tensor_columns <= MOST_COLUMNS
    assert not code.overwrites_operands()
    assert bool(code.count("ACQBULK")) == (architecture >= 90)


SIZES = [(1, 6144, 4096), (100, 4096, 14_336), (4096, 28_672, 4096)]


@pytest.mark.parametrize("architecture", INTEGER)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_integers_are_multiplied_as_integers(architecture: int, size: tuple[int, int, int]) -> None:
    code, _ = code_of(architecture, size, INT8, INT8, zero=True)
    expect_fast(code, architecture, INTEGER)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_integers_are_multiplied_as_fp16_where_tensor_cores_are_slow_at_them(
    size: tuple[int, int, int],
) -> None:
    """On sm_103, which cannot be read here: it has the other instructions of sm_100."""
    code, _ = code_of(100, size, INT8, INT8, zero=True, int8=False)
    expect_fast(code, 100, SIXTEEN)


@pytest.mark.parametrize("architecture", FLOATING)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("grouped", "blocks"), [(False, False), (True, True)])
def test_8_bit_floating_point_is_multiplied_as_it_is(
    architecture: int, size: tuple[int, int, int], grouped: bool, blocks: bool
) -> None:
    code, _ = code_of(architecture, size, E4M3, E4M3, grouped=grouped, blocks=blocks)
    expect_fast(code, architecture, FLOATING)


@pytest.mark.parametrize("architecture", FLOATING)
@pytest.mark.parametrize("num_tokens", [100, 4096])
def test_sums_leave_tensor_cores_in_every_step_only_where_those_cut_them(
    architecture: int, num_tokens: int
) -> None:
    code, chosen = code_of(architecture, (num_tokens, 28_672, 4096), E4M3, E4M3)
    assert isinstance(chosen, Many) or chosen.splits == 1  # nobody else adds
    assert bool(code.count("FADD2?")) == (architecture in SHORT_SUMS)


@pytest.mark.parametrize("architecture", FLOATING)
@pytest.mark.parametrize("num_tokens", [1, 64])
@pytest.mark.parametrize(
    ("kernel", "out_size"), [(multiply_few_gated, 28_672), (multiply_few_turned, 6144)]
)
def test_what_follows_a_product_stays_in_registers(
    architecture: int, num_tokens: int, kernel: Any, out_size: int
) -> None:
    code, _ = code_of(architecture, (num_tokens, out_size, 4096), E4M3, E4M3, kernel=kernel)
    expect_fast(code, architecture, FLOATING)


@pytest.mark.parametrize("architecture", SIXTEEN)
@pytest.mark.parametrize(
    ("size", "blocks"),
    [
        (SIZES[0], False),
        (SIZES[1], False),
        *[((100, 28_672, 4096), each) for each in (False, True)],
    ],
)
def test_weights_are_widened_in_registers(
    architecture: int, size: tuple[int, int, int], blocks: bool
) -> None:
    weight = E4M3 if architecture >= 89 else CODES
    code, _ = code_of(architecture, size, "bf16", weight, blocks=blocks)
    expect_fast(code, architecture, SIXTEEN)
    assert not code.count(r"F2F\.BF16\.F16")  # a sixteenth of a tensor core's pace


@pytest.mark.parametrize("architecture", FLOATING)
@pytest.mark.parametrize("size", [SIZES[0], SIZES[2]], ids=str)
def test_weights_of_e5m2_meet_activations_of_e4m3(
    architecture: int, size: tuple[int, int, int]
) -> None:
    code, _ = code_of(architecture, size, E4M3, E5M2)
    expect_fast(code, architecture, FLOATING)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_of_e5m2_are_widened_in_registers(architecture: int) -> None:
    code, _ = code_of(architecture, SIZES[1], "bf16", E5M2)
    expect_fast(code, architecture, SIXTEEN)
    assert not code.count(r"F2F\.BF16\.F16")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", [E4M3, INT8])
def test_rows_are_rounded_in_registers(architecture: int, kind: str) -> None:
    if kind == E4M3 and architecture < 89:
        pytest.skip("it has no such numbers")
    types = {"x": "*bf16", "numbers": f"*{kind}", "scales": "*fp32"}
    zeros = {"zeros": "*i32" if kind == INT8 else "*fp32"}
    early = architecture >= 90
    constants = {"SIZE": 4096, "WIDTH": 4096, "PIECE": 4096, "EARLY": early}
    constants |= {"GATED": False, "GELU": False}
    code = compiled(
        rounding.round_by_token,
        architecture,
        types | zeros,
        constants | {"ZERO": kind == INT8},
        num_warps=8,
        num_stages=3,
    )
    assert code.count(r"LDG\.E\.128") == 2  # 4,096 numbers by 256 threads, read once
    assert code.stack_bytes == 0
    assert code.count("FCHK") <= 4  # divisions that may branch: none for a number
    assert bool(code.count("ACQBULK")) == early


@pytest.mark.parametrize("architecture", [89, 90])
def test_rows_whose_largest_numbers_are_known_are_rounded_in_registers(architecture: int) -> None:
    types = {"x": "*bf16", "largest": "*i32", "numbers": f"*{E4M3}", "scales": "*fp32"}
    constants = {"SIZE": 14_336, "WIDTH": 14_336, "PIECE": 2048, "PARTS": 448, "PARTS_UP": 512}
    constants |= {"EARLY": architecture >= 90}
    code = compiled(
        rounding.round_by_largest, architecture, types, constants, num_warps=4, num_stages=3
    )
    assert code.count(r"LDG\.E\.128") >= 2  # 2,048 numbers by 128 threads
    assert code.stack_bytes == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("by", [rms_norm.BY_TOKEN.value, rms_norm.BY_GROUP.value])
def test_what_is_normed_or_let_by_is_rounded_in_registers(architecture: int, by: int) -> None:
    kind = E4M3 if architecture >= 89 else INT8
    floats = ("scales", "zeros", "given_scale", "given_zero")
    types = dict.fromkeys(("x", "residual", "weight"), "*bf16") | {"numbers": f"*{kind}"}
    types |= dict.fromkeys(floats, "*fp32") | {"num_rows": "i32", "eps": "fp32"}
    early = architecture >= 90
    constants = {"SIZE": 4096, "SIZE_UP": 4096, "WIDTH": 4096, "ROWS": 1, "ADD": True}
    constants |= {"BY": by, "ZERO": False, "EARLY": early}
    code = compiled(
        rms_norm.normalize_rounded, architecture, types, constants, num_warps=8, num_stages=3
    )
    assert code.count(r"LDG\.E\.128") == 2 * 3  # x, residual and weight, read once
    assert code.stack_bytes == 0
    types = {"x": "*bf16", "numbers": f"*{kind}", "scales": "*fp32", "zeros": "*fp32"}
    constants = {"SIZE": 14_336, "WIDTH": 14_336, "PIECE": 16_384, "EARLY": early}
    constants |= {"GATED": True, "GELU": False, "ZERO": False}
    code = compiled(
        rounding.round_by_token, architecture, types, constants, num_warps=16, num_stages=3
    )
    assert code.stack_bytes == 0


@pytest.mark.parametrize(("architecture", "weight"), [(80, CODES), (90, E4M3)])
def test_weights_are_made_dense_without_slow_conversions(architecture: int, weight: str) -> None:
    types = {"weight": f"*{weight}", "scale": "*fp32", "output": "*bf16"}
    constants = {"SIZE": 4096, "WIDTH": 4096, "PIECE": 4096, "BLOCKS": True}
    constants |= {"CODES": weight == CODES, "EARLY": architecture >= 90}
    code = compiled(widen, architecture, types, constants, num_warps=8, num_stages=3)
    assert code.count(r"LDG\.E\.128") == 1  # 4,096 numbers by 256 threads
    assert code.stack_bytes == 0
    assert not code.count(r"F2F\.BF16\.F16")
