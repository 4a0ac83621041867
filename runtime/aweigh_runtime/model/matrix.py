"""The matrices that a decoder multiplies with: dense numbers, or quantized ones."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from aweigh_kernels.product import KernelProduct, PairedProduct, Product, RoundingProduct
from aweigh_kernels.rounding import ByteRounding, Rounded
from aweigh_kernels.weight import Weight, recordable, stack

Activations = torch.Tensor | Rounded
Project = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
Prepare = Callable[[Weight, torch.dtype], Product]


class Matrix(Protocol):
    """[out, in]"""

    @property
    def rounding(self) -> ByteRounding | None:
        """How what comes before it may round its activations; None: it may not."""
        ...

    @property
    def paired(self) -> PairedProduct | None:
        """What computes its product of few tokens with what follows it; None: nothing does."""
        ...

    def __call__(self, x: Activations, bias: torch.Tensor | None = None) -> torch.Tensor:
        """[T, in] to [T, out]."""
        ...


class Filled(Protocol):
    """A quantized matrix of a decoder that is being loaded."""

    @property
    def recordable(self) -> bool:
        """Whether graphs may hold its product, once it is filled."""
        ...

    @property
    def products(self) -> Sequence[Product]:
        """That compute its own."""
        ...

    def fill(self, shards: Sequence[torch.Tensor | Weight]) -> None:
        """Take the rows of all shards in their order."""
        ...


class Dense:
    """A matrix of 16 or 32 bits, or one of several that are stacked in one tensor."""

    def __init__(self, weight: torch.Tensor, project: Project, place: int | None = None) -> None:
        self._weight = weight
        self._project = project
        self._place = place

    @property
    def rounding(self) -> None:
        """Nobody may."""

    @property
    def paired(self) -> None:
        """Those of layers know their own, see `fused`."""

    def __call__(self, x: Activations, bias: torch.Tensor | None = None) -> torch.Tensor:
        """[T, in] to [T, out]."""
        assert isinstance(x, torch.Tensor)
        weight = self._weight if self._place is None else self._weight[self._place]
        return self._project(x, weight, bias)


class Quantized:
    """A matrix of which at least some rows are quantized; it is empty until it is filled."""

    def __init__(self, dtype: torch.dtype, project: Project, prepare: Prepare) -> None:
        self._dtype = dtype
        self._project = project
        self._prepare = prepare
        self._products: list[Product] = []
        self.recordable = False  # as part of a graph, once it is filled

    def fill(self, shards: Sequence[torch.Tensor | Weight]) -> None:
        """See `Filled`; rows of one kind become one product."""
        products: list[Product] = []
        together: list[Weight] = []
        for shard in shards:
            if not isinstance(shard, torch.Tensor):
                together.append(shard)
                continue
            dense = Dense(shard.to(self._dtype), self._project)
            products += [*self._prepared(together), dense]
            together = []
        self._products = products + self._prepared(together)
        self.recordable = all(
            isinstance(shard, torch.Tensor) or recordable(shard, self._dtype) for shard in shards
        )

    def use(self, product: Product) -> None:
        """Take a product that has been prepared."""
        self._products = [product]

    @property
    def products(self) -> Sequence[Product]:
        """See `Filled`: their rows follow one another."""
        return self._products

    def _prepared(self, weights: list[Weight]) -> list[Product]:
        return [self._prepare(weight, self._dtype) for weight in stack(weights)]

    @property
    def rounding(self) -> ByteRounding | None:
        """That of its product, if one has all rows."""
        product, *others = self._products
        return product.rounding if isinstance(product, RoundingProduct) and not others else None

    @property
    def paired(self) -> PairedProduct | None:
        """Likewise."""
        product, *others = self._products
        if others or not isinstance(product, RoundingProduct | KernelProduct):
            return None
        return product.paired

    def __call__(self, x: Activations, bias: torch.Tensor | None = None) -> torch.Tensor:
        """[T, in] to [T, out]."""
        parts = [_multiplied(x, product) for product in self._products]
        output = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return output if bias is None else output + bias


def _multiplied(x: Activations, product: Product) -> torch.Tensor:
    if isinstance(x, Rounded):
        assert isinstance(product, RoundingProduct)
        return product(x)
    return product(x)
