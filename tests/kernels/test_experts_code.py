"""What routing and grouped products become on GPUs that are not here."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from aweigh_kernels import byte_schedule, skinny_matmul, tile_schedule
from aweigh_kernels.byte_schedule import Shape
from aweigh_kernels.gpu import grouped_matmul as kernels
from aweigh_kernels.gpu import routing as routing_kernels
from aweigh_kernels.grouped_matmul import likely_rows
from aweigh_kernels.routing import Routed, tokens_of_tile
from tests.kernels.architectures import ARCHITECTURES, PROCESSORS, SHARED_BYTES, SHORT_SUMS, gpu
from tests.kernels.machine_code import MachineCode, compiled
from tests.kernels.test_byte_matmul_code import (
    CODES,
    E4M3,
    FLOATING,
    SIXTEEN,
    expect_fast,
)
from tests.kernels.test_int_matmul_code import MOST_WORK, packed
from tests.kernels.tile_code import (
    expect_unpacked_in_registers,
    unpacked_at_once,
)

EXPERTS, EACH = 8, 2
GATES, DOWN = (28_672, 4096), (4096, 14_336)
LISTS = {"experts": "*i32", "pairs": "*i32", "num_pairs": "i32", "num_tiles": "i32"}
SUMS = {"output": "*bf16", "sums": "*fp32", "arrived": "*i32"}


def routed(num_tokens: int) -> Routed:
    size = tokens_of_tile(num_tokens, EXPERTS, EACH)
    nothing = torch.empty(0)
    return Routed(torch.empty(num_tokens, EACH), nothing, torch.empty(0, size), EXPERTS)


def constants_of(found: Routed, shape: tuple[int, int], architecture: int) -> dict[str, Any]:
    each = EACH if shape == GATES else 1
    common = {"OUT": shape[0], "IN": shape[1], "EACH": each, "TOKENS": found.pairs.shape[1]}
    return common | {"EARLY": architecture >= 90}


def ints(architecture: int, num_tokens: int, shape: tuple[int, int]) -> tuple[MachineCode, int]:
    """With the numbers that a thread unpacks in a step."""
    found, weight = routed(num_tokens), packed(4, 128, architecture, shape)
    size = found.pairs.shape[1]
    tall = replace(weight, shape=(likely_rows(found, shape[0]), shape[1]))
    chosen = tile_schedule.schedule(size, tall, PROCESSORS)
    chosen = chosen.within(SHARED_BYTES[architecture], weight)
    constants = constants_of(found, shape, architecture) | weight.constants | chosen.constants
    constants |= {
        "WORDS": shape[0] * shape[1] // 8,
        "FACTORS": shape[0] * shape[1] // 128,
        "UNROLL": chosen.unroll,
        "PAIRS": True,
    }
    code = compiled(
        kernels.multiply_ints,
        architecture,
        {"x": "*bf16", "words": "*i32", "factors": "*i32"} | SUMS | LISTS,
        constants,
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
    )
    return code, unpacked_at_once(chosen, weight, unrolls=True)


def dense(architecture: int, num_tokens: int, shape: tuple[int, int]) -> MachineCode:
    found = routed(num_tokens)
    size, tall = found.pairs.shape[1], likely_rows(found, shape[0])
    chosen = skinny_matmul.schedule(size, tall, shape[1], PROCESSORS)
    constants = {"ROWS": chosen.rows, "DEPTH": chosen.depth, "SPLITS": chosen.splits}
    return compiled(
        kernels.multiply_dense,
        architecture,
        {"x": "*bf16", "weight": "*bf16"} | SUMS | LISTS,
        constants_of(found, shape, architecture) | constants,
        num_warps=chosen.num_warps,
        num_stages=chosen.stages_within(SHARED_BYTES[architecture], size),
    )


def eights(
    architecture: int, num_tokens: int, shape: tuple[int, int], x: str, *, blocks: bool
) -> MachineCode:
    found, weight = routed(num_tokens), E4M3 if architecture >= 89 else CODES
    (rows, columns), size = shape, found.pairs.shape[1]
    tall = likely_rows(found, rows)
    chosen = byte_schedule.few(
        Shape(size, tall, columns, 1 if x == E4M3 else 2, parts=blocks), gpu(architecture), size
    )
    floats = dict.fromkeys(("x_scale", "x_zero", "scale", "row_sums"), "*fp32")
    constants = {
        "WIDTH": columns,
        "SCALES": rows * columns // 128**2 if blocks else rows,
        "ROWS": chosen.rows,
        "DEPTH": chosen.depth,
        "SPLITS": chosen.splits,
        "SCALED": x == E4M3 and not blocks,
        "GROUPED": x == E4M3 and blocks,
        "BLOCKS": blocks,
        "ZERO": False,
        "CODES": weight == CODES,
        "HALVES": False,
        "SHORT": architecture in SHORT_SUMS,
    }
    return compiled(
        kernels.multiply_bytes,
        architecture,
        {"x": f"*{x}", "weight": f"*{weight}"} | floats | SUMS | LISTS,
        constants_of(found, shape, architecture) | constants,
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
    )


@pytest.mark.parametrize(
    ("architecture", "num_tokens", "shape"),
    [*((each, 64, DOWN) for each in ARCHITECTURES), (90, 1, GATES), (90, 4096, GATES)],
)
def test_integers_of_experts_are_unpacked_as_those_of_one_matrix(
    architecture: int, num_tokens: int, shape: tuple[int, int]
) -> None:
    code, numbers = ints(architecture, num_tokens, shape)
    expect_unpacked_in_registers(code, architecture)
    if architecture == 90:
        loop = code.loop()
        work = sum(loop.count(each) for each in ("LOP3", "SHF", "HFMA2", "HADD2", "PRMT"))
        assert work <= MOST_WORK[4, "bf16"] * numbers + 24  # and addresses
        programs, threads = {1: (3, 128), 64: (2, 128), 4096: (1, 256)}[num_tokens]
        assert code.registers * programs * threads <= 65_536  # of a multiprocessor


@pytest.mark.parametrize(
    ("architecture", "num_tokens", "shape"),
    [*((each, 64, GATES) for each in ARCHITECTURES), (90, 1, DOWN), (90, 4096, GATES)],
)
def test_dense_matrices_of_experts_come_by_asynchronous_copies(
    architecture: int, num_tokens: int, shape: tuple[int, int]
) -> None:
    expect_fast(dense(architecture, num_tokens, shape), architecture, SIXTEEN)


@pytest.mark.parametrize(
    ("architecture", "num_tokens", "blocks"),
    [*((each, 64, True) for each in FLOATING), (90, 1, False), (90, 4096, True)],
)
def test_8_bits_of_experts_are_multiplied_as_they_are(
    architecture: int, num_tokens: int, blocks: bool
) -> None:
    expect_fast(
        eights(architecture, num_tokens, GATES, E4M3, blocks=blocks), architecture, FLOATING
    )


@pytest.mark.parametrize("architecture", [80, 90])
def test_8_bits_of_experts_are_widened_in_registers(architecture: int) -> None:
    code = eights(architecture, 64, DOWN, "bf16", blocks=False)
    expect_fast(code, architecture, SIXTEEN)
    assert not code.count(r"F2F\.BF16\.F16")  # a sixteenth of a tensor core's pace


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tokens_are_routed_in_registers(architecture: int) -> None:
    early = {"EARLY": architecture >= 90}
    count = {"COUNT": 128, "COUNT_UP": 128, "EACH": 8, "EACH_UP": 8, "NORMALIZED": True}
    types = {"logits": "*bf16", "weights": "*fp32", "chosen": "*i32"}
    chosen = compiled(routing_kernels.choose, architecture, types, count | early, num_warps=1)
    sizes = {"COUNT_UP": 128, "TOKENS": 16, "CHUNK": 1024}
    sorting = compiled(
        routing_kernels.group, architecture, {"chosen": "*i32"} | LISTS, sizes | early, num_warps=4
    )
    types = {"rows": "*bf16", "weights": "*fp32", "output": "*bf16"}
    piece = {"SIZE": 2048, "CHUNKS": 2, "BLOCK": 1024, "EACH": 8}
    adding = compiled(routing_kernels.add_weighted, architecture, types, piece | early, num_warps=4)
    for code in (chosen, sorting, adding):
        assert code.stack_bytes == 0
        assert bool(code.count("ACQBULK")) == (architecture >= 90)
    assert adding.count(r"LDG\.E\.128") == 8  # rows of all choices are on their way at once
