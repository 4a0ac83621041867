"""The layouts of FP8, compressed-tensors and ModelOpt: whole round trips, and what they refuse."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aweigh_kernels.fp4_weight import Fp4Weight
from aweigh_kernels.fp8_weight import Fp8Activation
from aweigh_kernels.int8_weight import Int8Activation, Int8Weight
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.weight import Weight, reference
from aweigh_runtime.formats.fp4_layout import COMPRESSED_TENSORS, MODELOPT, Fp4Layout
from aweigh_runtime.formats.fp8_layout import E5M2, Fp8Layout
from aweigh_runtime.formats.int8_layout import Int8Layout
from aweigh_runtime.formats.int_groups import IntGroups
from aweigh_runtime.formats.layout import Layout, LayoutError
from aweigh_runtime.formats.packed_int_layout import PackedIntLayout
from aweigh_runtime.formats.plain_int_layout import PlainIntLayout
from tests.kernels.weights import Draw
from tests.runtime.formats.stored import read, same_bits, written

STATIC = torch.tensor(0.03)
INTS: dict[str, Callable[[IntGroups], Layout]] = {
    "packed": lambda groups: PackedIntLayout(groups=groups),
    "act order": lambda groups: PackedIntLayout(groups=groups, act_order=True),
    "plain": PlainIntLayout,
}


@st.composite
def int_cases(draw: st.DrawFn) -> tuple[Layout, IntWeight]:
    bits = draw(st.sampled_from([2, 3, 4, 8]))
    group = draw(st.sampled_from([None, 16, 32, 96]))
    by_row = group is not None or draw(st.booleans())
    rows = draw(st.integers(1, 40))
    columns = draw(st.integers(1, 4)) * (group or 32)
    columns += -columns % 32
    kind, zeros = draw(st.sampled_from(sorted(INTS))), draw(st.booleans())
    layout = INTS[kind](IntGroups(bits=bits, size=group, by_row=by_row, zeros=zeros))
    weight = Draw(draw(st.integers(0, 99))).ints(
        rows,
        columns,
        bits,
        group or columns,
        asymmetric=zeros,
        act_order=kind == "act order",
        scale_rows=None if by_row else 1,
    )
    zero = None if weight.zero is None else weight.zero.clamp(max=(1 << bits) - 1)
    return layout, replace(weight, zero=zero)


@given(int_cases())
def test_small_integers_survive(case: tuple[Layout, IntWeight]) -> None:
    layout, weight = case
    again = read(layout, written(layout, weight), *weight.shape)

    assert isinstance(again, IntWeight)
    assert (again.bits, again.group) == (weight.bits, weight.group)
    assert same_bits(again.dense(), weight.dense())
    assert same_bits(again.scale, weight.scale)
    if weight.perm is None:
        assert torch.equal(again.q, weight.q)


@pytest.mark.parametrize("kind", sorted(INTS))
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_one_hot_activations_give_the_columns_exactly(bits: int, kind: str) -> None:
    layout = INTS[kind](IntGroups(bits=bits, size=32, zeros=True))
    weight = Draw().ints(24, 96, bits, 32, asymmetric=True, act_order=kind == "act order")
    assert weight.zero is not None
    weight = replace(weight, zero=weight.zero.clamp(max=(1 << bits) - 1))
    again = read(layout, written(layout, weight), 24, 96)

    assert torch.equal(reference(torch.eye(96), again), weight.dense().t())


FLOATS: dict[str, tuple[Layout, Weight]] = {
    "fp8 tensor": (
        Fp8Layout(granularity="tensor", activation="static"),
        replace(
            Draw().fp8(48, 80, Fp8Activation(rounding="static", scale=STATIC)),
            scale=torch.tensor([[0.25]]),
        ),
    ),
    "fp8 channel": (
        Fp8Layout(granularity="channel", activation="token"),
        Draw().fp8(48, 80, Fp8Activation(rounding="token")),
    ),
    "fp8 e5m2": (
        Fp8Layout(granularity="channel", activation=None, dtypes=(E5M2,)),
        Draw().fp8(48, 80, dtype=torch.float8_e5m2),
    ),
    "fp8 block": (
        Fp8Layout(granularity="block", activation="group", scale_names=("weight_scale_inv",)),
        Draw().fp8(200, 300, Fp8Activation(rounding="group"), blocks=True),
    ),
    "int8": (
        Int8Layout(by_row=True, static=False, symmetric=True),
        Draw().int8(48, 80, Int8Activation()),
    ),
    "int8 zeros": (
        Int8Layout(by_row=True, static=False, symmetric=False),
        Draw().int8(48, 80, Int8Activation(symmetric=False)),
    ),
    "int8 static": (
        Int8Layout(by_row=True, static=True, symmetric=True),
        Draw().int8(48, 80, Int8Activation(scale=STATIC)),
    ),
    "int8 static zeros": (
        Int8Layout(by_row=True, static=True, symmetric=False),
        Draw().int8(
            48,
            80,
            Int8Activation(symmetric=False, scale=STATIC, zero=torch.tensor(-7, dtype=torch.int32)),
        ),
    ),
    "int8 tensor": (
        Int8Layout(by_row=False, static=False, symmetric=True),
        replace(Draw().int8(48, 80, Int8Activation()), scale=torch.tensor([[0.25]])),
    ),
}


def _fp4(activation_scale: float | None, inverted: bool) -> Fp4Weight:
    """With global scales that a file can hold."""
    scale = torch.tensor([[311.7]]).double()
    weight = replace(Draw().fp4(48, 80), global_scale=1 / scale if inverted else scale)
    if activation_scale is None:
        return weight
    stored = torch.tensor(activation_scale).double()
    return replace(weight, activation_scale=1 / stored if inverted else stored)


for spelling in (COMPRESSED_TENSORS, MODELOPT):
    for seen in (None, 17.3):
        FLOATS[f"nvfp4 {spelling.packed} {seen}"] = (
            Fp4Layout(spelling=spelling, activations=seen is not None),
            _fp4(seen, spelling.inverted),
        )


@pytest.mark.parametrize("name", FLOATS)
def test_every_other_weight_survives_to_the_last_bit(name: str) -> None:
    layout, weight = FLOATS[name]
    stored = written(layout, weight)
    again = read(layout, stored, *weight.shape)
    x = Draw(5).normal(3, weight.shape[1])

    assert same_bits(again.dense(), weight.dense())
    assert same_bits(reference(x, again), reference(x, weight))
    for part, tensor in written(layout, again).items():
        assert same_bits(tensor, stored[part]), part


@pytest.mark.parametrize("name", FLOATS)
def test_a_layout_refuses_weights_of_another_kind_by_name(name: str) -> None:
    layout, weight = FLOATS[name]
    for _, other in FLOATS.values():
        if type(other) is not type(weight):
            with pytest.raises(LayoutError, match=f"holds no {type(other).__name__}; expected"):
                layout.write(other)


@pytest.mark.parametrize("name", FLOATS)
def test_a_weight_of_the_kind_is_refused_or_survives(name: str) -> None:
    layout, weight = FLOATS[name]
    x = Draw(5).normal(3, 80)
    for _, other in FLOATS.values():
        if type(other) is type(weight) and other.shape == (48, 80):
            with suppress(LayoutError):
                again = read(layout, written(layout, other), 48, 80)
                assert same_bits(reference(x, again), reference(x, other))


INT4 = IntGroups(bits=4, size=32)
REFUSED: list[tuple[Layout, IntWeight, str]] = [
    (PackedIntLayout(groups=INT4), Draw().ints(8, 64, 3, 32), "has 3 bits in groups of 32"),
    (PackedIntLayout(groups=INT4), Draw().ints(8, 64, 4, 64), "has 4 bits in groups of 64"),
    (PlainIntLayout(INT4), Draw().ints(8, 64, 4, 32, asymmetric=True), "has zero points"),
    (PackedIntLayout(groups=INT4), Draw().ints(8, 64, 4, 32, act_order=True), "are reordered"),
    (PlainIntLayout(INT4), Draw().ints(8, 64, 4, 32, act_order=True), "are reordered"),
    (
        PackedIntLayout(groups=replace(INT4, size=None, by_row=False)),
        Draw().ints(8, 64, 4, 64),
        "has 8 scales; expected int4 per tensor",
    ),
    (
        PackedIntLayout(groups=replace(INT4, zeros=True)),
        replace(Draw().ints(8, 64, 4, 32), zero=torch.full((8, 2), 16, dtype=torch.int16)),
        "zero points from 16 to 16; expected 0 to 15",
    ),
]


@pytest.mark.parametrize(("layout", "weight", "sentence"), REFUSED)
def test_integers_that_a_layout_cannot_hold_are_refused(
    layout: Layout, weight: IntWeight, sentence: str
) -> None:
    with pytest.raises(LayoutError, match=sentence):
        layout.write(weight)


def test_weights_without_zero_points_fit_where_zero_points_are_stored() -> None:
    layout = PackedIntLayout(groups=replace(INT4, zeros=True))
    weight = Draw().ints(8, 64, 4, 32)
    assert torch.equal(read(layout, written(layout, weight), 8, 64).dense(), weight.dense())


@pytest.mark.parametrize(
    ("zero", "sentence"), [(128, "input_zero_point is 128; expected -128 to 127"), (-129, "-129")]
)
def test_a_zero_point_of_activations_that_is_no_byte_is_refused(zero: int, sentence: str) -> None:
    layout = Int8Layout(by_row=False, static=True, symmetric=False)
    stored: dict[str, Any] = {"weight": torch.ones(4, 8, dtype=torch.int8)}
    stored |= {"weight_scale": torch.ones(1), "input_scale": torch.ones(1)}
    with pytest.raises(LayoutError, match=sentence):
        read(layout, stored | {"input_zero_point": torch.tensor([zero])}, 4, 8)


def test_a_zero_point_of_activations_that_is_left_out_is_0() -> None:
    layout = Int8Layout(by_row=False, static=True, symmetric=False)
    stored: dict[str, Any] = {"weight": torch.ones(4, 8, dtype=torch.int8)}
    stored |= {"weight_scale": torch.ones(1), "input_scale": torch.ones(1)}
    weight = read(layout, stored, 4, 8)
    assert isinstance(weight, Int8Weight)
    assert weight.activation.zero == 0


def test_bytes_that_are_no_small_integers_are_refused() -> None:
    stored = {"weight": torch.full((4, 64), 8, dtype=torch.int8), "weight_scale": torch.ones(4, 2)}
    with pytest.raises(LayoutError, match="weight holds 8 to 8; expected numbers of 4 bits"):
        read(PlainIntLayout(INT4), stored, 4, 64)


@pytest.mark.parametrize("layout", [PlainIntLayout(INT4), PackedIntLayout(groups=INT4)])
def test_columns_that_are_no_whole_groups_are_refused(layout: Layout) -> None:
    with pytest.raises(LayoutError, match="48 columns are no whole groups of 32"):
        layout.parts(8, 48)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("-inf")])
@pytest.mark.parametrize("name", ["int8", "fp8 channel", "fp8 block"])
def test_scales_that_no_file_has_are_refused(name: str, value: float) -> None:
    layout, weight = FLOATS[name]
    stored = layout.write(weight)
    part = next(part for part in stored if part.startswith("weight_scale"))
    stored[part][0, 0] = value
    with pytest.raises(LayoutError, match=f"{part} holds (0|NaN)"):
        read(layout, stored, *weight.shape)
