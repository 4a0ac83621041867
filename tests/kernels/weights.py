"""Random quantized weights of every kind, for tests."""

from collections.abc import Iterator

import torch

from aweigh_kernels.fp4_weight import Fp4Weight
from aweigh_kernels.fp8_weight import BLOCK, Fp8Activation, Fp8Weight
from aweigh_kernels.int8_weight import Int8Activation, Int8Weight
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.sparse_int_weight import SparseIntWeight
from aweigh_kernels.weight import Weight


class Draw:
    """The same numbers for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def integers(self, low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=self._generator)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator)

    def scales(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self._generator) * 0.05 + 0.001

    def ints(
        self,
        rows: int,
        columns: int,
        bits: int,
        group: int,
        *,
        asymmetric: bool = False,
        act_order: bool = False,
        scale_rows: int | None = None,
    ) -> IntWeight:
        shape = (rows if scale_rows is None else scale_rows, -(-columns // group))
        order = torch.randperm(columns, generator=self._generator) if act_order else None
        zero = self.integers(0, (1 << bits) + 1, *shape).to(torch.int16) if asymmetric else None
        return IntWeight(
            q=self.integers(0, 1 << bits, rows, columns).to(torch.uint8),
            scale=self.scales(*shape).half(),
            zero=zero,
            bits=bits,
            group=group,
            perm=order,
        )

    def int8(self, rows: int, columns: int, activation: Int8Activation) -> Int8Weight:
        q = self.integers(-128, 128, rows, columns).to(torch.int8)
        return Int8Weight(q=q, scale=self.scales(rows, 1), activation=activation)

    def fp8(
        self,
        rows: int,
        columns: int,
        activation: Fp8Activation | None = None,
        *,
        blocks: bool = False,
        dtype: torch.dtype = torch.float8_e4m3fn,
    ) -> Fp8Weight:
        shape = (-(-rows // BLOCK), -(-columns // BLOCK)) if blocks else (rows, 1)
        q = self.normal(rows, columns).mul_(50).to(dtype)
        return Fp8Weight(q=q, scale=self.scales(*shape), blocks=blocks, activation=activation)

    def fp4(self, rows: int, columns: int, activation_scale: float | None = None) -> Fp4Weight:
        scale = self.scales(rows, columns // 16).mul_(1000).to(torch.float8_e4m3fn)
        return Fp4Weight(
            q=self.integers(0, 16, rows, columns).to(torch.uint8),
            scale=scale,
            global_scale=self.scales(rows, 1).double() / 100,
            activation_scale=None
            if activation_scale is None
            else torch.tensor(activation_scale).double(),
        )

    def sparse(self, rows: int, columns: int, bits: int, group: int) -> SparseIntWeight:
        fours = torch.rand(rows, columns // 4, 4, generator=self._generator)
        index = fours.topk(2, -1).indices.sort(-1).values.flatten(1).to(torch.uint8)
        return SparseIntWeight(
            q=self.integers(0, 1 << bits, rows, columns // 2).to(torch.uint8),
            index=index,
            scale=self.scales(rows, columns // group).half(),
            bits=bits,
            group=group,
        )


def every_kind(rows: int = 48, columns: int = 256) -> Iterator[tuple[str, Weight]]:
    """One of each, named; K is a multiple of 128."""
    draw = Draw()
    for bits in (2, 3, 4, 8):
        for group in (32, 64, 128, columns):
            yield f"int{bits} g{group}", draw.ints(rows, columns, bits, group)
        yield f"int{bits} zeros", draw.ints(rows, columns, bits, 64, asymmetric=True)
        yield f"int{bits} act order", draw.ints(rows, columns, bits, 128, act_order=True)
    yield "int4 per tensor", draw.ints(rows, columns, 4, columns, scale_rows=1)
    static = torch.tensor(0.03)
    for name, int8 in {
        "dynamic": Int8Activation(),
        "dynamic zeros": Int8Activation(symmetric=False),
        "static": Int8Activation(scale=static),
        "static zeros": Int8Activation(
            symmetric=False, scale=static, zero=torch.tensor(-7, dtype=torch.int32)
        ),
    }.items():
        yield f"int8 {name}", draw.int8(rows, columns, int8)
    for name, fp8 in {
        "weights alone": None,
        "token": Fp8Activation(rounding="token"),
        "group": Fp8Activation(rounding="group"),
        "static": Fp8Activation(rounding="static", scale=static),
    }.items():
        yield f"fp8 {name}", draw.fp8(rows, columns, fp8)
        yield f"fp8 blocks {name}", draw.fp8(rows, columns, fp8, blocks=True)
    yield "fp8 e5m2", draw.fp8(rows, columns, dtype=torch.float8_e5m2)
    yield "fp4 weights alone", draw.fp4(rows, columns)
    yield "fp4", draw.fp4(rows, columns, 0.002)
    for bits in (4, 8):
        yield f"2:4 int{bits}", draw.sparse(rows, columns, bits, 128)
