"""Rounds activations to NVFP4 in Triton's interpreter, chosen before its kernels load.

Prints, as JSON, what went wrong: nothing as a rule.
"""

import json
import os
from collections.abc import Iterator

import torch

os.environ["TRITON_INTERPRET"] = "1"

from aweigh_kernels.fp4_rounding import launch_quantize, launch_round
from aweigh_kernels.fp4_weight import quantize, rounded
from tests.kernels.interpreted_tiles import NAN
from tests.kernels.weights import Draw


def main() -> None:
    print(json.dumps([said for name in CASES for said in check(name)]))  # noqa: T201


def ties() -> torch.Tensor:
    """All that lie halfway between values, times scales of all sizes; the largest of each group."""
    halfway = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0])
    row = torch.cat((halfway, -halfway))
    return row[None] * 2.0 ** torch.arange(-30, 10)[:, None]


def strange() -> torch.Tensor:
    """Zeros of both signs, infinities, what is no number, and very small ones."""
    x = torch.zeros(6, 32)
    x[0, 3], x[1, 20], x[2, 5] = NAN, float("inf"), -float("inf")
    x[3] = -0.0
    x[4] = torch.linspace(-1e-7, 1e-7, 32)
    return x


def all_numbers() -> torch.Tensor:
    """Of fp16."""
    x = torch.arange(-32768, 32768, dtype=torch.int32).short().view(torch.half).view(-1, 64)
    return x[~x.isnan().any(1)].float()


CASES = {
    "random": Draw().normal(140, 80) * 3,
    "ties": ties(),
    "all of fp16": all_numbers(),
    "strange": strange(),
    "nothing": torch.empty(0, 64),
}


def check(name: str) -> Iterator[str]:
    """Codes, scales in both orders, and what they mean, to the last bit."""
    x = CASES[name].half()
    for global_scale in (1 / 3000, 3e-8, 7.0)[: 1 if len(x) > 500 else 3]:
        given = torch.tensor(global_scale).double()
        codes, scale = quantize(x, given)
        found = launch_quantize(x, given, swizzled=False, early=False, interpreted=True)
        if not torch.equal(found.codes, codes[:, ::2] | codes[:, 1::2] << 4):
            yield f"{name}, {global_scale}: codes"
        if not torch.equal(found.scale.view(torch.uint8), scale.view(torch.uint8)):
            yield f"{name}, {global_scale}: scales"
        blocks = launch_quantize(x, given, swizzled=True, early=False, interpreted=True).scale
        if not torch.equal(blocks.view(torch.uint8), in_blocks(scale)):
            yield f"{name}, {global_scale}: scales in blocks"
        means, wanted = launch_round(x, given, early=False, interpreted=True), rounded(x, given)
        if not torch.allclose(means.float(), wanted, rtol=2**-10, atol=2**-24, equal_nan=True):
            yield f"{name}, {global_scale}: numbers"  # the interpreter's fp16 are not rounded


def in_blocks(scale: torch.Tensor) -> torch.Tensor:
    """In blocks of 128 rows by 4 columns: 32 rows, four times 32 of them, columns."""
    rows, columns = scale.shape
    padded = torch.zeros(-(-rows // 128) * 128, -(-columns // 4) * 4, dtype=torch.uint8)
    padded[:rows, :columns] = scale.view(torch.uint8)
    blocks = padded.view(len(padded) // 128, 4, 32, padded.shape[1] // 4, 4).permute(0, 3, 2, 1, 4)
    return blocks.reshape(padded.shape)


if __name__ == "__main__":
    main()
