"""Any quantized weight: what all kinds have in common. It knows no checkpoint format."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from aweigh_kernels import fp4_weight, fp8_weight, int8_weight, int_weight, sparse_int_weight
from aweigh_kernels.dense import has_kernels
from aweigh_kernels.fp4_weight import Fp4Weight
from aweigh_kernels.fp8_weight import Fp8Weight
from aweigh_kernels.int8_weight import Int8Weight
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.product import Product
from aweigh_kernels.sparse_int_weight import SparseIntWeight

Weight = IntWeight | Int8Weight | Fp8Weight | Fp4Weight | SparseIntWeight
"""Each has `shape` (N, K) and `dense(dtype)`, [N, K]."""


def reference(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """[T, K] times any weight: [T, N]. What every product is tested against."""
    match weight:
        case IntWeight():
            return int_weight.reference(x, weight)
        case Int8Weight():
            return int8_weight.reference(x, weight)
        case Fp8Weight():
            return fp8_weight.reference(x, weight)
        case Fp4Weight():
            return fp4_weight.reference(x, weight)
        case SparseIntWeight():
            return sparse_int_weight.reference(x, weight)


def prepare(weight: Weight, dtype: torch.dtype) -> Product:
    """The product with any weight for many calls, [T, K] of `dtype` to [T, N]."""
    match weight:
        case IntWeight():
            return int_weight.prepare(weight, dtype)
        case Int8Weight():
            return int8_weight.prepare(weight, dtype)
        case Fp8Weight():
            return fp8_weight.prepare(weight, dtype)
        case Fp4Weight():
            return fp4_weight.prepare(weight, dtype)
        case SparseIntWeight():
            return sparse_int_weight.prepare(weight, dtype)


def recordable(weight: Weight, dtype: torch.dtype) -> bool:
    """Whether graphs of a GPU may hold its product: a kernel of ours, which the host waits for not.

    Args:
        weight: where it will be multiplied.
        dtype: of x.
    """
    match weight:
        case IntWeight():
            return int_weight.has_kernel(weight, dtype)
        case Fp4Weight():
            return fp4_weight.has_kernel(weight, dtype)
        case Int8Weight() | Fp8Weight():
            return has_kernels(weight.q, dtype)
        case SparseIntWeight():
            return sparse_int_weight.has_kernel(weight, dtype)
        case _:
            return False


def rounding(weight: Weight) -> Callable[[torch.Tensor], torch.Tensor]:
    """What the product with a weight makes of activations [T, K]: quantized if it wants them so.

    In fp32. The weight itself is not kept.
    """
    match weight:
        case Int8Weight():
            return partial(int8_weight.rounded, activation=weight.activation)
        case Fp8Weight():
            return partial(fp8_weight.rounded, activation=weight.activation)
        case Fp4Weight():
            return partial(fp4_weight.rounded, activation_scale=weight.activation_scale)
        case _:
            return torch.Tensor.float


def rounded(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """Activations [T, K] as the product with a weight sees them, in fp32."""
    return rounding(weight)(x)


def stack(weights: Sequence[Weight]) -> list[Weight]:
    """The rows of all in their order, in as few weights as can hold them.

    Each shard keeps its own scales. Neighbours of different kinds, or whose columns or activations
    are treated differently, stay apart.
    """
    stacked: list[Weight] = []
    for weight in weights:
        joined = _joined(stacked[-1], weight) if stacked else None
        if joined is None:
            stacked.append(weight)
        else:
            stacked[-1] = joined
    return stacked


def _joined(one: Weight, other: Weight) -> Weight | None:
    match one, other:
        case IntWeight(), IntWeight():
            return int_weight.stack([one, other])
        case Int8Weight(), Int8Weight():
            return int8_weight.stack([one, other])
        case Fp8Weight(), Fp8Weight():
            return fp8_weight.stack([one, other])
        case Fp4Weight(), Fp4Weight():
            return fp4_weight.stack([one, other])
        case SparseIntWeight(), SparseIntWeight():
            return sparse_int_weight.stack([one, other])
        case _:
            return None
