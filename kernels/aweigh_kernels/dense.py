"""Refuses tensors that a GPU kernel cannot walk through, by name. It changes none."""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch

from aweigh_kernels.checks import expect

NARROW = (torch.bfloat16, torch.float16)
_HOPPER = (9, 0)
_LARGE_BLACKWELL = 10  # the major number of its capability
_BY_WARPGROUPS = (9, _LARGE_BLACKWELL)


def expect_dense(
    name: str, tensor: torch.Tensor, shape: Sequence[int], dtypes: Sequence[torch.dtype]
) -> None:
    """Refuse another shape or number format, a strided tensor, and one that is on no GPU.

    Raises:
        ValueError: names the tensor, what it is and what was expected.
    """
    expect(name, tensor, [shape], dtypes)
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {list(tensor.stride())}; expected contiguous")
    if not tensor.is_cuda:
        raise ValueError(f"{name} is on {tensor.device}; expected a GPU: `reference` runs anywhere")


def expect_beside(name: str, tensor: torch.Tensor, weight: torch.Tensor) -> None:
    """Refuse a tensor that is not where the weight is: a kernel would read what it cannot.

    Raises:
        ValueError: names the tensor, its device and the weight's.
    """
    if tensor.device != weight.device:
        raise ValueError(
            f"{name} is on {tensor.device}; expected {weight.device}, as the weight is"
        )


def has_kernels(weight: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether products with a weight, of activations in such a format, are computed by Triton."""
    return weight.is_cuda and dtype in NARROW and find_spec("triton") is not None


@cache
def starts_early(device: torch.device) -> bool:
    """Whether a kernel may start while the one before it still runs, and wait for it by itself.

    Starting one takes about a microsecond, which then passes while the last one ends
    (programmatic dependent launch).
    """
    return torch.cuda.get_device_capability(device) >= _HOPPER


@cache
def is_hopper(device: torch.device) -> bool:
    """Whether a GPU has Hopper's instructions, some of which no later one has."""
    return torch.cuda.get_device_capability(device) == _HOPPER


@cache
def by_warpgroups(device: torch.device) -> bool:
    """Whether tensor cores take what four warps hold as one: Hopper's, and large Blackwells'.

    Small Blackwells, as of workstations (sm_120), multiply as GPUs before Hopper do.
    """
    return torch.cuda.get_device_capability(device)[0] in _BY_WARPGROUPS


@cache
def multiplies_fp4(device: torch.device) -> bool:
    """Whether tensor cores take NVFP4 with its scales, as Triton has them: large Blackwells'."""
    return torch.cuda.get_device_capability(device)[0] == _LARGE_BLACKWELL
