"""What is announced of a quantized matrix is what its product holds."""

from dataclasses import replace

import pytest
import torch

from aweigh_kernels import fp4_packing, int_packing
from aweigh_kernels.fp4_weight import Fp4Weight
from aweigh_kernels.fp8_weight import Fp8Activation
from aweigh_kernels.int8_weight import Int8Activation
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.weight import Weight, prepare
from aweigh_runtime.formats import online
from aweigh_runtime.formats.awq import AwqLayout
from aweigh_runtime.formats.choice import kept_bytes
from aweigh_runtime.formats.fp4_layout import MODELOPT, Fp4Layout
from aweigh_runtime.formats.fp8_layout import Fp8Layout
from aweigh_runtime.formats.gptq_layout import GptqLayout
from aweigh_runtime.formats.int8_layout import Int8Layout
from aweigh_runtime.formats.int_groups import IntGroups
from aweigh_runtime.formats.layout import Layout
from aweigh_runtime.formats.marlin24 import Marlin24Layout
from aweigh_runtime.formats.packed_int_layout import PackedIntLayout
from aweigh_runtime.formats.plain_int_layout import PlainIntLayout
from tests.kernels.held import held_bytes
from tests.kernels.weights import Draw

ROWS, COLUMNS = 512, 1024
DRAW = Draw()


def ints(bits: int, group: int = 128, **kind: bool) -> IntWeight:
    return DRAW.ints(ROWS, COLUMNS, bits, group, **kind)


CASES: dict[str, tuple[Layout, Weight]] = {
    **{f"gptq {bits}": (GptqLayout(bits=bits, group=128), ints(bits)) for bits in (2, 3, 4, 8)},
    "gptq 8 whole rows": (GptqLayout(bits=8, group=None), ints(8, COLUMNS)),
    "gptq zero points": (
        GptqLayout(bits=4, group=128, version=2, symmetric=False),
        replace(ints(4), zero=torch.full((ROWS, 8), 3, dtype=torch.int16)),
    ),
    "gptq in act order": (GptqLayout(bits=4, group=128, act_order=True), ints(4, act_order=True)),
    "awq": (AwqLayout(group=128, symmetric=True), ints(4)),
    "packed": (PackedIntLayout(groups=IntGroups(bits=4, size=128)), ints(4)),
    "a byte each": (PlainIntLayout(IntGroups(bits=8, size=128)), ints(8)),
    "2:4": (Marlin24Layout(bits=4, group=128), DRAW.sparse(ROWS, COLUMNS, 4, 128)),
    "int8": (
        Int8Layout(by_row=True, static=False, symmetric=True),
        DRAW.int8(ROWS, COLUMNS, Int8Activation()),
    ),
    "fp8": (
        Fp8Layout(granularity="channel", activation="token"),
        DRAW.fp8(ROWS, COLUMNS, Fp8Activation(rounding="token")),
    ),
    "fp8 by block": (
        Fp8Layout(granularity="block", activation="group"),
        DRAW.fp8(ROWS, COLUMNS, Fp8Activation(rounding="group"), blocks=True),
    ),
    "nvfp4": (
        Fp4Layout(spelling=MODELOPT, activations=False),
        replace(DRAW.fp4(ROWS, COLUMNS), global_scale=torch.tensor([[0.5]]).double()),
    ),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_product_holds_what_was_announced(name: str, dtype: torch.dtype) -> None:
    layout, weight = CASES[name]
    read = layout.read(layout.write(weight), ROWS, COLUMNS)
    announced = kept_bytes(layout, ROWS, COLUMNS)
    assert held_bytes(prepare(read, dtype)) == pytest.approx(announced, rel=0.1)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("gptq", "nvfp4"))])
def test_so_does_one_of_a_gpu(name: str) -> None:
    """As it is packed for kernels; any machine can do that."""
    layout, weight = CASES[name]
    if isinstance(weight, IntWeight):
        given = weight.q, weight.scale, weight.zero, weight.bits, weight.group
        packed = held_bytes(int_packing.pack(*given, fours=False))
    else:
        assert isinstance(weight, Fp4Weight)
        scales = weight.scale, weight.global_scale
        packed = held_bytes(fp4_packing.pack(weight.q, *scales, torch.bfloat16, fours=False))
    assert packed == pytest.approx(kept_bytes(layout, ROWS, COLUMNS), rel=0.1)


@pytest.mark.parametrize("scheme", online.SCHEMES)
def test_so_does_one_that_is_quantized_while_it_is_loaded(scheme: online.Scheme) -> None:
    layout = online.quantization(scheme).layout_of("model.layers.0.mlp.up_proj")
    assert layout is not None
    read = layout.read({"weight": DRAW.normal(ROWS, COLUMNS)}, ROWS, COLUMNS)
    announced = kept_bytes(layout, ROWS, COLUMNS)
    assert held_bytes(prepare(read, torch.bfloat16)) == pytest.approx(announced, rel=0.1)
