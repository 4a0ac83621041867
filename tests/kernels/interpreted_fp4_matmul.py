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

from aweigh_kernels import fp4_packing
from aweigh_kernels.fp4_weight import Fp4Weight
from aweigh_kernels.gpu.fp4_matmul import multiply, unpack
from aweigh_kernels.tile_schedule import Schedule
from tests.kernels.interpreted_tiles import KINDS, NAN, Tiles
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
        chosen = Schedule(128 if rows > 64 else 64, 32, 1 + (number + fours) % 3, 3, 4)
        for said in tiles_of(weight, dtype, fours=fours).wrong(weight, chosen):
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
    hot, chosen = torch.eye(16, dtype=dtype), Schedule(64, 16, 1, 3, 4)
    found = tiles_of(weight, dtype).multiplied(hot, chosen)
    if not torch.equal(found, weight.dense().t()):
        yield "a value times a scale is another"
    broken = replace(weight, scale=torch.full((256, 1), NAN).to(scale.dtype))
    found = tiles_of(broken, dtype).multiplied(hot, chosen)
    if not bool(found.isnan().all()):
        yield "a scale that is no number gives some"


def tiles_of(weight: Fp4Weight, dtype: torch.dtype, *, fours: bool = False) -> Tiles:
    packed = fp4_packing.pack(weight.q, weight.scale, weight.global_scale, dtype, fours=fours)
    return Tiles(multiply, unpack, packed, dtype)


if __name__ == "__main__":
    main()
