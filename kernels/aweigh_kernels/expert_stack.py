"""The matrices of a layer's experts, stacked in one memory, and their grouped products on a GPU.

They are put in one by one, as they are read: nothing holds a second copy of all. A stack has
weights of one kind; one of another is refused, and whoever fills it goes on without.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch.nn.functional import linear

from aweigh_kernels import int_matmul, int_packing, int_weight, tile_matmul
from aweigh_kernels.byte_matmul import ByteMatrix, pack
from aweigh_kernels.byte_product import prepared
from aweigh_kernels.dense import expect_beside, expect_dense, has_kernels
from aweigh_kernels.equality import same
from aweigh_kernels.fp8_weight import Fp8Weight
from aweigh_kernels.gpus import Gpu
from aweigh_kernels.grouped_matmul import launch_bytes, launch_dense, launch_ints, shared_on
from aweigh_kernels.int8_weight import Int8Weight
from aweigh_kernels.int_packing import Packed
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.product import KernelProduct, Product
from aweigh_kernels.round_rows import round_rows
from aweigh_kernels.rounding import ByteRounding, Rounded
from aweigh_kernels.routing import Routed
from aweigh_kernels.weight import Weight


class Stack(Protocol):
    """Matrices [E, N, K]."""

    @property
    def rounding(self) -> ByteRounding | None:
        """How what comes before may round activations; None: it may not."""

    def __call__(self, x: torch.Tensor | Rounded, routed: Routed) -> torch.Tensor:
        """Each pair's row times its expert's matrix.

        Args:
            x: [T, K], or of each pair, [T·k, K]; contiguous, on the GPU where all of it is.
            routed: the tokens.

        Returns:
            [T·k, N], rounded once.

        Raises:
            ValueError: x has another shape, number format, strides or device.
        """

    def one(self, place: int) -> Product:
        """The product with an expert's alone."""


class QuantizedStack(Stack, Protocol):
    """Quantized ones; what has not been put in holds any numbers."""

    def put(self, place: int, weight: Weight) -> bool:
        """Take an expert's; False: it is of another kind than the first one."""

    def copied(self, place: int) -> Product:
        """The product with an expert's in memory of its own, so that the stack may go."""


class DenseStack:
    """Matrices of 16 bits."""

    rounding = None

    def __init__(self, weight: torch.Tensor) -> None:
        """[E, N, K], contiguous."""
        self._weight = weight

    def one(self, place: int) -> Product:
        """See `Stack`."""
        return lambda x: linear(x, self._weight[place])

    def __call__(self, x: torch.Tensor | Rounded, routed: Routed) -> torch.Tensor:
        """See `Stack`."""
        assert isinstance(x, torch.Tensor)
        _expect(x, routed, self._weight, self._weight.shape[2], self._weight.dtype)
        device = self._weight.device
        return launch_dense(x, self._weight, routed, shared_on(device), Gpu.of(device))


class IntStack:
    """Matrices of packed integers, in the order in which x has its columns."""

    rounding = None

    def __init__(self, count: int, first: IntWeight, dtype: torch.dtype) -> None:
        """For so many that are as the first one, which is not put in."""
        packed = _packed(first)
        self._dtype = dtype
        self._stack = replace(
            packed, words=_room(count, packed.words), factors=_room(count, packed.factors)
        )

    def put(self, place: int, weight: Weight) -> bool:
        """See `QuantizedStack`."""
        if not isinstance(weight, IntWeight) or not _takes_ints(weight, self._dtype):
            return False
        packed = _packed(weight)
        if _kind(packed) != _kind(self._stack):
            return False
        self._stack.words[place].copy_(packed.words)
        self._stack.factors[place].copy_(packed.factors)
        return True

    def one(self, place: int) -> Product:
        """See `Stack`."""
        stack = self._stack
        return self._product(stack.words[place], stack.factors[place])

    def copied(self, place: int) -> Product:
        """See `QuantizedStack`."""
        stack = self._stack
        return self._product(stack.words[place].clone(), stack.factors[place].clone())

    def _product(self, words: torch.Tensor, factors: torch.Tensor) -> Product:
        packed = replace(self._stack, words=words, factors=factors)
        workspace = tile_matmul.workspace_of(words.device)
        return KernelProduct(
            lambda x: int_matmul.int_matmul(x.contiguous(), packed, workspace),
            int_matmul.kernels_of(packed, self._dtype),
        )

    def __call__(self, x: torch.Tensor | Rounded, routed: Routed) -> torch.Tensor:
        """See `Stack`."""
        assert isinstance(x, torch.Tensor)
        _expect(x, routed, self._stack.words, self._stack.shape[1], self._dtype)
        device = self._stack.words.device
        return launch_ints(x, self._stack, routed, shared_on(device), Gpu.of(device))


class ByteStack:
    """Matrices of 8 bits."""

    def __init__(self, count: int, first: Int8Weight | Fp8Weight, dtype: torch.dtype) -> None:
        """For so many that are as the first one, which is not put in."""
        matrix = _matrix(first)
        self._dtype, self._activation = dtype, first.activation
        sums = matrix.row_sums
        self._stack = replace(
            matrix,
            numbers=_room(count, matrix.numbers),
            scale=_room(count, matrix.scale),
            row_sums=None if sums is None else _room(count, sums),
        )
        how = None if first.activation is None else first.activation.byte_rounding
        self.rounding = None if how is None else how.on(matrix.numbers.device)

    def put(self, place: int, weight: Weight) -> bool:
        """See `QuantizedStack`."""
        if not isinstance(weight, Int8Weight | Fp8Weight):
            return False
        stack, matrix = self._stack, _matrix(weight)
        alike = (matrix.numbers.shape, matrix.numbers.dtype, matrix.blocks) == (
            stack.numbers.shape[1:], stack.numbers.dtype, stack.blocks
        )  # fmt: skip
        if not alike or not same(weight.activation, self._activation):
            return False
        stack.numbers[place].copy_(matrix.numbers)
        stack.scale[place].copy_(matrix.scale)
        if stack.row_sums is not None and matrix.row_sums is not None:
            stack.row_sums[place].copy_(matrix.row_sums)
        return True

    def one(self, place: int) -> Product:
        """See `Stack`."""
        return self._product(lambda each: each[place])

    def copied(self, place: int) -> Product:
        """See `QuantizedStack`."""
        return self._product(lambda each: each[place].clone())

    def _product(self, part: Callable[[torch.Tensor], torch.Tensor]) -> Product:
        stack, sums = self._stack, self._stack.row_sums
        matrix = replace(
            stack,
            numbers=part(stack.numbers),
            scale=part(stack.scale),
            row_sums=None if sums is None else part(sums),
        )
        return prepared(matrix, self._dtype, self.rounding)

    def __call__(self, x: torch.Tensor | Rounded, routed: Routed) -> torch.Tensor:
        """See `Stack`; x may be rounded as the stack asks for."""
        stack, device = self._stack, self._stack.numbers.device
        if isinstance(x, Rounded):
            assert self.rounding is not None
            _expect(x.numbers, routed, stack.numbers, stack.numbers.shape[2], self.rounding.kind)
        else:
            _expect(x, routed, stack.numbers, stack.columns, self._dtype)
            x = x if self.rounding is None else round_rows(x, self.rounding)
        return launch_bytes(x, stack, routed, self._dtype, shared_on(device), Gpu.of(device))


def stack_of(weight: Weight, count: int, dtype: torch.dtype) -> QuantizedStack | None:
    """Room for so many weights as this one; None: they have no grouped product.

    Args:
        weight: the first one, where all will be.
        count: E.
        dtype: of x.
    """
    match weight:
        case IntWeight() if _takes_ints(weight, dtype):
            return IntStack(count, weight, dtype)
        case Int8Weight() if has_kernels(weight.q, dtype):
            return ByteStack(count, weight, dtype)
        case Fp8Weight() if has_kernels(weight.q, dtype):
            # Without such tensor cores activations are rounded in another way.
            if weight.activation is None or Gpu.of(weight.q.device).fp8:
                return ByteStack(count, weight, dtype)
    return None


def _takes_ints(weight: IntWeight, dtype: torch.dtype) -> bool:
    """Each expert would have an order of columns of its own."""
    return weight.perm is None and int_weight.has_kernel(weight, dtype)


def _packed(weight: IntWeight) -> Packed:
    bits, group, fours = weight.bits, weight.group, not Gpu.of(weight.q.device).warpgroups
    return int_packing.pack(weight.q, weight.scale, weight.zero, bits, group, fours=fours)


def _kind(packed: Packed) -> tuple[object, ...]:
    return packed.shape, packed.bits, packed.group


def _matrix(weight: Int8Weight | Fp8Weight) -> ByteMatrix:
    if isinstance(weight, Int8Weight):
        return pack(weight.q, weight.scale, summed=weight.activation.byte_rounding.shifted)
    return pack(weight.q, weight.scale, blocks=weight.blocks)


def _room(count: int, like: torch.Tensor) -> torch.Tensor:
    return like.new_empty(count, *like.shape)


def _expect(
    x: torch.Tensor, routed: Routed, weight: torch.Tensor, width: int, dtype: torch.dtype
) -> None:
    """Of tokens, or of pairs."""
    rows = routed.num_pairs if len(x) == routed.num_pairs else len(routed.weights)
    expect_dense("x", x, [rows, width], [dtype])
    expect_beside("x", x, weight)
