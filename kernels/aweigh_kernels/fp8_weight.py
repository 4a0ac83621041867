"""Weights of 8-bit floating point (E4M3 or E5M2), with activations of 16 bits or 8.

    w[n, k] = scale[n // rows of a block, k // columns of a block] · q[n, k]

Blocks are 128 by 128 (DeepSeek-V3 technical report, section 3.3), whole rows (per channel) or the
whole matrix (per tensor). 8-bit activations are E4M3 whatever the weights are, with one static
scale, one for each token, or one for each token and 128 columns.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import linear, pad

from aweigh_kernels.checks import FLOATS, expect, expect_input
from aweigh_kernels.dense import has_kernels
from aweigh_kernels.equality import same
from aweigh_kernels.product import KernelProduct, Product, in_parts
from aweigh_kernels.rounding import ByteRounding, Rounding

BLOCK = 128
FORMATS = (torch.float8_e4m3fn, torch.float8_e5m2)
LARGEST = torch.finfo(torch.float8_e4m3fn).max  # 448
_DENSE_FROM = 512  # tokens of 16 bits on a GPU, which make up for making the weight dense


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Activation:
    """How activations become E4M3."""

    rounding: Rounding
    scale: torch.Tensor | None = None  # [], fp32, of a static one

    def __post_init__(self) -> None:
        if (self.scale is not None) != (self.rounding == "static"):
            raise ValueError(
                f"activations rounded by {self.rounding} have "
                f"{'no ' if self.scale is None else 'a '}scale; expected one if they are static, "
                "and none else"
            )
        if self.scale is not None:
            expect("the activations' scale", self.scale, [()], [torch.float32])

    @property
    def byte_rounding(self) -> ByteRounding:
        """As kernels know it."""
        return ByteRounding(kind=torch.float8_e4m3fn, by=self.rounding, scale=self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Weight:
    """A matrix [N, K] of 8-bit floating point numbers.

    Raises:
        ValueError: the tensors do not fit together.
    """

    q: torch.Tensor  # [N, K], float8_e4m3fn or float8_e5m2
    scale: torch.Tensor  # [N or 1, 1], or with blocks [ceil(N / 128), ceil(K / 128)]; float
    blocks: bool = False  # of 128 by 128, each with a scale of its own
    activation: Fp8Activation | None = None  # None: it stays in 16 bits

    def __post_init__(self) -> None:
        if self.q.dim() != 2:
            raise ValueError(f"q is {list(self.q.shape)}; expected [N, K]")
        rows, columns = self.q.shape
        expect("q", self.q, [(rows, columns)], FORMATS)
        shapes = [(-(-rows // BLOCK), -(-columns // BLOCK))] if self.blocks else [(rows, 1), (1, 1)]
        expect("scale", self.scale, shapes, FLOATS)

    @property
    def shape(self) -> tuple[int, int]:
        """N, K."""
        return self.q.shape[0], self.q.shape[1]

    def dense(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[N, K], rounded once, to `dtype`."""
        return _scaled(self.q, self.scale, self.blocks).to(dtype)

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """[T, K] as the product sees it."""
        return rounded(x, self.activation)


def rounded(x: torch.Tensor, activation: Fp8Activation | None) -> torch.Tensor:
    """Activations [T, K], quantized and made fp32 again."""
    if activation is None:
        return x.float()
    xq, scale = quantize(x, activation)
    return _spread(xq, scale, x.shape[1])


def quantize(x: torch.Tensor, activation: Fp8Activation) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations as E4M3; each token's depend on itself alone.

    Args:
        x: [T, K].
        activation: how.

    Returns:
        xq [T, K] float8_e4m3fn; scale fp32: [], [T, 1] or [T, ceil(K / 128)].
    """
    wide = x.float()
    if activation.scale is not None:
        return _rounded(wide / activation.scale), activation.scale
    if activation.rounding == "token":
        scale = _scale_of(wide.abs().amax(-1, keepdim=True))
        return _rounded(wide / scale), scale
    columns = x.shape[1]
    groups = torch.unflatten(pad(wide, (0, -columns % BLOCK)), 1, (-1, BLOCK))  # [T, K/128, 128]
    scale = _scale_of(groups.abs().amax(-1))
    return _rounded((groups / scale[..., None]).flatten(1)[:, :columns]), scale


def reference(x: torch.Tensor, weight: Fp8Weight) -> torch.Tensor:
    """[T, K] times the weight: [T, N], in fp32, rounded to x's number format.

    Raises:
        ValueError: x is not [T, K].
    """
    expect_input(x, weight.shape[1])
    return linear(weight.rounded(x), weight.dense()).to(x.dtype)


def stack(weights: Sequence[Fp8Weight]) -> Fp8Weight | None:
    """One weight with the rows of all; None: they differ in kind, or a block would span two."""
    first = weights[0]
    alike = all(
        (each.blocks, each.q.dtype, each.shape[1]) == (first.blocks, first.q.dtype, first.shape[1])
        and same(each.activation, first.activation)
        for each in weights
    )
    if not alike or (first.blocks and any(each.shape[0] % BLOCK for each in weights[:-1])):
        return None
    # torch concatenates no 8-bit floating point numbers; their bytes it does.
    q = torch.cat([each.q.view(torch.uint8) for each in weights]).view(first.q.dtype)
    if first.blocks:
        return replace(first, q=q, scale=torch.cat([each.scale for each in weights]))
    scales = [each.scale.float().expand(each.shape[0], 1) for each in weights]
    return replace(first, q=q, scale=torch.cat(scales))


def prepare(weight: Fp8Weight, dtype: torch.dtype) -> Product:
    """The product for many calls: [T, K] of `dtype` to [T, N]. The weight stays in 8 bits.

    On a GPU a kernel multiplies with it; elsewhere it is made dense in parts, in each call.
    """
    if has_kernels(weight.q, dtype):
        return _prepare_on_gpu(weight, dtype)
    return _prepare_in_parts(weight, dtype)


def _prepare_on_gpu(weight: Fp8Weight, dtype: torch.dtype) -> Product:
    # They need Triton, which is not everywhere.
    from aweigh_kernels.byte_matmul import pack, widened
    from aweigh_kernels.byte_product import prepared
    from aweigh_kernels.gpus import Gpu

    activation, gpu = weight.activation, Gpu.of(weight.q.device)
    matrix = pack(weight.q, weight.scale, blocks=weight.blocks)
    if activation is not None and gpu.fp8:
        return prepared(matrix, dtype, activation.byte_rounding)
    few = prepared(matrix, dtype, None)
    many = in_parts(lambda rows: widened(matrix, rows, dtype, gpu), weight.shape, BLOCK)

    def product(x: torch.Tensor) -> torch.Tensor:
        expect_input(x, matrix.columns)
        inputs = x if activation is None else rounded(x, activation).to(dtype)
        return few(inputs) if len(x) < _DENSE_FROM else many(inputs)

    def chosen(num_tokens: int) -> Hashable:
        return few.kernels.chosen(num_tokens) if num_tokens < _DENSE_FROM else None

    paired = few.paired if activation is None else None
    return KernelProduct(product, replace(few.kernels, chosen=chosen), paired)


def _prepare_in_parts(weight: Fp8Weight, dtype: torch.dtype) -> Product:
    columns, activation = weight.shape[1], weight.activation

    def dense(rows: slice) -> torch.Tensor:
        return _part(weight, rows).to(dtype)

    multiply = in_parts(dense, weight.shape, BLOCK)

    def product(x: torch.Tensor) -> torch.Tensor:
        expect_input(x, columns)
        return multiply(x if activation is None else rounded(x, activation).to(dtype))

    return product


def _part(weight: Fp8Weight, rows: slice) -> torch.Tensor:
    scale = weight.scale
    if weight.blocks:
        scale = scale[rows.start // BLOCK : -(-rows.stop // BLOCK)]
    elif len(scale) > 1:
        scale = scale[rows]
    return _scaled(weight.q[rows], scale, weight.blocks)


def _scaled(q: torch.Tensor, scale: torch.Tensor, blocks: bool) -> torch.Tensor:
    """[N, K], fp32."""
    if not blocks:
        return q.float().mul_(scale)
    by_rows = scale.float().repeat_interleave(BLOCK, 0)[: len(q)]
    return _spread(q, by_rows, q.shape[1])


def _spread(q: torch.Tensor, scale: torch.Tensor, columns: int) -> torch.Tensor:
    """Rows of 8-bit numbers times a scale for each 128 of them, or one for all."""
    if scale.dim() < 2 or scale.shape[1] == 1:
        return q.float().mul_(scale)
    return q.float().mul_(scale.repeat_interleave(BLOCK, 1)[:, :columns])


def _scale_of(largest: torch.Tensor) -> torch.Tensor:
    """A token of zeros stays one."""
    return (largest / LARGEST).clamp_(min=torch.finfo(torch.float32).tiny)


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return values.clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
