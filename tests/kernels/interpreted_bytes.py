"""Runs products with weights of 8 bits in Triton's interpreter, which has to be chosen first.

Prints, as JSON, what went wrong: nothing as a rule.
"""

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast, get_args

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from aweigh_kernels import (
    byte_matmul,
    fp8_weight,
    int8_weight,
    rms_norm,
    round_rows,
    rounding,
)
from aweigh_kernels.activation import Activation
from aweigh_kernels.byte_schedule import Few, Many, schedule
from aweigh_kernels.fp8_weight import Fp8Weight
from aweigh_kernels.gpu import gated as gated_kernels
from aweigh_kernels.gpu import rms_norm as norm_kernels
from aweigh_kernels.gpus import Gpu
from aweigh_kernels.int8_weight import Int8Weight
from aweigh_kernels.rounding import ByteRounding, Rounded
from aweigh_kernels.skinny_matmul import Scratch
from tests.kernels import architectures
from tests.kernels.weights import Draw

STATIC = torch.tensor(0.0625)
NAN = float("nan")
GPU = replace(architectures.gpu(89), num_processors=4)
OLD = replace(GPU, fp8=False)
LONG = replace(GPU, short_sums=False, int8=False)
SCHEDULES: dict[str, Few | Many] = {
    "alone": Few(tokens=16, rows=64, depth=128, splits=1, num_stages=3),
    "shared": Few(tokens=16, rows=64, depth=128, splits=2, num_stages=3),
    "unevenly shared": Few(tokens=32, rows=128, depth=128, splits=4, num_stages=3),
    "deep": Few(tokens=16, rows=64, depth=256, splits=2, num_stages=3),
    "many": Many(rows=128, num_stages=3),
    "many, wide": Many(rows=256, num_stages=3, band=2),
}
SIZES = ((130, 200), (65, 384))  # rows and columns
TOKENS = (1, 5, 17, 64)
HOT = (0, 1, 2, 3, 15, 16, 31, 63, 64, 100, 126, 127, 128, 129, 144, 198, 199)  # and the last


@dataclass(frozen=True)
class Kind:
    """Of a product."""

    name: str
    weight: torch.dtype
    rounding: ByteRounding | None
    hot: float  # a number that is exact when it is rounded so, alone in its row
    blocks: bool = False

    @property
    def activations(self) -> torch.dtype:
        """Those that are multiplied as they are: the interpreter has no products of bf16."""
        return torch.float16 if self.rounding is None else torch.bfloat16

    def matrix(self, rows: int, columns: int, *, exact: bool = False) -> Fp8Weight | Int8Weight:
        """Random; if `exact`, with scales that are powers of two."""
        draw = Draw(rows)
        made: Fp8Weight | Int8Weight
        if self.weight == torch.int8:
            made = draw.int8(rows, columns, int8_weight.Int8Activation())
        else:
            made = draw.fp8(rows, columns, blocks=self.blocks, dtype=self.weight)
        if exact:
            made.scale.copy_(2.0 ** draw.integers(-4, 5, *made.scale.shape))
        return made


def kinds() -> Iterator[Kind]:
    e4m3, e5m2 = fp8_weight.FORMATS
    fp8 = {
        "token": ByteRounding(kind=e4m3, by="token"),
        "group": ByteRounding(kind=e4m3, by="group"),
        "static": ByteRounding(kind=e4m3, by="static", scale=STATIC),
        "weights alone": None,
    }
    for name, how in fp8.items():
        yield Kind(f"fp8 {name}", e4m3, how, 28.0)
        yield Kind(f"fp8 blocks {name}", e4m3, how, 28.0, blocks=True)
    yield Kind("e5m2", e5m2, fp8["token"], 28.0)
    yield Kind("e5m2 weights alone", e5m2, None, 28.0)
    yield Kind("e5m2 blocks group", e5m2, fp8["group"], 28.0, blocks=True)
    yield Kind("e5m2 blocks weights alone", e5m2, None, 28.0, blocks=True)
    i8, zero = torch.int8, torch.tensor(-7, dtype=torch.int32)
    static = ByteRounding(kind=i8, by="static", scale=STATIC)
    yield Kind("int8 dynamic", i8, ByteRounding(kind=i8, by="token"), 127 / 16)
    yield Kind("int8 dynamic zeros", i8, ByteRounding(kind=i8, by="token", shifted=True), 255 / 16)
    yield Kind("int8 static", i8, static, 127 / 16)
    shifted = ByteRounding(kind=i8, by="static", scale=STATIC, shifted=True, zero=zero)
    yield Kind("int8 static zeros", i8, shifted, 127 / 16)


def main() -> None:
    compute_as_hardware_does()
    wrong = [*rounded_otherwise(), *rounded_otherwise_together()]
    for kind in kinds():
        wrong += one_hot_otherwise(kind, *SIZES[0], SCHEDULES)
        wrong += one_hot_otherwise(kind, *SIZES[1], ("unevenly shared", "many"))
        wrong += random_otherwise(kind, *SIZES[0])
        if kind.rounding is None:
            wrong += widened_otherwise(kind, 200, 200)
    print(json.dumps(wrong))  # noqa: T201


def roundings() -> dict[str, ByteRounding]:
    """Each kind's, once."""
    distinct = {id(kind.rounding): kind for kind in reversed(list(kinds()))}
    return {kind.name: kind.rounding for kind in distinct.values() if kind.rounding is not None}


def rounded_otherwise() -> Iterator[str]:
    """Numbers, scales and zero points, to the last bit."""
    bf16, fp16 = torch.bfloat16, torch.float16
    for dtype, rows, columns in (
        (fp16, 1, 128),
        (bf16, 3, 200),
        (bf16, 2, 2600),
        (bf16, 2, 20_000),
    ):
        x = (Draw(rows).normal(rows, columns) * 3).to(dtype)
        x[0, :5] = torch.tensor([100.0, -0.0, 1e-6, 28.5, -32.0])
        x[rows - 1, 130:] = 0
        for name, how in roundings().items():
            yield from _unlike_reference(f"{name}, {dtype} {rows} x {columns}", x, how)
    sizes = torch.tensor([1e-37, 1e-36, 1e-30, 1e-18, 1e-6, 1e18, 1e36])
    x = (Draw(7).normal(7, 2048) * sizes[:, None]).bfloat16()
    x[x.abs() < torch.finfo(bf16).smallest_normal] = 0  # others the interpreter reads wrong
    for name, how in roundings().items():
        yield from _unlike_reference(f"{name}, of all sizes", x, how)
    x = torch.tensor([[float("inf"), -float("inf"), 1.0] + [0.0] * 125], dtype=bf16)
    how = roundings()["fp8 static"]
    yield from _unlike_reference("infinite ones", x, how)
    x = torch.ones(3, 200, dtype=torch.bfloat16)
    x[1, 7] = NAN
    for kind in rounding.KINDS:
        how = ByteRounding(kind=kind, by="token")
        if round_rows.launch(x, how, early=False).scale.isnan().tolist() != [False, True, False]:
            yield f"{kind}: a number that is none counts for another row, or not for its own"


def rounded_otherwise_together() -> Iterator[str]:
    """By the kernels of norms and gates, beside these and rounding one after the other."""
    for rows, columns in ((1, 100), (3, 640)):
        draw = Draw(columns)
        x, weight = (draw.normal(*shape).half() for shape in ((rows, 2 * columns), (columns,)))
        for kind, how in roundings().items():
            for gates in get_args(Activation):
                found = round_rows.launch(x, how, gates=gates, early=False)
                wanted = round_rows.launch(gated(x, gates), how, early=False)
                yield from unlike(f"{gates}, {kind}, {rows} x {columns}", found, wanted)
            for added in (None, x[:, columns:].contiguous()):
                found, normed, residual = _normed(x[:, :columns].contiguous(), weight, added, how)
                name = f"norm, {kind}, {rows} x {columns}, residual {added is not None}"
                yield from unlike(name, found, round_rows.launch(normed, how, early=False))
                if added is not None and not torch.equal(added, residual):
                    yield f"sum: {name}"


def gated(x: torch.Tensor, gates: Activation) -> torch.Tensor:
    size = x.shape[1] // 2
    output = x.new_empty(len(x), size)
    gated_kernels.multiply_gated[(len(x),)](
        x, output, SIZE=size, CHUNKS=1, BLOCK=1024, GELU=gates != "silu", EARLY=False
    )
    return output


def _normed(
    x: torch.Tensor, weight: torch.Tensor, added: torch.Tensor | None, how: ByteRounding
) -> tuple[Rounded, torch.Tensor, torch.Tensor]:
    """Rounded, not rounded, and what became of the residual of the latter."""
    residual = x if added is None else added.clone()
    output = torch.empty_like(x)
    rows, size = x.shape
    constants = {"SIZE": size, "SIZE_UP": 1024, "ROWS": 2, "ADD": added is not None}
    norm_kernels.normalize[(-(-rows // 2),)](
        x, residual, weight, output, rows, 1e-6, EARLY=False, **constants
    )
    found = rms_norm.launch_rounded(x, weight, 1e-6, how, residual=added, early=False)
    return found, output, residual


def unlike(name: str, found: Rounded, wanted: Rounded) -> Iterator[str]:
    if not torch.equal(bits(found.numbers), bits(wanted.numbers)):
        yield f"numbers: {name}"
    if not torch.equal(found.scale, wanted.scale):
        yield f"scales: {name}"
    if found.zero is not None and not torch.equal(found.zero, cast(torch.Tensor, wanted.zero)):
        yield f"zero points: {name}"


def _unlike_reference(name: str, x: torch.Tensor, how: ByteRounding) -> Iterator[str]:
    found = round_rows.launch(x, how, early=False)
    numbers, scale, zero = quantized(x, how)
    if not torch.equal(bits(found.numbers[:, : x.shape[1]]), bits(numbers)):
        yield f"numbers: {name}"
    if not torch.equal(found.scale, scale):
        yield f"scales: {name}"
    if found.zero is not None and not torch.equal(found.zero, zero.int()):
        yield f"zero points: {name}"


def quantized(
    x: torch.Tensor, how: ByteRounding
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """By the references, laid out as the kernels do: numbers, scales, zero points."""
    if how.kind == torch.int8:
        integers = int8_weight.Int8Activation(
            symmetric=not how.shifted, scale=how.scale, zero=how.zero
        )
        numbers, scale, zero = int8_weight.quantize(x, integers)
        return numbers, _each(scale, x), _each(zero, x)
    fp8 = fp8_weight.Fp8Activation(rounding=how.by, scale=how.scale)
    numbers, scale = fp8_weight.quantize(x, fp8)
    return numbers, scale.t() if how.by == "group" else _each(scale, x), torch.zeros(len(x))


def _each(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return value.reshape(-1).expand(len(x))


def bits(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.view(torch.uint8)


def one_hot_otherwise(
    kind: Kind, rows: int, columns: int, schedules: Iterable[str]
) -> Iterator[str]:
    """Every number of the weight comes back exactly, whatever reads it."""
    weight = kind.matrix(rows, columns, exact=True)
    hot = [*HOT, columns - 1]
    x = torch.eye(columns, dtype=kind.activations)[hot] * kind.hot
    wanted = weight.dense().t()[hot] * kind.hot
    for name in schedules:
        chosen = SCHEDULES[name]
        if _takes(kind, chosen, columns) and not torch.equal(
            computed(kind, weight, x, chosen), wanted
        ):
            yield f"one-hot, {kind.name}, {rows} x {columns}, {name}"
    said, gpu = ("by codes", OLD) if kind.rounding is None else ("other sums", LONG)
    if not torch.equal(computed(kind, weight, x, SCHEDULES["shared"], gpu), wanted):
        yield f"one-hot, {kind.name}, {rows} x {columns}, {said}"


def widened_otherwise(kind: Kind, rows: int, columns: int) -> Iterator[str]:
    """What is made dense is what the weight says, rounded once."""
    weight = kind.matrix(rows, columns)
    for gpu in (GPU, OLD):
        found = byte_matmul.widened(packed(kind, weight), slice(128, rows), torch.float16, gpu)
        if not torch.equal(found, weight.dense(torch.float16)[128:]):
            yield f"dense, {kind.name}, {rows} x {columns}, {gpu}"


def scratch() -> Scratch:
    made = SimpleNamespace(
        sums=torch.full((1 << 20,), NAN), arrived=torch.zeros(1 << 10, dtype=torch.int32)
    )
    return cast(Scratch, made)


def _takes(kind: Kind, chosen: Few | Many, columns: int) -> bool:
    parts = kind.blocks or (kind.rounding is not None and kind.rounding.by == "group")
    if isinstance(chosen, Many):
        return kind.rounding is not None and (chosen.rows == 128 or kind.weight == torch.int8)
    return chosen.depth == 128 or (not parts and rounding.padded(columns) % chosen.depth == 0)


def random_otherwise(kind: Kind, rows: int, columns: int) -> Iterator[str]:
    """As the schedules of a small GPU, beside sums in fp64 of what was rounded."""
    weight = kind.matrix(rows, columns)
    for num_tokens in TOKENS:
        x = Draw(num_tokens).normal(num_tokens, columns).to(kind.activations)
        inputs = _as_multiplied(x, kind.rounding)
        dense = weight.dense().double().t()
        exact, sums = inputs @ dense, inputs.abs() @ dense.abs()
        chosen = schedule(byte_matmul.shape_of(given(x, kind.rounding), packed(kind, weight)), GPU)
        error = (computed(kind, weight, x, chosen).double() - exact).abs()
        if not bool((error <= 1e-5 * sums + 1e-7).all()):
            yield f"random, {kind.name}, {rows} x {columns}, {num_tokens} tokens, {chosen}"


def _as_multiplied(x: torch.Tensor, how: ByteRounding | None) -> torch.Tensor:
    if how is None:
        return x.double()
    numbers, scale, zero = quantized(x, how)
    if how.by == "group":
        scale = scale.t().repeat_interleave(128, 1)[:, : x.shape[1]]
        return numbers.double() * scale.double()
    return (numbers.double() - zero.double()[:, None]) * scale.double()[:, None]


def computed(
    kind: Kind,
    weight: Fp8Weight | Int8Weight,
    x: torch.Tensor,
    chosen: Few | Many,
    gpu: Gpu = GPU,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """[T, O]."""
    output = torch.full((len(x), len(weight.q)), NAN, dtype=dtype)
    shared = scratch()
    if len(x):
        inputs = given(x, kind.rounding)
        byte_matmul.launch(inputs, packed(kind, weight), output, shared, chosen, gpu)
    assert not shared.arrived.any()
    return output


def given(x: torch.Tensor, how: ByteRounding | None) -> torch.Tensor | Rounded:
    return x if how is None else round_rows.launch(x, how, early=False)


def packed(kind: Kind, weight: Fp8Weight | Int8Weight) -> byte_matmul.ByteMatrix:
    summed = kind.rounding is not None and kind.rounding.shifted
    return byte_matmul.pack(weight.q, weight.scale, blocks=kind.blocks, summed=summed)


def compute_as_hardware_does() -> None:
    """The interpreter rounds to 8 bits without a carry, and not to even: torch does it right.

    What is too large becomes the largest. A product is rounded before the sum that it is fused
    with: in fp64 it is exact. The order in which numpy sums depends on shapes and processors:
    in fp64 it does not show.
    """
    before = vars(interpreter)["_convert_float"]
    formats = {tl.float8e4nv: torch.float8_e4m3fn, tl.float8e5: torch.float8_e5m2}

    def converted(numbers: Any, kind: Any, other: Any, mode: Any) -> Any:
        if kind == tl.float32 and other in formats:
            wide = torch.from_numpy(np.ascontiguousarray(numbers).view(np.float32))
            most = torch.finfo(formats[other]).max
            return wide.clamp(-most, most).to(formats[other]).view(torch.uint8).numpy()
        return before(numbers, kind, other, mode)

    def fused(self: Any, x: Any, y: Any, z: Any) -> Any:
        found = x.data.astype(np.float64) * y.data + z.data
        return interpreter.TensorHandle(found.astype(z.data.dtype), z.dtype.scalar)

    narrow_dot = interpreter.InterpreterBuilder.create_dot

    def dot(self: Any, x: Any, y: Any, z: Any, *others: Any) -> Any:
        if not z.dtype.is_floating():
            return narrow_dot(self, x, y, z, *others)
        wide = interpreter.TensorHandle(z.data.astype(np.float64), tl.float64)
        found = narrow_dot(self, x, y, wide, *others).data.astype(z.data.dtype)
        return interpreter.TensorHandle(found, z.dtype.scalar)

    vars(interpreter)["_convert_float"] = converted
    interpreter.InterpreterBuilder.create_dot = dot
    interpreter.InterpreterBuilder.create_fma = fused


if __name__ == "__main__":
    main()
