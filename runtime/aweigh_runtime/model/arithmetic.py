"""The operations of a decoder whose result for a token may depend on what else is in the step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch.nn.functional import linear

from aweigh_kernels.product import Product
from aweigh_kernels.weight import Weight, prepare
from aweigh_runtime.model.attention import AttentionShape, attend
from aweigh_runtime.model.cache import LayerCache
from aweigh_runtime.model.step_plan import Plan

RowOperation = Callable[[torch.Tensor], torch.Tensor]


class Arithmetic(Protocol):
    """How a decoder computes."""

    def project(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[T, in] to [T, out]; `weight` is [out, in]."""

    def project_wide(
        self, x: torch.Tensor, weight: torch.Tensor, output: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The same in fp32; in `output`, if there is one."""

    def prepare(self, weight: Weight, dtype: torch.dtype) -> Product:
        """The product with a quantized weight, [T, in] of `dtype` to [T, out]."""

    def by_rows(self, operation: RowOperation, x: torch.Tensor, width: int) -> torch.Tensor:
        """Apply what treats each row of `x` by itself and holds `width` numbers of it at once."""

    def attend(
        self, heads: torch.Tensor, kv: LayerCache, plan: Plan, shape: AttentionShape
    ) -> torch.Tensor:
        """See `attention.attend`."""


@dataclass
class Fast:
    """The fastest way. In a larger step the last bits of a result may differ."""

    by_torch: bool = field(default=False, kw_only=True)  # as where no kernel can be compiled

    def project(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[T, in] to [T, out]."""
        return linear(x, weight, bias)

    def project_wide(
        self, x: torch.Tensor, weight: torch.Tensor, output: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[T, in] to [T, out], fp32, of numbers that are rounded as those of `project` are."""
        return widened(self.project(x, weight), output)

    def prepare(self, weight: Weight, dtype: torch.dtype) -> Product:
        """As the weight's own kernel multiplies."""
        return prepare(weight, dtype)

    def by_rows(self, operation: RowOperation, x: torch.Tensor, width: int) -> torch.Tensor:
        """All rows at once."""
        del width
        return operation(x)

    def attend(
        self, heads: torch.Tensor, kv: LayerCache, plan: Plan, shape: AttentionShape
    ) -> torch.Tensor:
        """[T, H+2K, D] to [T, H·D]."""
        return attend(heads, kv, plan, shape, by_torch=self.by_torch)


def widened(x: torch.Tensor, output: torch.Tensor | None) -> torch.Tensor:
    """In fp32; in `output`, if there is one."""
    return x.float() if output is None else output.copy_(x)
