"""Runs the kernels of products with NVFP4 in Triton's interpreter, chosen before they load.

Prints, as JSON, what went wrong: nothing as a rule.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace

import torch

os.environ["TRITON_INTERPRET"] = "1"

from aweigh_kernels import fp4_matmul as module
from aweigh_kernels import fp4_packing
from aweigh_kernels.fp4_packing import Fp4Packed
from aweigh_kernels.fp4_weight import Fp4Weight
from aweigh_kernels.int_matmul import Schedule
from tests.kernels.interpreted_int_matmul import KINDS, NAN
from tests.kernels.weights import Draw

SIZES = ((64, 256), (100, 336), (1, 144), (65, 16), (130, 96))  # rows and columns


def main() -> None:
    dtype = KINDS[sys.argv[1]]
    wrong = [said for number in range(len(SIZES)) for said in check(number, dtype)]
    print(json.dumps(wrong + list(every_product(dtype))))  # noqa: T201


def check(number: int, dtype: torch.dtype) -> Iterator[str]:
    """One size, packed for a Hopper and for what was before it."""
    rows, columns = SIZES[number]
    weight = exact(Draw(number).fp4(rows, columns))
    for fours in (False, True):
        packed = packed_of(weight, dtype, fours=fours)
        chosen = Schedule(128 if rows > 64 else 64, 32, 1 + (number + fours) % 3, 3, 4)
        for said in (
            *multiplied_right(weight, packed, chosen),
            *made_dense(weight, packed),
        ):
            yield f"{rows} x {columns}, fours {fours}: {said}"


def exact(weight: Fp4Weight) -> Fp4Weight:
    """With global scales of few bits, so that fp32 holds every weight; some scales negative."""
    few_bits = weight.global_scale.float().half().double()
    scale = weight.scale.float()
    scale[::3] *= -1
    return replace(weight, scale=scale.to(weight.scale.dtype), global_scale=few_bits)


def every_product(dtype: torch.dtype) -> Iterator[str]:
    """Of a value and a scale, and what is none: 16 columns have all values, a row one scale."""
    scale = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    scale = torch.where(scale.float().isnan(), 0.0, scale.float()).to(scale.dtype)
    q = torch.arange(16, dtype=torch.uint8).expand(256, 16).contiguous()
    one = torch.ones(1, 1, dtype=torch.float64)
    weight = Fp4Weight(q=q, scale=scale[:, None], global_scale=one)
    found = multiplied(
        torch.eye(16, dtype=dtype), packed_of(weight, dtype), Schedule(64, 16, 1, 3, 4)
    )
    if not torch.equal(found, weight.dense().t()):
        yield "a value times a scale is another"
    broken = replace(weight, scale=torch.full((256, 1), NAN).to(scale.dtype))
    found = multiplied(
        torch.eye(16, dtype=dtype), packed_of(broken, dtype), Schedule(64, 16, 1, 3, 4)
    )
    if not bool(found.isnan().all()):
        yield "a scale that is no number gives some"


def multiplied_right(weight: Fp4Weight, packed: Fp4Packed, schedule: Schedule) -> Iterator[str]:
    """Columns alone, to the last bit of fp32; random tokens; one that is none, and alone is so."""
    columns = weight.shape[1]
    chosen = torch.arange(0, columns, 1 + columns // 24)
    hot = torch.zeros(len(chosen), columns)
    hot[torch.arange(len(chosen)), chosen] = 1
    x = torch.cat((hot, torch.full((1, columns), NAN), Draw().normal(5, columns))).to(packed.dtype)
    found = multiplied(x, packed, schedule)
    if not torch.equal(found[: len(chosen)], weight.dense()[:, chosen].t()):
        yield "a column is another"
    if not bool(found[len(chosen)].isnan().all()):
        yield "a token without numbers has some"
    x, found, dense = x[-5:].double(), found[-5:].double(), weight.dense().double()
    error = (found - x @ dense.t()).abs() - 1e-6 * (x.abs() @ dense.abs().t())
    if not bool((error <= 0).all()):
        yield f"a product is off by {float(error.max())}"


def made_dense(weight: Fp4Weight, packed: Fp4Packed) -> Iterator[str]:
    output = torch.full(packed.shape, NAN, dtype=packed.dtype)
    units = len(packed.words)
    for part in (range(1), range(1, units)) if units > 1 else (range(1),):
        module.launch_unpack(packed, part, output[part.start * 64 :], interpreted=True)
    dense = weight.dense()
    if packed.dtype == torch.bfloat16:  # the interpreter cuts bits off
        dense = (dense.view(torch.int32) & -65536).view(torch.float32)
    if not torch.equal(output, dense.to(packed.dtype)):
        yield "made dense it is another"


def packed_of(weight: Fp4Weight, dtype: torch.dtype, *, fours: bool = False) -> Fp4Packed:
    return fp4_packing.pack(weight.q, weight.scale, weight.global_scale, dtype, fours=fours)


def multiplied(x: torch.Tensor, packed: Fp4Packed, schedule: Schedule) -> torch.Tensor:
    """[T, N], fp32."""
    output = torch.full((len(x), packed.shape[0]), NAN)
    sums, arrived = torch.full((1 << 18,), NAN), torch.zeros(64, dtype=torch.int32)
    module.launch(x, packed, output, (sums, arrived), schedule, interpreted=True)
    assert not arrived.any()
    return output


if __name__ == "__main__":
    main()
