"""Runs the kernels of products with integers in Triton's interpreter, chosen before they load.

Prints, as JSON, what went wrong: nothing as a rule.
"""

import json
import os
import sys
from collections.abc import Iterator

import torch

os.environ["TRITON_INTERPRET"] = "1"

from aweigh_kernels import int_packing
from aweigh_kernels.gpu.int_matmul import multiply, unpack
from aweigh_kernels.tile_schedule import Schedule
from tests.kernels.interpreted_tiles import KINDS, Tiles
from tests.kernels.weights import Draw

SIZES = (  # rows, columns, group: what fills tiles, and what does not
    (64, 256, 128),
    (100, 320, 64),
    (1, 130, 32),
    (65, 77, 77),
    (130, 96, 48),
)


def main() -> None:
    bits, dtype = int(sys.argv[1]), KINDS[sys.argv[2]]
    wrong = [said for number in range(len(SIZES)) for said in check(number, bits, dtype)]
    print(json.dumps(wrong))  # noqa: T201


def check(number: int, bits: int, dtype: torch.dtype) -> Iterator[str]:
    """One size, with and without zero points, packed for a Hopper and for what was before it."""
    rows, columns, group = SIZES[number]
    for asymmetric in (False, True):
        weight = Draw(number).ints(rows, columns, bits, group, asymmetric=asymmetric)
        packed = int_packing.pack(
            weight.q, weight.scale, weight.zero, bits, group, fours=asymmetric
        )
        programs = 128 if rows > 64 else 64, 32, 1 + (number + asymmetric) % 3
        tiles = Tiles(multiply, unpack, packed, dtype)
        for said in tiles.wrong(weight, Schedule(*programs, 3, 4), UNROLL=1):
            yield f"{rows} x {columns} g{group}{' zeros' * asymmetric}: {said}"


if __name__ == "__main__":
    main()
