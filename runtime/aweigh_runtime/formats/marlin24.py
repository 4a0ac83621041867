"""Marlin-24 checkpoints: 4 or 8 bits of which two in four are kept, laid out for tensor cores.

Sparse-Marlin is by Castro and others 2024. The weight's integers lie as the lanes of a warp load
fragments of mma.m16n8k16; the places lie as CUTLASS orders 2:4 metadata of 16 bits. Both orders
only exchange binary digits of the row and the column, so that each is one view with its axes
permuted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aweigh_kernels import bits as stream
from aweigh_kernels.sparse_int_weight import WIDTHS, SparseIntWeight
from aweigh_kernels.weight import Weight
from aweigh_runtime.fields import Fields
from aweigh_runtime.formats.groups import MAX_GROUP, described
from aweigh_runtime.formats.layout import LayoutError, Part, Quantization
from aweigh_runtime.formats.modules import in_layer
from aweigh_runtime.formats.scales import expect_scales

GROUPS = (-1, 128)  # that the kernels of this format take
_TILE = 32  # columns of the matrix, of which 16 are kept
_STRIPE = 64  # rows

# A kept integer's row is (stripe, t: 4, c: 2, b: 2, j: 4) from the highest digit to the lowest, its
# column (tile, h: 2, l: 4, r: 2). Lane 8t + 4c + l holds all j, b, h and r.
_INTEGER_AXES = (-1, 4, 2, 2, 4, -1, 2, 4, 2)  # stripe, t, c, b, j, tile, h, l, r
_INTEGER_ORDER = {
    4: (5, 0, 1, 2, 7, 4, 8, 3, 6),  # tile, stripe, t, c, l, j, r, b, h
    8: (5, 0, 1, 2, 7, 4, 3, 8, 6),  # tile, stripe, t, c, l, j, b, r, h
}
# Places of 16 columns are one number; its row is (stripe, a: 8, u: 2, v: 2, w: 2).
_PLACE_AXES = (-1, 8, 2, 2, 2, -1, 2)  # stripe, a, u, v, w, tile, x
_PLACE_ORDER = (5, 0, 3, 1, 4, 6, 2)  # tile, stripe, v, a, w, x, u


@dataclass(frozen=True, slots=True)
class Marlin24Names:
    """What the tensors are called."""

    weight: str
    scale: str
    meta: str


GPTQ_NAMES = Marlin24Names("B_24", "s", "B_meta")
COMPRESSED_TENSORS_NAMES = Marlin24Names("weight_packed", "scale_packed", "meta")


@dataclass(frozen=True, slots=True, kw_only=True)
class Marlin24Layout:
    """How Marlin-24 stores a matrix.

    Scales of several groups are permuted, those of one are not. compressed-tensors 0.9 leaves those
    of two groups (256 inputs) as they are, which no kernel expects.
    """

    bits: int  # 4 or 8
    group: int | None = None  # inputs that share a scale; None: all
    names: Marlin24Names = GPTQ_NAMES

    @property
    def name(self) -> str:
        """For people."""
        return f"marlin-24 {self.bits} bit, {described(self.group)}"

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """The integers, the scales, and the places of kept ones.

        Raises:
            LayoutError: N does not fill stripes of 64, or K tiles of 32 or groups.
        """
        group = self.group or columns
        if rows % _STRIPE or columns % _TILE or columns % group:
            raise LayoutError(
                f"a matrix of {rows} outputs and {columns} inputs does not fit {self.name}; "
                f"expected multiples of {_STRIPE} outputs, of {_TILE} inputs and of {group} inputs"
            )
        tiles = columns // _TILE
        return {
            self.names.weight: Part(((tiles, rows * self.bits // 2),), ("I32",)),
            self.names.scale: Part(((columns // group, rows),), ("F16", "BF16")),
            self.names.meta: Part(((tiles, 2 * rows),), ("I16",)),
        }

    def read(self, parts: Mapping[str, torch.Tensor], rows: int, columns: int) -> SparseIntWeight:
        """The stored weight.

        Raises:
            LayoutError: scales or places that no such file has.
        """
        meta = _restored(parts[self.names.meta], _PLACE_AXES, _PLACE_ORDER, rows)
        index = stream.unpack(meta.view(torch.uint8), 2, columns // 2)
        if not bool((index[:, ::2] < index[:, 1::2]).all()):
            raise LayoutError(
                f"{self.names.meta} keeps one of four columns twice or in falling order; expected "
                "two rising places: copy the model again"
            )
        words = parts[self.names.weight].contiguous().view(torch.uint8)
        integers = stream.unpack(words, self.bits, rows * _TILE // 2)
        scale = parts[self.names.scale]
        weight = SparseIntWeight(
            q=_restored(integers, _INTEGER_AXES, _INTEGER_ORDER[self.bits], rows),
            index=index,
            scale=_swapped(scale, (2, 4)).t().contiguous(),
            bits=self.bits,
            group=self.group or columns,
        )
        expect_scales(self.names.scale, weight)
        return weight

    def write(self, weight: Weight) -> dict[str, torch.Tensor]:
        """The tensors that `read` makes the same weight of.

        Raises:
            LayoutError: bits or group are not those of this layout, or N and K do not fit.
        """
        if not isinstance(weight, SparseIntWeight):
            raise LayoutError(
                f"{self.name} holds no {type(weight).__name__}; expected SparseIntWeight"
            )
        rows, columns = weight.shape
        if (weight.bits, weight.group) != (self.bits, self.group or columns):
            raise LayoutError(
                f"the weight has {weight.bits} bits in groups of {weight.group}; expected those "
                f"of {self.name}"
            )
        tiles = self.parts(rows, columns)[self.names.meta].shapes[0][0]
        integers = _ordered(weight.q, _INTEGER_AXES, _INTEGER_ORDER[self.bits])
        meta = stream.pack(weight.index, 2).view(torch.int16)
        return {
            self.names.weight: stream.pack(integers.view(tiles, -1), self.bits).view(torch.int32),
            self.names.scale: _swapped(weight.scale.t(), (4, 2)).contiguous(),
            self.names.meta: _ordered(meta, _PLACE_AXES, _PLACE_ORDER).view(tiles, -1),
        }


def quantization(fields: Fields) -> Quantization:
    """Of a GPTQ config whose checkpoint_format is marlin_24.

    Raises:
        ModelUnreadable: a field is missing or has a value that it cannot have.
        UnsupportedModel: bits, groups, act order or zero points that the format does not know.
    """
    bits = fields.integer("bits", 1, 32)
    fields.choice("bits", str(bits), [str(width) for width in WIDTHS])
    group = fields.integer("group_size", -1, MAX_GROUP)
    fields.choice("group_size", str(group), [str(size) for size in GROUPS])
    fields.choice("sym", str(fields.boolean("sym", True)).lower(), ["true"])
    fields.choice("desc_act", str(fields.boolean("desc_act", False)).lower(), ["false"])
    layout = Marlin24Layout(bits=bits, group=None if group == -1 else group)

    def layout_of(module: str) -> Marlin24Layout | None:
        return layout if in_layer(module) else None

    return Quantization(scheme="marlin24", description=layout.name, layout_of=layout_of)


def _ordered(matrix: torch.Tensor, axes: tuple[int, ...], order: tuple[int, ...]) -> torch.Tensor:
    """A matrix of N rows in the order in which it is stored, flat."""
    middle = axes.index(-1, 1)
    rows_apart = torch.unflatten(matrix, 0, axes[:middle])
    return torch.unflatten(rows_apart, middle, axes[middle:]).permute(order).flatten()


def _restored(
    stored: torch.Tensor, axes: tuple[int, ...], order: tuple[int, ...], rows: int
) -> torch.Tensor:
    """What `_ordered` made flat: [N, ...]."""
    sizes = list(axes)
    sizes[0] = rows // _STRIPE
    sizes[axes.index(-1, 1)] = len(stored)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return stored.reshape([sizes[axis] for axis in order]).permute(inverse).reshape(rows, -1)


def _swapped(scales: torch.Tensor, digits: tuple[int, int]) -> torch.Tensor:
    """Scales [groups, N] with two digits of n exchanged, if there are several groups."""
    if len(scales) == 1:
        return scales
    a, b = digits
    return torch.unflatten(scales, 1, (-1, b, a)).transpose(2, 3).flatten(1)
