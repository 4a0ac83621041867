"""What weights packed in tiles must give in Triton's interpreter, which importers have chosen."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder

from aweigh_kernels import tile_matmul
from aweigh_kernels.tile_schedule import Schedule, Tiled
from tests.kernels.weights import Draw

NAN = float("nan")
KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}

_dot_of_narrow = InterpreterBuilder.create_dot


def _dot(self: Any, left: Any, right: Any, *rest: Any) -> Any:
    """The interpreter multiplies bf16 as if its bits were integers: it gets fp32."""
    if left.dtype == tl.bfloat16:
        left, right = (self.create_fp_to_fp(each, tl.float32, None) for each in (left, right))
    return _dot_of_narrow(self, left, right, *rest)


InterpreterBuilder.create_dot = _dot


class Weight(Protocol):
    """One that was packed."""

    def dense(self) -> torch.Tensor:
        """[N, K], fp32."""
        ...


class Tiles:
    """A packed weight and the kernels that read it."""

    def __init__(self, multiply: Any, unpack: Any, packed: Tiled, dtype: torch.dtype) -> None:
        self._multiply, self._unpack = multiply, unpack
        self._packed, self._dtype = packed, dtype

    def wrong(self, weight: Weight, chosen: Schedule, **constants: int) -> Iterator[str]:
        """What is another than with the weight itself."""
        yield from self._multiplied_wrong(weight.dense(), chosen, constants)
        yield from self._made_dense_wrong(weight.dense())

    def multiplied(self, x: torch.Tensor, chosen: Schedule, **constants: int) -> torch.Tensor:
        """[T, N], fp32."""
        output = torch.full((len(x), self._packed.shape[0]), NAN)
        shared = torch.full((1 << 18,), NAN), torch.zeros(64, dtype=torch.int32)
        tile_matmul.launch(self._multiply, x, self._packed, output, shared, chosen, **constants)
        assert not shared[1].any()
        return output

    def _multiplied_wrong(
        self, dense: torch.Tensor, chosen: Schedule, constants: dict[str, int]
    ) -> Iterator[str]:
        """Columns alone, to the last bit of fp32; random tokens; one that is none, alone is so."""
        columns = dense.shape[1]
        alone = torch.arange(0, columns, 1 + columns // 24)
        hot = torch.zeros(len(alone), columns)
        hot[torch.arange(len(alone)), alone] = 1
        x = torch.cat((hot, torch.full((1, columns), NAN), Draw().normal(5, columns)))
        x = x.to(self._dtype)
        found = self.multiplied(x, chosen, **constants)
        if not torch.equal(found[: len(alone)], dense[:, alone].t()):
            yield "a column is another"
        if not bool(found[len(alone)].isnan().all()):
            yield "a token without numbers has some"
        x, found, exact = x[-5:].double(), found[-5:].double(), dense.double()
        error = (found - x @ exact.t()).abs() - 1e-6 * (x.abs() @ exact.abs().t())
        if not bool((error <= 0).all()):
            yield f"a product is off by {float(error.max())}"

    def _made_dense_wrong(self, dense: torch.Tensor) -> Iterator[str]:
        packed, output = self._packed, torch.full(dense.shape, NAN, dtype=self._dtype)
        units = len(packed.words)
        for part in (range(1), range(1, units)) if units > 1 else (range(1),):
            tile_matmul.launch_unpack(self._unpack, packed, part, output[part.start * 64 :])
        if self._dtype == torch.bfloat16:  # the interpreter cuts bits off
            dense = (dense.view(torch.int32) & -65536).view(torch.float32)
        if not torch.equal(output, dense.to(self._dtype)):
            yield "made dense it is another"
