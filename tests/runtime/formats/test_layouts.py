"""What every layout of integers promises: it reads what it writes, to the last bit."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aweigh_kernels import bits as stream
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.weight import Weight, reference
from aweigh_runtime.formats.awq import AwqLayout
from aweigh_runtime.formats.gptq_layout import GptqLayout
from aweigh_runtime.formats.layout import Layout, LayoutError
from aweigh_runtime.formats.marlin24 import (
    COMPRESSED_TENSORS_NAMES,
    GPTQ_NAMES,
    Marlin24Layout,
)
from tests.kernels.weights import Draw

TORCH_NAMES = {
    torch.int32: "I32",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
}
FORMATS = (torch.float16, torch.bfloat16, torch.float32)

Case = tuple[Layout, Weight]


@st.composite
def gptq_cases(draw: st.DrawFn) -> Case:
    bits, version = draw(st.sampled_from(stream.WIDTHS)), draw(st.sampled_from((1, 2)))
    rows, columns = 32 * draw(st.integers(1, 2)), 32 * draw(st.integers(1, 5))
    group = draw(st.sampled_from((None, 8, 32, 64, 128)))
    symmetric, act_order = draw(st.booleans()), draw(st.booleans())
    weight = Draw(draw(st.integers(0, 1 << 20))).ints(
        rows,
        columns,
        bits,
        min(group or columns, columns),
        asymmetric=not symmetric,
        act_order=act_order,
        scale_rows=draw(st.sampled_from((1, rows))),
    )
    if weight.zero is not None:
        first = 2 - version
        zero = weight.zero.clamp(first, (1 << bits) - 1 + first)
        weight = replace(weight, zero=zero)
        mean = float(replace(weight, scale=torch.ones_like(weight.scale)).dense().mean())
        assume(bits == 8 or abs(mean) < 0.75)  # else it could be one of the other version
    weight = replace(weight, scale=weight.scale.to(draw(st.sampled_from(FORMATS))))
    layout = GptqLayout(
        bits=bits, group=group, version=version, symmetric=symmetric, act_order=act_order
    )
    return layout, weight


@st.composite
def awq_cases(draw: st.DrawFn) -> Case:
    rows, columns = 8 * draw(st.integers(1, 5)), 32 * draw(st.integers(1, 4))
    group = draw(st.sampled_from((None, 16, 32)))
    symmetric = draw(st.booleans())
    weight = Draw(draw(st.integers(0, 1 << 20))).ints(
        rows, columns, 4, group or columns, asymmetric=not symmetric
    )
    if weight.zero is not None:
        weight = replace(weight, zero=weight.zero.clamp(0, 15))
    return AwqLayout(group=group, symmetric=symmetric), weight


@st.composite
def marlin24_cases(draw: st.DrawFn) -> Case:
    bits, group = draw(st.sampled_from((4, 8))), draw(st.sampled_from((None, 128)))
    rows = 64 * draw(st.integers(1, 3))
    columns = (group or 32) * draw(st.integers(1, 3))
    weight = Draw(draw(st.integers(0, 1 << 20))).sparse(rows, columns, bits, group or columns)
    names = draw(st.sampled_from((GPTQ_NAMES, COMPRESSED_TENSORS_NAMES)))
    return Marlin24Layout(bits=bits, group=group, names=names), weight


@given(gptq_cases() | awq_cases() | marlin24_cases())
@settings(max_examples=120, deadline=None)
def test_what_is_written_is_read_to_the_last_bit(case: Case) -> None:
    layout, weight = case
    rows, columns = weight.shape
    written = layout.write(weight)
    again = layout.read(written, rows, columns)
    assert torch.equal(reference(torch.eye(columns), again), weight.dense().t())
    assert again.scale.dtype == weight.scale.dtype
    rewritten = layout.write(again)
    assert all(torch.equal(rewritten[name], written[name]) for name in written)


@given(gptq_cases() | awq_cases() | marlin24_cases())
@settings(max_examples=60, deadline=None)
def test_written_tensors_are_those_that_the_layout_announces(case: Case) -> None:
    layout, weight = case
    parts = layout.parts(*weight.shape)
    written = layout.write(weight)
    assert written.keys() == parts.keys()
    for name, tensor in written.items():
        assert tuple(tensor.shape) in parts[name].shapes
        assert TORCH_NAMES[tensor.dtype] in parts[name].dtypes
        assert tensor.is_contiguous()


@given(gptq_cases())
@settings(max_examples=30, deadline=None)
def test_inputs_of_a_group_keep_their_order_in_act_order(case: Case) -> None:
    layout, weight = case
    again = layout.read(layout.write(weight), *weight.shape)
    assert isinstance(again, IntWeight)
    if again.perm is not None:
        groups = torch.split(again.perm, again.group)
        assert all(torch.equal(group, group.sort().values) for group in groups)


@given(st.sampled_from(stream.WIDTHS), st.integers(0, 31), st.integers(0, 63), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_number_of_gptq_lies_where_its_input_says_in_the_column_of_its_output(
    bits: int, n: int, k: int, value: int
) -> None:
    q = torch.zeros(32, 64, dtype=torch.uint8)
    q[n, k] = value % (1 << bits)
    weight = IntWeight(q=q, scale=torch.ones(32, 1), bits=bits, group=64)
    words = GptqLayout(bits=bits).write(weight)["qweight"].t().tolist()
    column = sum((word & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(words[n]))
    assert column == (value % (1 << bits)) << (bits * k)
    assert not any(any(other) for row, other in enumerate(words) if row != n)


@pytest.mark.parametrize(
    ("layout", "rows", "columns"),
    [
        (GptqLayout(bits=4, group=128), 12, 128),
        (GptqLayout(bits=4, group=128), 16, 130),
        (GptqLayout(bits=3, group=128), 16, 128),
        (GptqLayout(bits=2, group=128), 16, 120),
        (AwqLayout(group=128), 12, 128),
        (AwqLayout(group=128), 16, 192),
        (Marlin24Layout(bits=4), 32, 128),
        (Marlin24Layout(bits=4), 64, 48),
        (Marlin24Layout(bits=4, group=128), 64, 192),
    ],
)
def test_a_shape_that_fits_no_words_or_groups_is_refused(
    layout: Layout, rows: int, columns: int
) -> None:
    expected = f"{rows} outputs and {columns} inputs does not fit .*; expected (a )?multiple"
    with pytest.raises(LayoutError, match=expected):
        layout.parts(rows, columns)


@pytest.mark.parametrize(
    ("layout", "weight", "reason"),
    [
        (GptqLayout(bits=4), Draw().ints(32, 64, 8, 64), "8 bits in groups of 64"),
        (GptqLayout(bits=4, group=32), Draw().ints(32, 64, 4, 64), "4 bits in groups of 64"),
        (GptqLayout(bits=4), Draw().ints(32, 64, 4, 64, act_order=True), "act order"),
        (GptqLayout(bits=4), Draw().ints(32, 64, 4, 64, asymmetric=True), "is symmetric"),
        (GptqLayout(bits=4), Draw().sparse(64, 64, 4, 64), "no SparseIntWeight"),
        (GptqLayout(bits=4), Draw().ints(12, 64, 4, 64), "multiples of 8"),
        (AwqLayout(), Draw().ints(12, 64, 4, 64), "multiple of 8 outputs"),
        (AwqLayout(), Draw().ints(32, 64, 8, 64), "8 bits in groups of 64"),
        (AwqLayout(), Draw().ints(32, 64, 4, 64, act_order=True), "act order"),
        (AwqLayout(symmetric=True), Draw().ints(32, 64, 4, 64, asymmetric=True), "zero points"),
        (AwqLayout(), Draw().sparse(64, 64, 4, 64), "no SparseIntWeight"),
        (Marlin24Layout(bits=4), Draw().sparse(64, 64, 8, 64), "8 bits in groups of 64"),
        (Marlin24Layout(bits=4), Draw().sparse(32, 64, 4, 64), "multiples of 64 outputs"),
        (Marlin24Layout(bits=4), Draw().ints(64, 64, 4, 64), "no IntWeight"),
    ],
)
def test_a_weight_that_the_format_cannot_hold_is_not_written(
    layout: Layout, weight: Weight, reason: str
) -> None:
    with pytest.raises(LayoutError, match=reason):
        layout.write(weight)


@pytest.mark.parametrize(
    ("layout", "zero"),
    [
        (GptqLayout(bits=4, symmetric=False), 0),  # version 1 would store -1
        (GptqLayout(bits=4, symmetric=False, version=2), 16),
        (AwqLayout(), 16),
        (AwqLayout(), -1),
    ],
)
def test_a_zero_point_that_does_not_fit_is_not_wrapped_around(layout: Layout, zero: int) -> None:
    weight = replace(Draw().ints(32, 64, 4, 64), zero=torch.full((32, 1), zero, dtype=torch.int16))
    with pytest.raises(LayoutError, match=f"zero points are {zero} to {zero}"):
        layout.write(weight)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        (GptqLayout(bits=4), "scales"),
        (GptqLayout(bits=3, symmetric=False, act_order=True), "scales"),
        (AwqLayout(), "scales"),
        (Marlin24Layout(bits=4), "s"),
        (Marlin24Layout(bits=4, names=COMPRESSED_TENSORS_NAMES), "scale_packed"),
    ],
)
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 0.0])
def test_scales_that_wipe_out_weights_are_refused(layout: Layout, name: str, broken: float) -> None:
    rows, columns = 64, 64
    bits = layout.bits if isinstance(layout, GptqLayout) else 4
    sparse = isinstance(layout, Marlin24Layout)
    weight = Draw().sparse(64, 64, 4, 64) if sparse else Draw().ints(64, 64, bits, 64)
    stored = layout.write(weight)
    stored[name][0, 3] = broken
    with pytest.raises(LayoutError, match=f"^{name} holds (NaN|0)"):
        layout.read(stored, rows, columns)


def test_a_scale_of_zero_behind_which_all_weights_are_zero_is_read() -> None:
    weight = Draw().ints(32, 64, 4, 32)
    weight.q[5, :32] = 8
    weight.scale[5, 0] = 0
    layout = GptqLayout(bits=4, group=32)
    assert torch.equal(layout.read(layout.write(weight), 32, 64).dense(), weight.dense())
