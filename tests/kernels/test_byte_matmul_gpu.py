"""Products with weights of 8 bits on a GPU, beside sums in fp64 of what was rounded."""

import re
from dataclasses import fields, replace
from typing import Any, get_args

import pytest
import torch

from aweigh_kernels import byte_matmul as module
from aweigh_kernels import fp8_weight, int8_weight
from aweigh_kernels.activation import Activation
from aweigh_kernels.byte_matmul import byte_matmul, pack, scratch_on
from aweigh_kernels.byte_schedule import Few, Many
from aweigh_kernels.fp8_weight import Fp8Activation, Fp8Weight
from aweigh_kernels.gated import gated
from aweigh_kernels.gpus import Gpu
from aweigh_kernels.int8_weight import Int8Activation, Int8Weight
from aweigh_kernels.rms_norm import rms_norm, rms_norm_rounded
from aweigh_kernels.round_rows import round_gated, round_rows
from aweigh_kernels.rounding import ByteRounding, Rounded
from aweigh_kernels.weight import prepare, reference, rounded
from tests.kernels.exact import FP32, ROUNDED, expect_exact
from tests.kernels.gpu_products import expect_same_in_graphs
from tests.kernels.weights import Draw

pytestmark = pytest.mark.gpu

TENSOR_CORES = 2**-11  # of a sum of absolute values: they add 128 or 256 E4M3 with about 14 bits
MANY = 1100  # tokens
STATIC = torch.tensor(0.03)
ZERO = torch.tensor(-7, dtype=torch.int32)
NAN = float("nan")
Weight = Fp8Weight | Int8Weight


def weights(rows: int, columns: int) -> dict[str, Weight]:
    """One of each kind."""
    draw = Draw(rows + columns)
    token, group = Fp8Activation(rounding="token"), Fp8Activation(rounding="group")
    static = Fp8Activation(rounding="static", scale=STATIC)
    e5m2 = torch.float8_e5m2
    return {
        "fp8 weights alone": draw.fp8(rows, columns),
        "fp8 blocks weights alone": draw.fp8(rows, columns, blocks=True),
        "fp8 token": draw.fp8(rows, columns, token),
        "fp8 static": draw.fp8(rows, columns, static),
        "fp8 group": draw.fp8(rows, columns, group),
        "fp8 blocks token": draw.fp8(rows, columns, token, blocks=True),
        "fp8 blocks group": draw.fp8(rows, columns, group, blocks=True),
        "e5m2 token": draw.fp8(rows, columns, token, dtype=e5m2),
        "e5m2 weights alone": draw.fp8(rows, columns, dtype=e5m2),
        "e5m2 blocks group": draw.fp8(rows, columns, group, blocks=True, dtype=e5m2),
        "e5m2 blocks weights alone": draw.fp8(rows, columns, blocks=True, dtype=e5m2),
        "int8 dynamic": draw.int8(rows, columns, Int8Activation()),
        "int8 dynamic zeros": draw.int8(rows, columns, Int8Activation(symmetric=False)),
        "int8 static": draw.int8(rows, columns, Int8Activation(scale=STATIC)),
        "int8 static zeros": draw.int8(
            rows, columns, Int8Activation(symmetric=False, scale=STATIC, zero=ZERO)
        ),
    }


KINDS = list(weights(1, 128))


def on_gpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cuda()
    if hasattr(value, "__dataclass_fields__"):
        return replace(value, **{f.name: on_gpu(getattr(value, f.name)) for f in fields(value)})
    return value


def activations(tokens: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return Draw(tokens).normal(tokens, columns).to(dtype)


def check(weight: Weight, tokens: int, dtype: torch.dtype = torch.bfloat16) -> None:
    x = activations(tokens, weight.shape[1], dtype)
    found = prepare(on_gpu(weight), dtype)(x.cuda())
    assert (found.dtype, found.shape) == (dtype, (tokens, weight.shape[0]))
    if isinstance(weight, Int8Weight):
        assert torch.equal(found.cpu(), reference(x, weight))  # exact sums, rounded alike
        return
    inputs, dense = rounded(x, weight).cuda(), weight.dense().cuda()
    expect_exact(found, inputs, dense, lost=_inexact(weight, tokens, dtype))


def _inexact(weight: Fp8Weight, tokens: int, dtype: torch.dtype) -> float:
    """Of a sum of absolute values."""
    if weight.activation is None:
        return ROUNDED[dtype] if tokens >= MANY else FP32  # many meet weights that are made dense
    return TENSOR_CORES if Gpu.of(torch.device("cuda")).fp8 else ROUNDED[dtype]


@pytest.mark.parametrize("dtype", list(ROUNDED), ids=str)
@pytest.mark.parametrize(
    "size", [(1, 8), (100, 72), (257, 576), (1024, 4096), (333, 1000)], ids=str
)
@pytest.mark.parametrize("kind", KINDS)
def test_matrices_of_any_size(kind: str, size: tuple[int, int], dtype: torch.dtype) -> None:
    weight = weights(*size)[kind]
    for tokens in (1, 7, 16, 33, 64, 65, 128, 129, 300):
        check(weight, tokens, dtype)


@pytest.mark.parametrize("size", [(6144, 4096), (4096, 14_336), (28_672, 4096)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_matrices_of_a_layer(kind: str, size: tuple[int, int]) -> None:
    weight = weights(*size)[kind]
    for tokens in (1, 16, 100, MANY):
        check(weight, tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "chosen",
    [
        Few(16, 64, 128, 3, 3),
        Few(32, 64, 128, 8, 3),
        Few(64, 128, 128, 1, 3),
        Few(128, 128, 128, 1, 3, num_warps=8),
        Many(rows=128, num_stages=3, band=3),
    ],
    ids=str,
)
def test_however_it_is_divided_it_is_the_same(
    kind: str, chosen: Few | Many, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = weights(500, 1024)[kind]
    narrow = isinstance(weight, Int8Weight) or weight.activation is not None
    if isinstance(chosen, Many) and not (narrow and Gpu.of(torch.device("cuda")).warpgroups):
        pytest.skip("only numbers of 8 bits come by descriptors")
    monkeypatch.setattr(module, "schedule", lambda *_: chosen)
    for tokens in (3, 70):
        check(weight, tokens)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "int8" in kind])
def test_integers_are_exact_as_fp16_too(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = replace(Gpu.of(torch.device("cuda")), int8=False)
    monkeypatch.setattr(Gpu, "of", lambda _: slow)
    for size in ((257, 576), (4096, 14_336)):
        weight = weights(*size)[kind]
        for tokens in (1, 33, 100, MANY):
            check(weight, tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(kind: str) -> None:
    weight = on_gpu(weights(64, 128)[kind])
    x = torch.empty(0, 128, dtype=torch.bfloat16, device="cuda")
    assert prepare(weight, x.dtype)(x).shape == (0, 64)


@pytest.mark.parametrize("tokens", [1, 16, 64, 100, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_launches_repeat_to_the_bit(kind: str, tokens: int) -> None:
    product = prepare(on_gpu(weights(4096, 4096)[kind]), torch.bfloat16)
    x = activations(tokens, 4096).cuda()
    once = product(x)
    assert all(torch.equal(product(x), once) for _ in range(50))


@pytest.mark.parametrize("tokens", [3, 40, 100, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_a_number_that_is_none_stays_in_its_row(kind: str, tokens: int) -> None:
    product = prepare(on_gpu(weights(512, 1000)[kind]), torch.bfloat16)
    x = activations(tokens, 1000).cuda()
    whole = product(x)
    x[1, 999] = NAN
    found = product(x)
    others = [row for row in range(tokens) if row != 1]
    assert torch.equal(found[others], whole[others])
    if "static" not in kind or "fp8" in kind:  # an integer by a fixed scale has no such number
        assert bool(found[1].isnan().all())


@pytest.mark.parametrize("tokens", [4, 100, 200, 600])
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_of_products_that_need_each_other(kind: str, tokens: int) -> None:
    """By every way there is: 600 tokens are many, or meet weights that are made dense."""
    product = prepare(on_gpu(weights(4096, 4096)[kind]), torch.bfloat16)
    x = activations(tokens, 4096).cuda()

    def multiply(given: torch.Tensor) -> torch.Tensor:
        found = product(given)
        return found / found.abs().amax(-1, keepdim=True)

    expect_same_in_graphs(multiply, x)


@pytest.mark.parametrize("dtype", list(ROUNDED), ids=str)
@pytest.mark.parametrize("columns", [1, 100, 4096, 20_000, 53_248])
def test_activations_are_rounded_as_on_a_cpu(columns: int, dtype: torch.dtype) -> None:
    for tokens in (1, 9, 300):
        x = (Draw(tokens).normal(tokens, columns) * 3).to(dtype)
        for by in ("token", "group", "static"):
            scale = STATIC if by == "static" else None
            if Gpu.of(torch.device("cuda")).fp8:
                numbers, scales = fp8_weight.quantize(x, Fp8Activation(rounding=by, scale=scale))
                how = ByteRounding(kind=torch.float8_e4m3fn, by=by, scale=on_gpu(scale))
                expect_rounded(round_rows(x.cuda(), how), numbers, scales)
        for symmetric in (True, False):
            given = Int8Activation(symmetric=symmetric)
            numbers, scales, zeros = int8_weight.quantize(x, given)
            how = ByteRounding(kind=torch.int8, by="token", shifted=not symmetric)
            found = round_rows(x.cuda(), how)
            expect_rounded(found, numbers, scales)
            if found.zero is not None:
                assert torch.equal(found.zero.cpu(), zeros[:, 0].int())


def expect_rounded(found: Rounded, numbers: torch.Tensor, scale: torch.Tensor) -> None:
    columns = numbers.shape[1]
    assert torch.equal(
        found.numbers[:, :columns].view(torch.uint8).cpu(), numbers.view(torch.uint8)
    )
    scales = found.scale.cpu()
    assert torch.equal(
        scales.t() if scales.dim() > 1 else scales[:, None],
        scale.expand(len(numbers), scale.shape[-1] if scale.dim() else 1),
    )


@pytest.mark.parametrize("columns", [100, 4096, 14_336])
@pytest.mark.parametrize("tokens", [1, 70])
def test_norms_and_gates_round_as_the_kernel_behind_them_would(tokens: int, columns: int) -> None:
    draw = Draw(tokens)
    pair, residual = (
        draw.normal(tokens, size).bfloat16().cuda() for size in (2 * columns, columns)
    )
    weight = draw.normal(columns).bfloat16().cuda()
    x = pair[:, :columns].contiguous()
    for how in roundings():
        one, other = residual.clone(), residual.clone()
        found = rms_norm_rounded(x, weight, 1e-6, how, residual=one)
        expect_same(found, round_rows(rms_norm(x, weight, 1e-6, residual=other), how))
        assert torch.equal(one, other)
        expect_same(
            rms_norm_rounded(x, weight, 1e-6, how), round_rows(rms_norm(x, weight, 1e-6), how)
        )
        for activation in get_args(Activation):
            expect_same(
                round_gated(pair, activation, how), round_rows(gated(pair, activation), how)
            )


def roundings() -> list[ByteRounding]:
    """Of every kind that this GPU has."""
    static, zero = STATIC.cuda(), ZERO.cuda()
    found = [
        ByteRounding(kind=torch.int8, by="token"),
        ByteRounding(kind=torch.int8, by="token", shifted=True),
        ByteRounding(kind=torch.int8, by="static", scale=static, shifted=True, zero=zero),
    ]
    if Gpu.of(torch.device("cuda")).fp8:
        e4m3 = torch.float8_e4m3fn
        found += [ByteRounding(kind=e4m3, by=by) for by in ("token", "group")]
        found.append(ByteRounding(kind=e4m3, by="static", scale=static))
    return found


def expect_same(found: Rounded, wanted: Rounded) -> None:
    assert torch.equal(found.numbers.view(torch.uint8), wanted.numbers.view(torch.uint8))
    assert torch.equal(found.scale, wanted.scale)
    if found.zero is not None:
        assert wanted.zero is not None
        assert torch.equal(found.zero, wanted.zero)


def test_memory_that_is_laid_out_otherwise_is_refused_by_name() -> None:
    weight = on_gpu(weights(64, 256)["int8 dynamic zeros"])
    matrix, scratch = pack(weight.q, weight.scale), scratch_on(weight.q.device)
    x = activations(4, 256).cuda()
    product = prepare(weight, torch.bfloat16)
    plain = round_rows(x, ByteRounding(kind=torch.int8, by="token"))
    shifted = round_rows(x, ByteRounding(kind=torch.int8, by="token", shifted=True))
    for given, said in (
        (x[:, :128], "x is [4, 128]; expected [T, 256]"),
        (x.half(), "x is float16"),
        (x.cpu(), "x is on cpu"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            product(given)
    for wrong, said in (
        (shifted, "x has a zero point"),
        (Rounded(plain.numbers, plain.scale[:3]), "the scale of x is float32 [3]"),
        (Rounded(plain.numbers[:, :128].contiguous(), plain.scale), "x is int8 [4, 128]"),
        (x.t().contiguous().t(), "x has strides [1, 4]"),
        (Rounded(plain.numbers.view(torch.float8_e4m3fn), plain.scale), "x is float8_e4m3fn"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            byte_matmul(wrong, matrix, scratch, x.dtype)
