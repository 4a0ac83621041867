"""Multiplies NVFP4 numbers of both sides in Triton's interpreter, chosen before its kernels load.

The interpreter lacks the instruction: it is emulated here, code by code. Prints, as JSON, what went
wrong: nothing as a rule.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

os.environ["TRITON_INTERPRET"] = "1"

from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from aweigh_kernels.fp4_blocks import Division, launch, pack
from aweigh_kernels.fp4_rounding import launch_quantize
from aweigh_kernels.fp4_weight import GROUP, Fp4Weight, rounded, values
from tests.kernels.interpreted_fp4_matmul import exact
from tests.kernels.interpreted_tiles import NAN
from tests.kernels.weights import Draw

SIZES = ((128, 512), (100, 1040), (300, 64), (1, 16))  # rows and columns
DIVISIONS = (Division(16, 1), Division(32, 3), Division(128, 1), Division(64, 1))


def dot_scaled(
    self: Any, left: Any, left_scale: Any, kind: Any, right: Any, right_scale: Any, *rest: Any
) -> Any:
    """Codes, the first of two in the low half of a byte, times E4M3 of 16, added up in fp32."""
    del self, kind
    total = rest[-1]
    one = scaled(left.data, left_scale.data)
    other = scaled(np.swapaxes(right.data, 0, 1), right_scale.data)
    found = total.data + (one @ other.t()).numpy()
    return TensorHandle(found.astype(np.float32), total.dtype.scalar)


def scaled(packed: Any, scale: Any) -> torch.Tensor:
    """[rows, K], fp32."""
    codes = torch.from_numpy(np.ascontiguousarray(packed).view(np.uint8))
    both = torch.stack((codes & 15, codes >> 4), -1).flatten(1)
    e4m3 = torch.from_numpy(np.ascontiguousarray(scale).view(np.uint8)).view(torch.float8_e4m3fn)
    return values(both) * e4m3.float().repeat_interleave(GROUP, 1)


InterpreterBuilder.create_dot_scaled = dot_scaled


def main() -> None:
    cases = [*zip(SIZES, DIVISIONS, strict=True), (SIZES[1], DIVISIONS[0])]
    wrong = [said for size, chosen in cases for said in check(size, chosen)]
    print(json.dumps(wrong))  # noqa: T201


def check(size: tuple[int, int], chosen: Division) -> Iterator[str]:
    """Columns alone, to the last bit; random tokens, as fp32 adds."""
    rows, columns = size
    weight, one = exact(Draw(rows).fp4(rows, columns)), torch.tensor(2.0**-9).double()
    picked = torch.arange(0, columns, 1 + columns // 16)
    hot = torch.zeros(len(picked), columns)
    hot[torch.arange(len(picked)), picked] = 5.25  # 6 · 448 · 2^-9
    found = multiplied(hot, weight, one, chosen)
    if not torch.equal(found, weight.dense()[:, picked].t() * 5.25):
        yield f"{size}, {chosen}: a column is another"
    x = Draw().normal(33, columns).half().float()
    found, inputs = multiplied(x, weight, one, chosen).double(), rounded(x, one).double()
    dense = weight.dense().double()
    error = (found - inputs @ dense.t()).abs() - 2e-6 * (inputs.abs() @ dense.abs().t())
    if not bool((error <= 0).all()):
        yield f"{size}, {chosen}: a product is off by {float(error.max())}"


def multiplied(
    x: torch.Tensor, weight: Fp4Weight, of_all: torch.Tensor, chosen: Division
) -> torch.Tensor:
    """[T, N], fp32."""
    numbers = launch_quantize(x.half(), of_all, swizzled=True, early=False, interpreted=True)
    packed = pack(weight.q, weight.scale, weight.global_scale)
    output = torch.full((len(x), len(weight.q)), NAN)
    shared = torch.full((1 << 18,), NAN), torch.zeros(64, dtype=torch.int32)
    launch(numbers, packed, output, shared, chosen, early=False)
    assert not shared[1].any()
    return output


if __name__ == "__main__":
    main()
