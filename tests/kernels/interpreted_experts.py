"""Runs what experts are made of in Triton's interpreter, which has to be chosen first.

Prints, as JSON, what went wrong: nothing as a rule.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import torch

os.environ["TRITON_INTERPRET"] = "1"

from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_kernels import byte_matmul, int_packing, routing
from aweigh_kernels.byte_matmul import ByteMatrix
from aweigh_kernels.grouped_matmul import Shared, launch_bytes, launch_dense, launch_ints
from aweigh_kernels.int8_weight import Int8Activation
from aweigh_kernels.rounding import ByteRounding, Rounded
from aweigh_kernels.routing import Routed
from tests.kernels.interpreted_bytes import GPU as SMALL
from tests.kernels.interpreted_bytes import quantized
from tests.kernels.interpreted_tiles import NAN
from tests.kernels.routed import chosen_by
from tests.kernels.weights import Draw

GPU = replace(SMALL, num_processors=132)
STEP = {torch.bfloat16: 2**-7, torch.float16: 2**-11}  # the interpreter cuts bits of bf16 off
Multiply = Callable[[torch.Tensor, Routed], torch.Tensor]


def main() -> None:
    checks: dict[str, Callable[[], Iterator[str]]] = {
        "routing": routed_otherwise,
        "dense": dense_otherwise,
        "ints": ints_otherwise,
        "bytes": bytes_otherwise,
    }
    print(json.dumps(list(checks[sys.argv[1]]())))  # noqa: T201


@st.composite
def _logits(draw: st.DrawFn) -> tuple[torch.Tensor, int, int]:
    """Of few different numbers, so that many are equal; experts of a token, tokens of a tile."""
    num_tokens, count = draw(st.integers(1, 24)), draw(st.integers(1, 9))
    each = draw(st.integers(1, count))
    values = st.sampled_from([-4.0, -0.0, 0.0, 0.5, 1.0, 3.0])
    row = st.one_of(
        st.lists(values, min_size=count, max_size=count), st.just([NAN, *[1.0] * (count - 1)])
    )
    rows = draw(st.lists(row, min_size=num_tokens, max_size=num_tokens))
    return torch.tensor(rows, dtype=torch.bfloat16), each, draw(st.sampled_from([16, 32]))


def routed_otherwise() -> Iterator[str]:
    """Weights and choices of torch, of equal ones the first; each pair once, among its own."""
    wrong: list[str] = []

    @settings(max_examples=25, deadline=None, database=None)
    @given(_logits(), st.booleans())
    def check(drawn: tuple[torch.Tensor, int, int], normalized: bool) -> None:
        logits, each, tile_tokens = drawn
        routed = routing.launch(logits, each, normalized, tile_tokens, early=False)
        chosen = chosen_by(routed).view(-1, each)
        weights, _ = routing.reference(logits, each, normalized=normalized)
        torch.testing.assert_close(routed.weights, weights, equal_nan=True)
        numbers = ~logits.isnan().any(-1)
        first = logits.float().sort(dim=-1, descending=True, stable=True).indices[:, :each]
        assert torch.equal(chosen[numbers], first[numbers])
        assert all(len(set(row)) == each for row in chosen.tolist())

    check()
    logits = torch.randn(150, 130, generator=torch.Generator().manual_seed(1))
    routed = routing.launch(logits, 8, True, 16, early=False)
    _, chosen = routing.reference(logits, 8, normalized=True)
    if not torch.equal(chosen_by(routed).view(-1, 8), chosen):
        wrong.append("1,200 pairs of 130 experts are others")
    rows = Draw().normal(150 * 8, 70).half()
    found = routing.launch_add(rows, routed.weights, early=False)
    exact = (rows.double().view(150, 8, -1) * routed.weights[..., None]).sum(1)
    if not bool(((found - exact).abs() <= STEP[torch.float16] * exact.abs() + 1e-6).all()):
        wrong.append("sums of a token's experts are off")
    yield from wrong


def some_routed(num_tokens: int, count: int, each: int, tile_tokens: int = 16) -> Routed:
    """The first expert gets nobody, the second the first token alone, others what comes."""
    logits = Draw(num_tokens).normal(num_tokens, count)
    logits[:, :2] = -torch.inf
    logits[0, 1] = 100.0
    return routing.launch(logits, each, True, tile_tokens, early=False)


def dense_otherwise() -> Iterator[str]:
    for dtype, tokens, rows, columns, tile_tokens in (
        (torch.float16, 21, 72, 1032, 16),
        (torch.bfloat16, 40, 130, 96, 64),
        (torch.float16, 21, 1100, 64, 16),  # rows of more than one band
    ):
        weight = Draw(rows).normal(4, rows, columns).to(dtype)
        routed = some_routed(tokens, 4, 2, tile_tokens)

        def multiply(
            x: torch.Tensor, routed: Routed, weight: torch.Tensor = weight
        ) -> torch.Tensor:
            return launch_dense(x, weight, routed, _shared(), GPU)

        yield from _otherwise(f"{dtype}, {rows} x {columns}", multiply, routed, weight, dtype)


def ints_otherwise() -> Iterator[str]:
    for dtype, tokens, (rows, columns), bits, group in (
        (torch.float16, 21, (100, 1024), 4, 128),
        (torch.bfloat16, 40, (72, 256), 3, 128),
        (torch.bfloat16, 40, (72, 96), 4, 32),
    ):
        draw = Draw(rows)
        weights = [draw.ints(rows, columns, bits, group, asymmetric=True) for _ in range(4)]
        for fours in (False, True):
            packed = [
                int_packing.pack(each.q, each.scale, each.zero, bits, group, fours=fours)
                for each in weights
            ]
            stack = replace(
                packed[0],
                words=torch.stack([each.words for each in packed]),
                factors=torch.stack([each.factors for each in packed]),
            )

            def multiply(
                x: torch.Tensor, routed: Routed, stack: int_packing.Packed = stack
            ) -> torch.Tensor:
                return launch_ints(x, stack, routed, _shared(), GPU)

            routed = some_routed(tokens, 4, 2, 32 if fours else 16)
            dense = torch.stack([each.dense() for each in weights])
            name = f"int{bits} {dtype}, {rows} x {columns} g{group}"
            yield from _otherwise(name, multiply, routed, dense, dtype)


def bytes_otherwise() -> Iterator[str]:
    draw, e4m3 = Draw(), torch.float8_e4m3fn
    token, group = (ByteRounding(kind=e4m3, by=by) for by in ("token", "group"))
    zeros = Int8Activation(symmetric=False)
    for name, how, weights in (
        ("fp8 alone", None, [draw.fp8(130, 200) for _ in range(4)]),
        ("fp8 blocks alone", None, [draw.fp8(130, 256, blocks=True) for _ in range(4)]),
        ("fp8 token", token, [draw.fp8(40, 2048) for _ in range(4)]),
        ("fp8 blocks", group, [draw.fp8(130, 256, blocks=True) for _ in range(4)]),
        ("int8", zeros.byte_rounding, [draw.int8(72, 256, zeros) for _ in range(4)]),
    ):
        matrix = stacked(
            [
                byte_matmul.pack(
                    w.q, w.scale, blocks=name.startswith("fp8 blocks"), summed=name == "int8"
                )
                for w in weights
            ]
        )
        dense = torch.stack([weight.dense() for weight in weights])

        def multiply(
            x: torch.Tensor,
            routed: Routed,
            matrix: ByteMatrix = matrix,
            how: ByteRounding | None = how,
        ) -> torch.Tensor:
            return launch_bytes(as_given(x, how), matrix, routed, x.dtype, _shared(), GPU)

        yield from _otherwise(name, multiply, some_routed(21, 4, 2), dense, torch.float16, how)


def stacked(matrices: list[ByteMatrix]) -> ByteMatrix:
    def bits(numbers: torch.Tensor) -> torch.Tensor:
        return numbers.view(torch.uint8)

    first, sums = matrices[0], [each.row_sums for each in matrices]
    return replace(
        first,
        numbers=torch.stack([bits(each.numbers) for each in matrices]).view(first.numbers.dtype),
        scale=torch.stack([each.scale for each in matrices]),
        row_sums=None if first.row_sums is None else torch.stack(cast(list[torch.Tensor], sums)),
    )


def as_given(x: torch.Tensor, how: ByteRounding | None) -> torch.Tensor | Rounded:
    """Rounded by torch; columns fill whole groups."""
    if how is None:
        return x
    numbers, scale, zero = quantized(x, how)
    return Rounded(numbers, scale.contiguous(), zero.int() if how.shifted else None)


def as_multiplied(x: torch.Tensor, how: ByteRounding | None) -> torch.Tensor:
    if how is None:
        return x.double()
    numbers, scale, zero = quantized(x, how)
    if how.by == "group":
        return numbers.double() * scale.double().t().repeat_interleave(128, 1)
    return (numbers.double() - zero.double()[:, None]) * scale.double()[:, None]


def _otherwise(
    name: str,
    multiply: Multiply,
    routed: Routed,
    dense: torch.Tensor,
    dtype: torch.dtype,
    how: ByteRounding | None = None,
) -> Iterator[str]:
    """Rows of tokens and rows of pairs, one of each no number, beside sums in fp64 by expert."""
    weights, columns = dense.double()[chosen_by(routed)], dense.shape[2]
    tokens, each = routed.weights.shape
    for num_rows in (tokens, tokens * each):
        x = Draw(num_rows).normal(num_rows, columns).to(dtype)
        x[3] = NAN
        found = multiply(x, routed).double()
        inputs = as_multiplied(x, how).repeat_interleave(tokens * each // num_rows, 0)
        exact = torch.einsum("pi,poi->po", inputs, weights)
        sums = torch.einsum("pi,poi->po", inputs.abs(), weights.abs())
        hidden = exact.isnan()
        if not torch.equal(found.isnan(), hidden) or hidden.all():
            yield f"{name}: of {num_rows} rows others are no numbers"
        error = (found - exact).abs() - STEP[dtype] * exact.abs() - 1e-5 * sums
        if not bool((error[~hidden] <= 1e-6).all()):
            yield f"{name}: rows of {num_rows} are off by {float(error[~hidden].max())}"


def _shared() -> Shared:
    """What nobody has left anything in."""
    sums = torch.full((1 << 22,), NAN)
    return cast(Shared, SimpleNamespace(sums=sums, arrived=torch.zeros(1056, dtype=torch.int32)))


if __name__ == "__main__":
    main()
