"""Runs the kernels of products with integers in Triton's interpreter, chosen before they load.

Prints, as JSON, what went wrong: nothing as a rule.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch

os.environ["TRITON_INTERPRET"] = "1"

import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder

from aweigh_kernels import int_matmul as module
from aweigh_kernels import int_packing
from aweigh_kernels.int_matmul import Schedule
from aweigh_kernels.int_packing import Packed
from aweigh_kernels.int_weight import IntWeight
from tests.kernels.weights import Draw

NAN = float("nan")
KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}
SIZES = (  # rows, columns, group: what fills tiles, and what does not
    (64, 256, 128),
    (100, 320, 64),
    (1, 130, 32),
    (65, 77, 77),
    (130, 96, 48),
)

_dot_of_narrow = InterpreterBuilder.create_dot


def _dot(self: Any, left: Any, right: Any, *rest: Any) -> Any:
    """The interpreter multiplies bf16 as if its bits were integers: it gets fp32."""
    if left.dtype == tl.bfloat16:
        left, right = (self.create_fp_to_fp(each, tl.float32, None) for each in (left, right))
    return _dot_of_narrow(self, left, right, *rest)


InterpreterBuilder.create_dot = _dot


def main() -> None:
    bits, dtype = int(sys.argv[1]), KINDS[sys.argv[2]]
    wrong = [said for number in range(len(SIZES)) for said in check(number, bits, dtype)]
    print(json.dumps(wrong))  # noqa: T201


def check(number: int, bits: int, dtype: torch.dtype) -> Iterator[str]:
    """One size, with and without zero points, packed for a Hopper and for what was before it."""
    rows, columns, group = SIZES[number]
    for asymmetric in (False, True):
        weight = Draw(number).ints(rows, columns, bits, group, asymmetric=asymmetric)
        packed = packed_of(weight, fours=asymmetric)
        programs = 128 if rows > 64 else 64, 32, 1 + (number + asymmetric) % 3
        for said in (
            *multiplied_right(weight, packed, dtype, Schedule(*programs, 3, 4)),
            *made_dense(weight, packed, dtype),
        ):
            yield f"{rows} x {columns} g{group}{' zeros' * asymmetric}: {said}"


def multiplied_right(
    weight: IntWeight, packed: Packed, dtype: torch.dtype, schedule: Schedule
) -> Iterator[str]:
    """Columns alone, to the last bit of fp32; random tokens; one that is none, and alone is so."""
    columns = weight.shape[1]
    chosen = torch.arange(0, columns, 1 + columns // 24)
    hot = torch.zeros(len(chosen), columns)
    hot[torch.arange(len(chosen)), chosen] = 1
    x = torch.cat((hot, torch.full((1, columns), NAN), Draw().normal(5, columns))).to(dtype)
    found = multiplied(x, packed, schedule)
    if not torch.equal(found[: len(chosen)], weight.dense()[:, chosen].t()):
        yield "a column is another"
    if not bool(found[len(chosen)].isnan().all()):
        yield "a token without numbers has some"
    x, found, dense = x[-5:].double(), found[-5:].double(), weight.dense().double()
    error = (found - x @ dense.t()).abs() - 1e-6 * (x.abs() @ dense.abs().t())
    if not bool((error <= 0).all()):
        yield f"a product is off by {float(error.max())}"


def made_dense(weight: IntWeight, packed: Packed, dtype: torch.dtype) -> Iterator[str]:
    output = torch.full(packed.shape, NAN, dtype=dtype)
    units = len(packed.words)
    for part in (range(1), range(1, units)) if units > 1 else (range(1),):
        module.launch_unpack(packed, part, output[part.start * 64 :], interpreted=True)
    dense = weight.dense()
    if dtype == torch.bfloat16:  # the interpreter cuts bits off
        dense = (dense.view(torch.int32) & -65536).view(torch.float32)
    if not torch.equal(output, dense.to(dtype)):
        yield "made dense it is another"


def packed_of(weight: IntWeight, *, fours: bool) -> Packed:
    return int_packing.pack(
        weight.q, weight.scale, weight.zero, weight.bits, weight.group, fours=fours
    )


def multiplied(x: torch.Tensor, packed: Packed, schedule: Schedule) -> torch.Tensor:
    """[T, N], fp32."""
    output = torch.full((len(x), packed.shape[0]), NAN)
    sums, arrived = torch.full((1 << 18,), NAN), torch.zeros(64, dtype=torch.int32)
    module.launch(x, packed, output, (sums, arrived), schedule, interpreted=True)
    assert not arrived.any()
    return output


if __name__ == "__main__":
    main()
