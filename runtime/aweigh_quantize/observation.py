"""The arithmetic of a layer that is being quantized: it shows every product's input.

It also rounds the input where a quantized weight wants it rounded, so that what comes after sees
what a server will compute.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.functional import linear

from aweigh_kernels.weight import Weight, rounded
from aweigh_runtime.model.arithmetic import Fast

Observer = Callable[[torch.Tensor], None]
"""Called with the input [T, K] of one product."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a matrix that are quantized alike."""

    num_rows: int
    weight: Weight | None  # None: they are dense


class Seen(Exception):
    """All that was to be observed is: the rest of the layer need not be computed."""


@dataclass(slots=True)
class Watch(Fast):
    """Products are known by the address of their matrix."""

    observers: dict[int, Observer] = field(default_factory=dict)
    beyond: frozenset[int] = frozenset()
    """Products that are not computed: whoever calls for one gets Seen."""
    trained: dict[int, Callable[[], torch.Tensor]] = field(default_factory=dict)
    """What makes a matrix that is being trained."""
    parts: dict[int, Sequence[Part]] = field(default_factory=dict)
    """Of matrices that are quantized; their dense values lie in the matrix itself."""

    def project(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[T, in] to [T, out]."""
        address = weight.data_ptr()
        if address in self.beyond:
            raise Seen
        if observer := self.observers.get(address):
            observer(x)
        if address in self.trained:
            return linear(x, self.trained[address](), bias)
        parts = self.parts.get(address, ())
        if not any(part.weight is not None for part in parts):
            return linear(x, weight, bias)
        return _by_parts(x, weight, parts, bias)


def _by_parts(
    x: torch.Tensor, weight: torch.Tensor, parts: Sequence[Part], bias: torch.Tensor | None
) -> torch.Tensor:
    found, first = [], 0
    for part in parts:
        seen = x if part.weight is None else rounded(x, part.weight).to(x.dtype)
        found.append(linear(seen, weight[first : first + part.num_rows]))
        first += part.num_rows
    whole = torch.cat(found, 1)
    return whole if bias is None else whole.add_(bias)
