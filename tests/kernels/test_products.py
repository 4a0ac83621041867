"""Every kind of quantized weight: its meaning, its reference and its product agree."""

import pytest
import torch

from aweigh_kernels.fp4_weight import MAGNITUDES, Fp4Weight, nearest, quantize, values
from aweigh_kernels.fp8_weight import Fp8Activation, Fp8Weight
from aweigh_kernels.int8_weight import Int8Activation, Int8Weight
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.sparse_int_weight import SparseIntWeight
from aweigh_kernels.weight import Weight, prepare, reference, rounded, stack
from tests.kernels.weights import Draw, every_kind

KINDS = dict(every_kind())
# Both sides round products to x's number format once; sums may be added in another order.
RELATIVE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def meaning(weight: Weight, row: int, column: int) -> float:
    """One number of a weight, by its module's formula, in Python's floats."""
    match weight:
        case IntWeight():
            place = column if weight.perm is None else weight.perm.tolist().index(column)
            n, group = min(row, len(weight.scale) - 1), place // weight.group
            zero = 1 << (weight.bits - 1) if weight.zero is None else int(weight.zero[n, group])
            return float(weight.scale[n, group]) * (int(weight.q[row, place]) - zero)
        case Int8Weight():
            return float(weight.scale[row, 0]) * int(weight.q[row, column])
        case Fp8Weight():
            scale = weight.scale[row // 128, column // 128] if weight.blocks else weight.scale[row]
            return float(scale) * float(weight.q[row, column])
        case Fp4Weight():
            code = int(weight.q[row, column])
            value = MAGNITUDES[code % 8] * (-1 if code >= 8 else 1)
            scale = weight.scale[row, column // 16].double() * weight.global_scale[row]
            return value * float(scale.float())
        case SparseIntWeight():
            for kept in (column // 4 * 2, column // 4 * 2 + 1):
                if int(weight.index[row, kept]) == column % 4:
                    number = int(weight.q[row, kept]) - (1 << (weight.bits - 1))
                    return float(weight.scale[row, column // weight.group]) * number
            return 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_dense_is_what_the_formula_says(kind: str) -> None:
    weight = KINDS[kind]
    dense = weight.dense()
    for row in (0, 1, 47):
        for column in (0, 1, 2, 3, 17, 63, 64, 130, 255):
            expected = torch.tensor(meaning(weight, row, column))
            assert dense[row, column] == expected, (row, column)


@pytest.mark.parametrize("kind", KINDS)
def test_one_hot_activations_read_the_weights_exactly(kind: str) -> None:
    """Packing loses nothing: every column comes back to the last bit."""
    weight = KINDS[kind]
    if kind.startswith("int8 dynamic") or not torch.equal(
        rounded(torch.eye(256), weight), torch.eye(256)
    ):
        pytest.skip("these activations are quantized, in steps of which 1 is no exact multiple")
    for rows in (256, 1):
        product = prepare(weight, torch.float32)
        found = torch.cat([product(part) for part in torch.split(torch.eye(256), rows)])
        assert torch.equal(found.t(), weight.dense())


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("num_rows", [0, 1, 5, 97])
@pytest.mark.parametrize("kind", KINDS)
def test_the_product_is_that_of_the_reference(kind: str, num_rows: int, dtype: torch.dtype) -> None:
    weight = KINDS[kind]
    x = Draw(num_rows).normal(num_rows, 256).to(dtype)
    expected = reference(x, weight)
    found = prepare(weight, dtype)(x)
    assert (found.dtype, found.shape) == (dtype, (num_rows, 48))
    largest = expected.abs().max().item() if num_rows else 0.0
    torch.testing.assert_close(
        found, expected, rtol=RELATIVE[dtype], atol=RELATIVE[dtype] * largest
    )


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("group", [32, 64, 128, 256])
def test_rows_that_a_processor_keeps_side_by_side_are_read_in_their_order(
    group: int, dtype: torch.dtype
) -> None:
    """With 192 rows 4 bits lie as the processor's own product wants them, for many rows, too."""
    weight = Draw(group).ints(192, 256, 4, group)
    product, hot = prepare(weight, dtype), torch.eye(256, dtype=dtype)
    few = torch.cat([product(part) for part in hot[:, None]])
    torch.testing.assert_close(product(hot), few, rtol=RELATIVE[dtype], atol=0)
    torch.testing.assert_close(product(hot).t(), weight.dense(dtype), rtol=RELATIVE[dtype], atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_each_token_is_computed_by_itself(kind: str) -> None:
    """What else is in a step does not change how a token's activations are rounded."""
    weight, x = KINDS[kind], Draw().normal(6, 256)
    alone = torch.cat([rounded(row[None], weight) for row in x])
    assert torch.equal(rounded(x, weight), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_of_zeros_gives_zeros(kind: str) -> None:
    x = torch.zeros(2, 256)
    assert torch.equal(reference(x, KINDS[kind]), torch.zeros(2, 48))
    assert torch.equal(prepare(KINDS[kind], torch.float32)(x), torch.zeros(2, 48))


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_shards_keep_their_own_scales(kind: str) -> None:
    wide = dict(every_kind(rows=128))  # whole blocks
    shards = [wide[kind], KINDS[kind]]
    if kind.endswith("act order"):
        shards = [KINDS[kind], KINDS[kind]]
    (whole,) = stack(shards)
    assert torch.equal(whole.dense(), torch.cat([shard.dense() for shard in shards]))


def test_what_differs_in_kind_stays_apart() -> None:
    draw = Draw()
    four, three = draw.ints(16, 128, 4, 128), draw.ints(16, 128, 3, 128)
    ordered = draw.ints(16, 128, 4, 128, act_order=True)
    dynamic = draw.int8(16, 128, Int8Activation())
    static = draw.int8(16, 128, Int8Activation(scale=torch.tensor(0.1)))
    shards: list[Weight] = [four, four, three, ordered, dynamic, static, draw.fp8(16, 128)]
    assert [each.shape[0] for each in stack(shards)] == [32, 16, 16, 16, 16, 16]


def test_a_block_never_spans_two_shards() -> None:
    draw = Draw()
    small, large = draw.fp8(64, 128, blocks=True), draw.fp8(128, 128, blocks=True)
    assert len(stack([large, small])) == 1
    assert len(stack([small, large])) == 2


def test_columns_that_fill_no_group_have_a_scale_of_their_own() -> None:
    weight = Draw().ints(16, 100, 4, 32, asymmetric=True)
    assert weight.scale.shape == (16, 4)
    x = torch.eye(100)
    assert torch.equal(prepare(weight, torch.float32)(x).t(), weight.dense())


@pytest.mark.parametrize("code", range(16))
def test_a_value_of_e2m1_is_its_own_nearest(code: int) -> None:
    value = values(torch.tensor([code]))
    assert nearest(value).item() == code


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0.25, 0.0), (0.75, 1.0), (1.25, 1.0), (1.75, 2.0), (2.5, 2.0), (3.5, 4.0), (5.0, 4.0)],
)
def test_halfway_numbers_go_to_the_even_one(number: float, expected: float) -> None:
    assert values(nearest(torch.tensor([number, -number]))).tolist() == [expected, -expected]


def test_nvfp4_covers_what_the_global_scale_was_made_for() -> None:
    x = Draw().normal(8, 64)
    global_scale = x.abs().max().double() / (6 * 448)
    codes, scale = quantize(x, global_scale)
    found = values(codes).view(8, 4, 16) * (scale.float() * global_scale.float())[..., None]
    assert (found.flatten(1) - x).abs().max() <= x.abs().max() / 6  # half of the widest gap


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda d: d.ints(16, 128, 5, 128), r"bits is 5; expected one of \(2, 3, 4, 8\)"),
        (
            lambda d: IntWeight(
                q=d.ints(16, 128, 4, 64).q, scale=d.scales(16, 1), bits=4, group=64
            ),
            r"scale is float32 \[16, 1\]; expected .* \[16, 2\] or \[1, 2\]",
        ),
        (lambda d: d.fp4(16, 40), r"q is \[16, 40\]; expected \[N, K\], K a multiple of 16"),
        (lambda d: d.sparse(16, 128, 3, 128), r"bits is 3; expected one of \(4, 8\)"),
        (
            lambda d: Fp8Activation(rounding="static"),
            r"activations rounded by static have no scale",
        ),
        (
            lambda d: Int8Activation(symmetric=False, scale=torch.tensor(1.0)),
            r"a zero point of the activations goes with",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(build: object, said: str) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=said):
        build(Draw())


@pytest.mark.parametrize("kind", KINDS)
def test_activations_of_another_width_are_refused(kind: str) -> None:
    x = torch.zeros(2, 128)
    for multiply in (prepare(KINDS[kind], torch.float32), lambda x: reference(x, KINDS[kind])):
        with pytest.raises(ValueError, match=r"x is \[2, 128\]; expected \[T, 256\]"):
            multiply(x)
