"""What a prepared weight is to its caller, and the one way to multiply where no kernel does."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch.nn.functional import linear

from aweigh_kernels.activation import Activation
from aweigh_kernels.rounding import ByteRounding, Rounded

_AT_ONCE = 1 << 24  # weights that are made dense at once


class Product(Protocol):
    """A matrix that is ready to be multiplied with again and again."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[T, K] of the number format it was prepared for, to [T, N].

        Raises:
            ValueError: x has another width.
        """
        ...


@dataclass(frozen=True, slots=True)
class Kernels:
    """Those that a product may be computed by. Each is compiled when it is first needed.

    Equal ones are the same kernels.
    """

    product: Hashable  # all that they depend on beside the number of tokens
    chosen: Callable[[int], Hashable] = field(compare=False)  # which, by that number
    x: torch.Tensor = field(compare=False)  # [0, K]: what is multiplied, and where

    def counts(self, most_tokens: int) -> list[int]:
        """The fewest tokens of each, where there are at most so many."""
        found: dict[Hashable, int] = {}
        for count in range(1, most_tokens + 1):
            found.setdefault(self.chosen(count), count)
        return list(found.values())


class PairedProduct(Protocol):
    """A product of few tokens, and what follows it in a layer, by one kernel.

    Each gives the bits of the kernels that it replaces.
    """

    def gates(self, x: torch.Tensor | Rounded, rounding: ByteRounding | None) -> bool:
        """Whether `gated` takes so many tokens, and what comes next asks for such rounding."""
        ...

    def gated(
        self, x: torch.Tensor | Rounded, activation: Activation, rounding: ByteRounding | None
    ) -> torch.Tensor | Rounded:
        """activation(gates) · up of a product whose first half of rows are gates.

        Args:
            x: [T, K], of which `gates` is true.
            activation: silu, or gelu by its tanh formula.
            rounding: that what comes next asks for.

        Returns:
            [T, N / 2], rounded, or as it is where what comes next has to round it.
        """
        ...

    def turns(self, x: torch.Tensor | Rounded, size: int) -> bool:
        """Whether `turned` takes so many tokens, and heads of so many numbers."""
        ...

    def turned(
        self,
        x: torch.Tensor | Rounded,
        turn: tuple[torch.Tensor, torch.Tensor],
        kv: torch.Tensor,
        slots: torch.Tensor,
        kv_scales: tuple[float, float],
    ) -> torch.Tensor:
        """Heads, turned and kept as `rope_write` does it.

        Args:
            x: [T, K], of which `turns` is true.
            turn: cos and sin, [T, D] or [T, 1, D].
            kv: [B, P, 2K, D].
            slots: [T].
            kv_scales: of keys and values.

        Returns:
            [T, H+2K, D].
        """
        ...


@dataclass(frozen=True, slots=True)
class KernelProduct:
    """A product by kernels of ours, of activations as they are."""

    multiply: Callable[[torch.Tensor], torch.Tensor]
    kernels: Kernels
    paired: PairedProduct | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[T, K] to [T, N]; see `Product`."""
        return self.multiply(x)


@dataclass(frozen=True, slots=True)
class RoundingProduct:
    """A product that rounds activations first, unless what comes before it has done so."""

    rounding: ByteRounding
    round_rows: Callable[[torch.Tensor], Rounded]
    multiply: Callable[[Rounded], torch.Tensor]
    kernels: Kernels
    paired: PairedProduct | None = None

    def __call__(self, x: torch.Tensor | Rounded) -> torch.Tensor:
        """[T, K] to [T, N]; see `Product`."""
        return self.multiply(x if isinstance(x, Rounded) else self.round_rows(x))


def compile_all(products: Iterable[Product], most_tokens: int) -> None:
    """Call products so that later calls find every kernel compiled. Takes a second for each.

    Args:
        products: of those that need the same kernels one is called.
        most_tokens: that any call will have.
    """
    ours = (each for each in products if isinstance(each, KernelProduct | RoundingProduct))
    for kernels, product in {each.kernels: each for each in ours}.items():
        for count in kernels.counts(most_tokens):
            product(kernels.x.new_zeros(count, kernels.x.shape[1]))


def in_parts(
    dense: Callable[[slice], torch.Tensor], shape: tuple[int, int], unit: int = 1
) -> Product:
    """The product with a matrix of which some rows at a time are made dense, in each call.

    Args:
        dense: given a run of rows, those [rows, K], of x's number format.
        shape: N, K.
        unit: runs begin at multiples of it.
    """
    rows, columns = shape
    step = max(_AT_ONCE // columns // unit, 1) * unit
    runs = [slice(first, min(first + step, rows)) for first in range(0, rows, step)]

    def product(x: torch.Tensor) -> torch.Tensor:
        parts = [linear(x, dense(run)) for run in runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    return product
