"""x · weightᵀ for weights of 2, 3, 4 or 8 bits in groups, as fast as they can be read.

Few tokens are multiplied with 4 or 8 bits by a kernel in CUDA C++ where that is there and takes the
groups, many on Hopper by another one, all others by Triton.

Bound: memory, up to some tens of tokens; N·K·bits / 8 bytes of the weight move, and 4 for each row
of a group. Sums are fp32, in an order that depends on shapes alone: the same product is the same
bits again. Of many tokens the weight is made dense in parts, and cuBLAS multiplies.
"""

from collections.abc import Hashable, Mapping
from functools import partial
from types import MappingProxyType

import torch

from aweigh_kernels import cuda_int_matmul, hopper_int_matmul
from aweigh_kernels.dense import NARROW, expect_beside, expect_dense
from aweigh_kernels.gpu.int_matmul import multiply, unpack
from aweigh_kernels.gpus import Gpu
from aweigh_kernels.int_packing import Packed
from aweigh_kernels.product import Kernels
from aweigh_kernels.skinny_matmul import Scratch
from aweigh_kernels.tile_matmul import Workspace, launch, launch_unpack, multiply_in_parts
from aweigh_kernels.tile_schedule import MOST_TOKENS, schedule_if_few, schedule_on

NOTHING: Mapping[str, float] = MappingProxyType({})
MOST_TOKENS_CUDA = 8  # of the kernel in CUDA C++ for few
LEAST_TOKENS_HOPPER = {4: 33, 8: 17}  # of that for many, by bits
_SMALL = 1 << 24  # numbers of 4 bits: with fewer Triton's is as fast for few tokens, with so many
_SMALL_HOPPER = {4: 1 << 24, 8: 1 << 25}  # with so many numbers at most, by bits,
_FEW_HOPPER = 64  # and so many tokens Triton's is as fast as that for many, or faster
_LEAST_BITS_CUDA = 4
_STEP_BITS_CUDA = 512  # of a row


def int_matmul(x: torch.Tensor, packed: Packed, workspace: Workspace) -> torch.Tensor:
    """Multiply any number of rows with a matrix.

    Args:
        x: [T, K], bf16 or fp16, contiguous; fastest where rows are a multiple of 16 bytes.
        packed: on the same device.
        workspace: likewise.

    Returns:
        [T, N], as x, rounded once. Of more than MOST_TOKENS rows weights are rounded, too; where
        `on_hopper`, they and their scales.

    Raises:
        ValueError: x has another shape, number format, strides or device.
    """
    num_tokens, (num_rows, num_columns) = len(x), packed.shape
    expect_dense("x", x, [num_tokens, num_columns], NARROW)
    expect_beside("x", x, packed.words)
    output = x.new_empty(num_tokens, num_rows)
    if output.numel() and on_hopper(num_tokens, packed, x.dtype):
        divided = hopper_int_matmul.schedule_on(x.device, num_tokens, packed)
        hopper_int_matmul.launch(x, packed, output, workspace.scratch, divided)
    elif num_tokens > MOST_TOKENS:
        multiply_in_parts(x, workspace, output, partial(launch_unpack, unpack, packed))
    elif output.numel():
        scratch = workspace.scratch
        if in_cuda(num_tokens, packed, x.dtype):
            launch_cuda(
                x, packed, output, scratch, schedule_cuda_on(x.device, num_tokens, packed, x.dtype)
            )
        else:
            chosen = schedule_on(x.device, num_tokens, packed)
            shared = scratch.sums, scratch.arrived
            launch(multiply, x, packed, output, shared, chosen, UNROLL=chosen.unroll)
    return output


def in_cuda(num_tokens: int, packed: Packed, dtype: torch.dtype) -> bool:
    """Whether so many tokens are multiplied by the kernel in CUDA C++. Loads it, see `kernels_of`.

    Lanes have columns as warpgroups take them, and a step of it is a tile of one group.
    """
    if num_tokens > MOST_TOKENS_CUDA or packed.fours or packed.bits < _LEAST_BITS_CUDA:
        return False
    if packed.bits == _LEAST_BITS_CUDA and packed.shape[0] * packed.shape[1] < _SMALL:
        return False
    if packed.depth * packed.bits < _STEP_BITS_CUDA:
        return False
    return bool(cuda_int_matmul.ready(packed.words.device, packed.bits, dtype, sparse=False))


def on_hopper(num_tokens: int, packed: Packed, dtype: torch.dtype) -> bool:
    """Whether so many tokens are multiplied by Hopper's warpgroups. Loads it, see `kernels_of`."""
    if not hopper_int_matmul.takes(packed) or num_tokens < LEAST_TOKENS_HOPPER[packed.bits]:
        return False
    size = packed.shape[0] * packed.shape[1]
    if num_tokens <= _FEW_HOPPER and size <= _SMALL_HOPPER[packed.bits]:
        return False
    return hopper_int_matmul.is_ready(packed.words.device, packed.bits, dtype)


def kernels_of(packed: Packed, dtype: torch.dtype) -> Kernels:
    """Those that compute its products with x of a number format: graphs may hold them from now on.

    But for those of Triton, each of which is compiled by the first product that needs it.
    """
    device = packed.words.device
    in_cuda(1, packed, dtype)  # loads what a graph that is being captured cannot
    on_hopper(MOST_TOKENS + 1, packed, dtype)

    def chosen(num_tokens: int) -> Hashable:
        if in_cuda(num_tokens, packed, dtype):
            return schedule_cuda_on(device, num_tokens, packed, dtype)
        if on_hopper(num_tokens, packed, dtype):
            return hopper_int_matmul.__name__  # nothing of it is compiled
        return schedule_if_few(device, packed, num_tokens)

    return Kernels(
        product=(packed.shape, packed.bits, packed.group, packed.fours, dtype),
        chosen=chosen,
        x=torch.empty(0, packed.shape[1], dtype=dtype, device=device),
    )


def schedule_cuda_on(
    device: torch.device, num_tokens: int, packed: Packed, dtype: torch.dtype
) -> cuda_int_matmul.Schedule:
    """How the kernel in CUDA C++ divides a product with x of a number format."""
    num_processors = Gpu.of(device).num_processors
    shapes = cuda_int_matmul.ready(device, packed.bits, dtype, sparse=False)
    return cuda_int_matmul.schedule(num_tokens, packed.shape, packed.depth, num_processors, shapes)


def launch_cuda(
    x: torch.Tensor,
    packed: Packed,
    output: torch.Tensor,
    scratch: Scratch,
    chosen: cuda_int_matmul.Schedule,
    following: Mapping[str, float] = NOTHING,
) -> None:
    """Launch the kernel in CUDA C++.

    Args:
        x: [T, K]; T is 1 or more.
        packed: with tiles as deep as can be, and columns as warpgroups take them.
        output: [T, N], or what follows makes of it.
        scratch: has room for what blocks leave to each other.
        chosen: how it is divided; of one tile of 8 tokens.
        following: what follows, in the words of `Arguments`.
    """
    given = cuda_int_matmul.arguments_of(packed, output)
    for name, value in following.items():
        setattr(given, name, value)
    cuda_int_matmul.launch(x, given, scratch, chosen)
