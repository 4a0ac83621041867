"""Weights of 4-bit floating point: NVFP4, with activations of 16 bits or of NVFP4 as well.

    w[n, k] = value(q[n, k]) · scale[n, k // 16] · global_scale[n]

`value` is E2M1: a sign and 0, 0.5, 1, 1.5, 2, 3, 4 or 6. Scales are E4M3, one for 16 columns. The
product of both scales is rounded to fp32 first. NVIDIA ModelOpt stores the global scale in fp32,
compressed-tensors its inverse: in fp64 both give the product to the last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import linear

from aweigh_kernels.checks import expect, expect_input
from aweigh_kernels.dense import by_warpgroups, has_kernels, multiplies_fp4
from aweigh_kernels.equality import same
from aweigh_kernels.product import KernelProduct, Product, in_parts

GROUP = 16  # columns that share a scale
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LARGEST = MAGNITUDES[-1]
_LARGEST_SCALE = torch.finfo(torch.float8_e4m3fn).max
_BETWEEN = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)  # halfway from one magnitude to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp4Weight:
    """A matrix [N, K] of 4-bit floating point numbers.

    Raises:
        ValueError: the tensors do not fit together.
    """

    q: torch.Tensor  # [N, K], uint8: 8 · sign + index of the magnitude
    scale: torch.Tensor  # [N, K / 16], float8_e4m3fn
    global_scale: torch.Tensor  # [N or 1, 1], fp64
    activation_scale: torch.Tensor | None = None  # [], fp64, global; None: they stay in 16 bits

    def __post_init__(self) -> None:
        if self.q.dim() != 2 or self.q.shape[1] % GROUP:
            raise ValueError(f"q is {list(self.q.shape)}; expected [N, K], K a multiple of {GROUP}")
        rows, columns = self.q.shape
        expect("q", self.q, [(rows, columns)], [torch.uint8])
        expect("scale", self.scale, [(rows, columns // GROUP)], [torch.float8_e4m3fn])
        expect("global_scale", self.global_scale, [(rows, 1), (1, 1)], [torch.float64])
        if self.activation_scale is not None:
            expect("activation_scale", self.activation_scale, [()], [torch.float64])

    @property
    def shape(self) -> tuple[int, int]:
        """N, K."""
        return self.q.shape[0], self.q.shape[1]

    def dense(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[N, K], rounded once, to `dtype`."""
        return _scaled(self.q, self.scale, self.global_scale).to(dtype)

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """[T, K] as the product sees it."""
        return rounded(x, self.activation_scale)


def rounded(x: torch.Tensor, activation_scale: torch.Tensor | None) -> torch.Tensor:
    """Activations [T, K], quantized and made fp32 again."""
    if activation_scale is None:
        return x.float()
    q, scale = quantize(x, activation_scale)
    return _scaled(q, scale, activation_scale)


def values(codes: torch.Tensor) -> torch.Tensor:
    """What codes mean, fp32, of any shape."""
    table = torch.tensor(
        [*MAGNITUDES, *(-each for each in MAGNITUDES)], device=codes.device, dtype=torch.float32
    )
    return table[codes.long()]


def nearest(numbers: torch.Tensor) -> torch.Tensor:
    """The codes of the nearest values, of two equally near ones that with an even index."""
    between = torch.tensor(_BETWEEN, device=numbers.device, dtype=torch.float32)
    magnitudes = numbers.float().abs()
    below = torch.bucketize(magnitudes, between)  # a tie goes down
    above = torch.bucketize(magnitudes, between, right=True)  # a tie goes up
    codes = torch.where(below % 2 == 0, below, above)
    return codes.add_(8 * torch.signbit(numbers)).to(torch.uint8)


def quantize(x: torch.Tensor, global_scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers as NVFP4; each group's depend on itself alone.

    Args:
        x: [rows, K], K a multiple of 16.
        global_scale: [] or [rows, 1], fp64: the largest magnitude divided by 6 · 448.

    Returns:
        Codes [rows, K] uint8, and scales [rows, K / 16] float8_e4m3fn.
    """
    groups = torch.unflatten(x.float(), 1, (-1, GROUP))  # [rows, K/16, 16]
    wanted = (groups.abs().amax(-1) / LARGEST / global_scale).float()
    scale = wanted.clamp_(max=_LARGEST_SCALE).to(torch.float8_e4m3fn)
    divisor = _both(scale, global_scale)[..., None]
    scaled = torch.where(divisor > 0, groups / divisor, torch.zeros_like(groups))
    return nearest(scaled).flatten(1), scale


def reference(x: torch.Tensor, weight: Fp4Weight) -> torch.Tensor:
    """[T, K] times the weight: [T, N], in fp32, rounded to x's number format.

    Raises:
        ValueError: x is not [T, K].
    """
    expect_input(x, weight.shape[1])
    return linear(weight.rounded(x), weight.dense()).to(x.dtype)


def stack(weights: Sequence[Fp4Weight]) -> Fp4Weight | None:
    """One weight with the rows of all; None: they are of different kinds."""
    first = weights[0]
    if not all(
        each.shape[1] == first.shape[1] and same(each.activation_scale, first.activation_scale)
        for each in weights
    ):
        return None
    scales = torch.cat([each.scale.view(torch.uint8) for each in weights])
    return replace(
        first,
        q=torch.cat([each.q for each in weights]),
        scale=scales.view(torch.float8_e4m3fn),
        global_scale=torch.cat([each.global_scale.expand(each.shape[0], 1) for each in weights]),
    )


def prepare(weight: Fp4Weight, dtype: torch.dtype) -> Product:
    """The product for many calls: [T, K] of `dtype` to [T, N]. Two weights share a byte.

    On a GPU kernels of ours round activations, if they are quantized, and multiply what they mean
    in 16 bits: no host waits, and graphs may hold it, but no two products of one GPU may run at the
    same time. Elsewhere it is made dense in parts, in each call.
    """
    if has_kernel(weight, dtype):
        return _on_gpu(weight, dtype)
    return _in_parts(weight, dtype)


def has_kernel(weight: Fp4Weight, dtype: torch.dtype) -> bool:
    """Whether a GPU kernel of ours multiplies it with x of such a format; reads a scale."""
    if not has_kernels(weight.q, dtype):
        return False
    from aweigh_kernels.fp4_rounding import RANGE  # Triton is not everywhere

    scale = weight.activation_scale
    return scale is None or RANGE[0] <= float(scale) <= RANGE[1]


def _on_gpu(weight: Fp4Weight, dtype: torch.dtype) -> Product:
    # They need Triton, which is not everywhere.
    from aweigh_kernels.fp4_matmul import fp4_matmul, kernels_of
    from aweigh_kernels.fp4_packing import pack
    from aweigh_kernels.fp4_rounding import round_numbers
    from aweigh_kernels.tile_matmul import workspace_of

    device, columns = weight.q.device, weight.shape[1]
    if weight.activation_scale is not None and multiplies_fp4(device):
        return _by_blocks(weight, weight.activation_scale.to(device), dtype)
    fours = not by_warpgroups(device)
    packed = pack(weight.q, weight.scale, weight.global_scale, dtype, fours=fours)
    workspace, scale = workspace_of(device), weight.activation_scale
    of_all = None if scale is None else scale.to(device)

    def product(x: torch.Tensor) -> torch.Tensor:
        expect_input(x, columns)
        x = x.contiguous()
        return fp4_matmul(x if of_all is None else round_numbers(x, of_all), packed, workspace)

    return KernelProduct(product, kernels_of(packed, rounded=of_all is not None))


def _by_blocks(weight: Fp4Weight, of_all: torch.Tensor, dtype: torch.dtype) -> Product:
    """By tensor cores that multiply codes with their scales."""
    from aweigh_kernels.fp4_blocks import kernels_of, multiply_blocks, pack
    from aweigh_kernels.fp4_rounding import quantize_rows
    from aweigh_kernels.tile_matmul import workspace_of

    columns, scratch = weight.shape[1], workspace_of(weight.q.device).scratch
    packed = pack(weight.q, weight.scale, weight.global_scale)

    def product(x: torch.Tensor) -> torch.Tensor:
        expect_input(x, columns)
        numbers = quantize_rows(x.contiguous(), of_all, swizzled=True)
        return multiply_blocks(numbers, packed, scratch, dtype)

    return KernelProduct(product, kernels_of(packed, dtype))


def _in_parts(weight: Fp4Weight, dtype: torch.dtype) -> Product:
    rows, columns = weight.shape
    packed = weight.q[:, ::2] | (weight.q[:, 1::2] << 4)
    scale, global_scale = weight.scale, weight.global_scale.expand(rows, 1)
    activation_scale = weight.activation_scale

    def dense(part: slice) -> torch.Tensor:
        codes = torch.stack((packed[part] & 15, packed[part] >> 4), -1).flatten(1)
        return _scaled(codes, scale[part], global_scale[part]).to(dtype)

    multiply = in_parts(dense, weight.shape)

    def product(x: torch.Tensor) -> torch.Tensor:
        expect_input(x, columns)
        if activation_scale is not None:
            x = rounded(x, activation_scale).to(dtype)
        return multiply(x)

    return product


def _scaled(q: torch.Tensor, scale: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """[rows, K], fp32."""
    groups = torch.unflatten(values(q), 1, (-1, GROUP))
    return groups.mul_(_both(scale, global_scale)[..., None]).flatten(1)


def _both(scale: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    return (scale.double() * global_scale).float()
