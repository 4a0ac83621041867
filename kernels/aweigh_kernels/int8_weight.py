"""Weights of 8 bits that are multiplied with activations of 8 bits (W8A8).

    y[t, n] = x_scale[t] · scale[n] · sum over k of (xq[t, k] - x_zero[t]) · q[n, k]

The sum is exact in integers, so that every order of adding gives the same bits. Dynamic activations
get a scale per token, static ones have one for all (SmoothQuant, Xiao et al. 2022).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from aweigh_kernels.checks import FLOATS, expect, expect_input
from aweigh_kernels.dense import has_kernels
from aweigh_kernels.equality import same
from aweigh_kernels.product import Product
from aweigh_kernels.rounding import ByteRounding

_LOW, _HIGH = -128, 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Activation:
    """How activations become integers."""

    symmetric: bool = True  # without a zero point
    scale: torch.Tensor | None = None  # [], fp32; None: dynamic, per token
    zero: torch.Tensor | None = None  # [], int32, of a static one that is not symmetric

    def __post_init__(self) -> None:
        if self.scale is not None:
            expect("the activations' scale", self.scale, [()], [torch.float32])
        if (self.zero is not None) != (self.scale is not None and not self.symmetric):
            raise ValueError(
                "a zero point of the activations goes with a static scale that is not symmetric, "
                "and with no other"
            )
        if self.zero is not None:
            expect("the activations' zero point", self.zero, [()], [torch.int32])

    @property
    def byte_rounding(self) -> ByteRounding:
        """As kernels know it."""
        return ByteRounding(
            kind=torch.int8,
            by="token" if self.scale is None else "static",
            scale=self.scale,
            shifted=not self.symmetric,
            zero=self.zero,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Weight:
    """A matrix [N, K] of bytes, symmetric.

    Raises:
        ValueError: the tensors do not fit together.
    """

    q: torch.Tensor  # [N, K], int8
    scale: torch.Tensor  # [N or 1, 1], float
    activation: Int8Activation = Int8Activation()

    def __post_init__(self) -> None:
        if self.q.dim() != 2:
            raise ValueError(f"q is {list(self.q.shape)}; expected [N, K]")
        expect("q", self.q, [self.q.shape], [torch.int8])
        expect("scale", self.scale, [(len(self.q), 1), (1, 1)], FLOATS)

    @property
    def shape(self) -> tuple[int, int]:
        """N, K."""
        return self.q.shape[0], self.q.shape[1]

    def dense(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[N, K], rounded once, to `dtype`."""
        return (self.q.float() * self.scale).to(dtype)

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """[T, K] as the product sees it."""
        return rounded(x, self.activation)


def rounded(x: torch.Tensor, activation: Int8Activation) -> torch.Tensor:
    """Activations [T, K], quantized and made fp32 again."""
    xq, scale, zero = quantize(x, activation)
    return (xq.float() - zero) * scale


def quantize(
    x: torch.Tensor, activation: Int8Activation
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations as integers; each token's depend on itself alone.

    Args:
        x: [T, K].
        activation: how.

    Returns:
        xq [T, K] int8; scale fp32 and zero point fp32, [T, 1] or [].
    """
    wide = x.float()
    if activation.scale is not None:
        scale = activation.scale
        zero = torch.zeros_like(scale) if activation.zero is None else activation.zero.float()
    elif activation.symmetric:
        scale = wide.abs().amax(-1, keepdim=True).div_(_HIGH).clamp_(min=_SMALLEST)
        zero = torch.zeros_like(scale)
    else:
        low = wide.amin(-1, keepdim=True).clamp_(max=0.0)
        high = wide.amax(-1, keepdim=True).clamp_(min=0.0)
        scale = high.sub_(low).div_(_HIGH - _LOW).clamp_(min=_SMALLEST)
        zero = (_LOW - low / scale).round_().clamp_(_LOW, _HIGH)
    xq = (wide / scale).add_(zero).round_().clamp_(_LOW, _HIGH).to(torch.int8)
    return xq, scale, zero


_SMALLEST = torch.finfo(torch.float32).tiny  # a scale: a token of zeros stays one


def reference(x: torch.Tensor, weight: Int8Weight) -> torch.Tensor:
    """[T, K] times the weight: [T, N]. Integer sums are exact, in fp64.

    Raises:
        ValueError: x is not [T, K].
    """
    expect_input(x, weight.shape[1])
    xq, scale, zero = quantize(x, weight.activation)
    sums = (xq.double() - zero.double()) @ weight.q.double().t()
    return (sums.float() * scale * weight.scale.float().t()).to(x.dtype)


def stack(weights: Sequence[Int8Weight]) -> Int8Weight | None:
    """One weight with the rows of all; None: they are of different kinds."""
    first = weights[0]
    if not all(
        same(each.activation, first.activation) and each.shape[1] == first.shape[1]
        for each in weights
    ):
        return None
    return replace(
        first,
        q=torch.cat([each.q for each in weights]),
        scale=torch.cat([each.scale.float().expand(len(each.q), 1) for each in weights]),
    )


def prepare(weight: Int8Weight, dtype: torch.dtype) -> Product:
    """The product for many calls: [T, K] of `dtype` to [T, N].

    On a GPU by a kernel, elsewhere by torch's integer product.
    """
    if has_kernels(weight.q, dtype):
        return _prepare_on_gpu(weight, dtype)
    return _prepare_by_torch(weight, dtype)


def _prepare_on_gpu(weight: Int8Weight, dtype: torch.dtype) -> Product:
    # They need Triton, which is not everywhere.
    from aweigh_kernels.byte_matmul import pack
    from aweigh_kernels.byte_product import prepared

    how = weight.activation.byte_rounding
    return prepared(pack(weight.q, weight.scale, summed=how.shifted), dtype, how)


def _prepare_by_torch(weight: Int8Weight, dtype: torch.dtype) -> Product:
    columns = weight.q.t()  # [K, N]
    scale = weight.scale.float().t()  # [1, N or 1]
    num_columns, activation = weight.shape[1], weight.activation
    sums_of_rows = None if activation.symmetric else weight.q.float().sum(1)[None]  # [1, N]

    def product(x: torch.Tensor) -> torch.Tensor:
        expect_input(x, num_columns)
        xq, x_scale, x_zero = quantize(x, activation)
        sums = _multiply(xq, columns).float()
        if sums_of_rows is not None:
            sums -= x_zero * sums_of_rows
        return sums.mul_(x_scale).mul_(scale).to(dtype)

    return product


def _multiply(xq: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """[T, K] times [K, N], int32. On a GPU torch wants more than 16 rows and whole eights."""
    if xq.device.type == "cpu":
        return torch._int_mm(xq, columns)
    num_rows, num_columns = len(xq), columns.shape[1]
    spare = (max(17, num_rows + -num_rows % 8) - num_rows, -columns.shape[0] % 8, -num_columns % 8)
    padded = torch.nn.functional.pad(xq, (0, spare[1], 0, spare[0]))
    if spare[1] or spare[2]:
        columns = torch.nn.functional.pad(columns, (0, spare[2], 0, spare[1]))
    return torch._int_mm(padded, columns)[:num_rows, :num_columns]
