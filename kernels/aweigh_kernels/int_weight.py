"""Weights of 2, 3, 4 or 8 bits that are multiplied with activations of 16 or 32 bits.

    w[n, perm[k]] = scale[n, k // group] · (q[n, k] - zero[n, k // group])

GPTQ (Frantar et al. 2022), AWQ (Lin et al. 2023) and compressed-tensors' packed integers all mean
this. The permutation is GPTQ's act order: columns that were quantized together lie together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch.nn.functional import linear, pad

from aweigh_kernels import bits
from aweigh_kernels.checks import FLOATS, expect, expect_input
from aweigh_kernels.dense import by_warpgroups, has_kernels
from aweigh_kernels.equality import same
from aweigh_kernels.product import KernelProduct, Product, in_parts

# Rows up to which torch's product with packed integers is quicker on a CPU than making the weight
# dense, by bits; `benchmarks/int_weight_cpu.py` finds them. In bf16 torch multiplies by vector
# instructions. In fp32 and fp16 it takes as long for each row as making the weight dense does.
_FEW_ROWS_BF16 = {4: 96, 8: 48}
_FEW_ROWS = 1
_PACKED_GROUPS = (32, 64, 128, 256)  # that it takes
_PACKED_ROWS = (64, 32)  # of the weight, that it may keep side by side


@dataclass(frozen=True, slots=True, kw_only=True)
class IntWeight:
    """A matrix [N, K] of small integers.

    Raises:
        ValueError: the tensors do not fit together.
    """

    q: torch.Tensor  # [N, K], uint8, below 2 to the power of `bits`
    scale: torch.Tensor  # [N or 1, ceil(K / group)], float
    zero: torch.Tensor | None = None  # as scale, int16; None: 2 to the power of `bits - 1`
    bits: int
    group: int  # columns of q that share a scale
    perm: torch.Tensor | None = None  # [K], int64: the column of x that meets each column of q

    def __post_init__(self) -> None:
        if self.bits not in bits.WIDTHS:
            raise ValueError(f"bits is {self.bits}; expected one of {bits.WIDTHS}")
        if self.q.dim() != 2 or self.group < 1:
            raise ValueError(
                f"q is {list(self.q.shape)} in groups of {self.group}; expected [N, K]"
            )
        rows, columns = self.q.shape
        groups = -(-columns // self.group)
        expect("q", self.q, [(rows, columns)], [torch.uint8])
        expect("scale", self.scale, [(rows, groups), (1, groups)], FLOATS)
        if self.zero is not None:
            expect("zero", self.zero, [self.scale.shape], [torch.int16])
        if self.perm is not None:
            expect("perm", self.perm, [(columns,)], [torch.int64])

    @property
    def shape(self) -> tuple[int, int]:
        """N, K."""
        return self.q.shape[0], self.q.shape[1]

    def dense(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[N, K] in the order of x's columns, rounded once, to `dtype`."""
        values = _scaled(self.q, self.scale, self.zero, self.bits, self.group).to(dtype)
        if self.perm is None:
            return values
        return torch.empty_like(values).index_copy_(1, self.perm, values)


def reference(x: torch.Tensor, weight: IntWeight) -> torch.Tensor:
    """[T, K] times the weight: [T, N], in fp32, rounded to x's number format.

    Raises:
        ValueError: x is not [T, K].
    """
    expect_input(x, weight.shape[1])
    return linear(x.float(), weight.dense()).to(x.dtype)


def stack(weights: Sequence[IntWeight]) -> IntWeight | None:
    """One weight with the rows of all; None: they are of different kinds."""
    first = weights[0]
    alike = all(
        (each.bits, each.group, each.scale.dtype) == (first.bits, first.group, first.scale.dtype)
        and each.q.shape[1] == first.q.shape[1]
        and (each.zero is None) == (first.zero is None)
        and same(each.perm, first.perm)
        for each in weights
    )
    if not alike:
        return None
    return replace(
        first,
        q=torch.cat([each.q for each in weights]),
        scale=torch.cat([_by_rows(each.scale, each) for each in weights]),
        zero=_stacked_zeros(weights),
    )


def prepare(weight: IntWeight, dtype: torch.dtype) -> Product:
    """The product for many calls: [T, K] of `dtype` to [T, N]. It keeps the weight packed, once.

    On a GPU a kernel of ours multiplies x of 16 bits with it (`int_matmul`): no host waits, and
    graphs may hold it, but no two products of one GPU may run at the same time.

    On a CPU torch multiplies a few rows with packed integers of 4 or 8 bits, in bf16 some dozens;
    everything else is made dense in parts, which costs the more per row the fewer rows x has. torch
    takes scales of x's number format: fp16 ones are rounded to bf16 for x in bf16, by at most 2^-9
    of themselves, as each dense weight is. Few rows and many see the same ones.
    """
    multiply = _stored(weight, dtype)
    perm, num_columns = weight.perm, weight.shape[1]

    def product(x: torch.Tensor) -> torch.Tensor:
        expect_input(x, num_columns)
        return multiply(x if perm is None else x[:, perm])

    if isinstance(multiply, KernelProduct):
        return KernelProduct(product, multiply.kernels, multiply.paired if perm is None else None)
    return product


def has_kernel(weight: IntWeight, dtype: torch.dtype) -> bool:
    """Whether a GPU kernel of ours multiplies it with x of such a format."""
    if not has_kernels(weight.q, dtype):
        return False
    from aweigh_kernels import int_packing  # Triton is not everywhere

    return int_packing.takes(weight.bits, weight.group, weight.shape[1], weight.zero)


def cpu_ways(weight: IntWeight, dtype: torch.dtype) -> tuple[Product, Product] | None:
    """Torch's product with packed integers, and one that makes them dense in each call.

    Both share what is kept of the weight; `prepare` takes the quicker one. None: torch has no
    product for such a weight, or not on this processor.
    """
    if not _torch_takes(weight, dtype):
        return None
    if weight.bits == 8:
        return _bytes(weight, dtype)
    order = _row_order()
    if order is None or weight.shape[0] % len(order):
        return None
    return _halves(weight, dtype, order)


def _stored(weight: IntWeight, dtype: torch.dtype) -> Product:
    """As our kernel or torch multiplies it, where that is possible."""
    if has_kernel(weight, dtype):
        return _on_gpu(weight, dtype)
    ways = cpu_ways(weight, dtype)
    if ways is None:
        return _packed(weight, dtype)
    (few, many), few_rows = ways, _few_rows(weight.bits, dtype)
    return lambda x: few(x) if len(x) <= few_rows else many(x)


def _few_rows(bits: int, dtype: torch.dtype) -> int:
    return _FEW_ROWS_BF16[bits] if dtype == torch.bfloat16 else _FEW_ROWS


def _on_gpu(weight: IntWeight, dtype: torch.dtype) -> Product:
    # They need Triton, which is not everywhere.
    from aweigh_kernels import int_matmul, int_packing, int_product, tile_matmul

    bits, group, device = weight.bits, weight.group, weight.q.device
    fours = not by_warpgroups(device)
    packed = int_packing.pack(weight.q, weight.scale, weight.zero, bits, group, fours=fours)
    workspace = tile_matmul.workspace_of(device)

    def product(x: torch.Tensor) -> torch.Tensor:
        return int_matmul.int_matmul(x.contiguous(), packed, workspace)

    paired = int_product.PairedInts(packed, workspace.scratch)
    return KernelProduct(product, int_matmul.kernels_of(packed, dtype), paired)


def _packed(weight: IntWeight, dtype: torch.dtype) -> Product:
    """A dense stream of bits."""
    packed, (_, columns) = bits.pack(weight.q, weight.bits), weight.shape
    scale, zero, width, group = weight.scale, weight.zero, weight.bits, weight.group

    def dense(rows: slice) -> torch.Tensor:
        q = bits.unpack(packed[rows], width, columns)
        each = rows if len(scale) > 1 else slice(None)
        zeros = None if zero is None else zero[each]
        return _scaled(q, scale[each], zeros, width, group).to(dtype)

    return in_parts(dense, weight.shape)


def _bytes(weight: IntWeight, dtype: torch.dtype) -> tuple[Product, Product]:
    """Signed bytes, each row with one scale."""
    q = weight.q.view(torch.int8) ^ -128  # q - 128
    scale = weight.scale[:, 0].expand(len(q)).to(dtype).contiguous()

    def dense(rows: slice) -> torch.Tensor:
        return q[rows].float().mul_(scale[rows, None]).to(dtype)

    def few(x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.aten._weight_int8pack_mm(x.contiguous(), q, scale)
        return found

    return few, in_parts(dense, weight.shape)


def _halves(weight: IntWeight, dtype: torch.dtype, order: torch.Tensor) -> tuple[Product, Product]:
    """Halves of bytes as torch packs them: [N / rows side by side, K, those rows / 2]."""
    (rows, columns), side, group = weight.shape, len(order), weight.group
    q = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.q.to(torch.int32), 1)
    blocks = q.view(rows // side, columns, side // 2)
    places = None if torch.equal(order, torch.arange(side)) else order.argsort()
    scale = torch.zeros(columns // group, rows, 2, dtype=dtype)  # and what is added: nothing
    scale[..., 0] = weight.scale.expand(rows, -1).t()

    def dense(run: slice) -> torch.Tensor:
        pairs = blocks[run.start // side : run.stop // side].transpose(0, 1)
        found = torch.cat((pairs & 15, pairs >> 4), -1)  # [K, blocks, side]
        found = found if places is None else found[..., places]
        groups = found.view(columns // group, group, -1).float().sub_(8)
        found = groups.mul_(scale[:, None, run, 0]).to(dtype).flatten(0, 1).t()
        # torch multiplies with a transposed matrix in fp16 one number at a time.
        return found.contiguous() if dtype == torch.float16 else found

    def few(x: torch.Tensor) -> torch.Tensor:
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
        found: torch.Tensor = multiply(x.contiguous(), q, group, scale)
        return found

    return few, in_parts(dense, weight.shape, side)


@cache
def _row_order() -> torch.Tensor | None:
    """The rows that torch's halves of bytes hold side by side: all low halves, then the high ones.

    That depends on the processor; it is found out by packing the rows' numbers. None: in no way
    that is known here.
    """
    pack, numbers, columns = torch.ops.aten._convert_weight_to_int4pack_for_cpu, 256, 32
    rows = torch.arange(numbers, dtype=torch.int32)[:, None].expand(-1, columns)
    low, high = (pack(part.contiguous(), 1).flatten() for part in (rows & 15, rows >> 4))
    for side in _PACKED_ROWS:
        digits = [each.view(numbers // side, columns, side // 2) for each in (low, high)]
        ones, tens = (torch.cat((each & 15, each >> 4), -1).long() for each in digits)
        found = ones + 16 * tens - torch.arange(0, numbers, side)[:, None, None]
        order = found[0, 0]
        if (found == order).all() and torch.equal(order.sort().values, torch.arange(side)):
            return order
    return None


def _torch_takes(weight: IntWeight, dtype: torch.dtype) -> bool:
    """Symmetric ones only: torch adds zero points in x's number format, rounded."""
    if weight.q.device.type != "cpu" or weight.zero is not None:
        return False
    columns = weight.shape[1]
    if weight.scale.dtype not in (dtype, torch.float16) and dtype != torch.float32:
        return False
    if weight.bits == 8:
        return weight.group == columns
    return weight.bits == 4 and columns % weight.group == 0 and weight.group in _PACKED_GROUPS


def _scaled(
    q: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, bits: int, group: int
) -> torch.Tensor:
    """[N, K], fp32: exact, because scales have at most 24 bits and fp32 rounds once."""
    columns = q.shape[1]
    groups = torch.unflatten(
        pad(q.float(), (0, -columns % group)), 1, (-1, group)
    )  # [N, K/group, group]
    groups = groups.sub_(1 << (bits - 1) if zero is None else zero[..., None])
    return groups.mul_(scale[..., None]).flatten(1)[:, :columns]


def _stacked_zeros(weights: Sequence[IntWeight]) -> torch.Tensor | None:
    zeros = [_by_rows(each.zero, each) for each in weights if each.zero is not None]
    return torch.cat(zeros) if zeros else None


def _by_rows(values: torch.Tensor, weight: IntWeight) -> torch.Tensor:
    return values.expand(weight.shape[0], -1)
