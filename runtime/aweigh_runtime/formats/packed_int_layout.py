"""How compressed-tensors packs small integers into words of 32 bits, along the columns.

Files from before June 2026 leave the last two bits of each word of 3-bit numbers empty; later
ones are a dense stream of bits. Only the number of words tells them apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aweigh_kernels import bits
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.weight import Weight
from aweigh_runtime.formats.int_groups import IntGroups
from aweigh_runtime.formats.layout import FLOATS, LayoutError, Part
from aweigh_runtime.formats.scales import expect_scales

_WORD_BITS = 32
_INDICES = ("I32", "I64")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedIntLayout:
    """`weight_packed`, its scales, zero points and, with act order, the group of each column."""

    groups: IntGroups
    act_order: bool = False

    @property
    def name(self) -> str:
        """`int4 in groups of 128, packed`."""
        return f"{self.groups.name}, packed{' in act order' if self.act_order else ''}"

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """Its tensors."""
        scales = self.groups.scale_shapes(rows, columns)
        words = tuple((rows, count) for count in self._ways(columns))
        parts = {
            "weight_packed": Part(words, ("I32",)),
            "weight_scale": Part(scales, FLOATS),
            "weight_shape": Part(((2,),), ("I64", "I32")),
        }
        if self.groups.zeros:
            parts["weight_zero_point"] = self._zero_part(rows, columns)
        if self.act_order:
            parts["weight_g_idx"] = Part(((columns,),), _INDICES)
        return parts

    def read(self, parts: Mapping[str, torch.Tensor], rows: int, columns: int) -> IntWeight:
        """The weight."""
        if parts["weight_shape"].tolist() != [rows, columns]:
            raise LayoutError(
                f"weight_shape is {parts['weight_shape'].tolist()}; expected [{rows}, {columns}]"
            )
        dense = parts["weight_packed"].shape[1] == self._words(columns)[0]
        q = _unpacked(parts["weight_packed"], self.groups.bits, columns, dense)
        group = self.groups.columns_of_group(columns)
        perm = _order(parts["weight_g_idx"], group) if self.act_order else None
        weight = IntWeight(
            q=q if perm is None else q[:, perm],
            scale=self.groups.as_read(parts["weight_scale"], rows),
            zero=self._zero(parts, columns, dense),
            bits=self.groups.bits,
            group=group,
            perm=perm,
        )
        expect_scales("weight_scale", weight)
        return weight

    def write(self, weight: Weight) -> dict[str, torch.Tensor]:
        """The tensors of a weight; 3 bits as a dense stream."""
        if not isinstance(weight, IntWeight):
            raise LayoutError(f"{self.name} holds no {type(weight).__name__}; expected IntWeight")
        if weight.perm is not None and not self.act_order:
            raise LayoutError(f"the weight's columns are reordered; expected {self.name}")
        zero = self.groups.zeros_of(weight)
        scale = self.groups.as_stored(weight.scale, *weight.shape)
        stored = {
            "weight_packed": _packed(_in_order(weight), weight.bits),
            "weight_scale": scale.contiguous(),
            "weight_shape": torch.tensor(weight.shape),
        }
        if zero is not None:
            stored["weight_zero_point"] = self._stored_zero(zero, weight.shape)
        if self.act_order:
            stored["weight_g_idx"] = _group_of_each_column(weight)
        return stored

    def _words(self, count: int) -> tuple[int, int]:
        """In how many words so many numbers lie: as a dense stream, and with empty bits."""
        width = self.groups.bits
        return -(-count * width // _WORD_BITS), -(-count // (_WORD_BITS // width))

    def _ways(self, columns: int) -> tuple[int, ...]:
        """The numbers of words that a row may have.

        Raises:
            LayoutError: nobody could tell how they are filled.
        """
        dense, padded = self._words(columns)
        if not _WORD_BITS % self.groups.bits or padded <= 1:
            return (dense,)
        if dense == padded:
            raise LayoutError(
                f"{columns} columns of {self.groups.bits} bits fill as many words in both ways to "
                "pack them; expected a multiple of 32"
            )
        return dense, padded

    def _zero_part(self, rows: int, columns: int) -> Part:
        shapes = self.groups.scale_shapes(rows, columns)
        if not self.groups.by_row:
            return Part(shapes, ("I8",))
        packed = tuple((words, shapes[0][1]) for words in dict.fromkeys(self._words(rows)))
        return Part((*packed, *shapes), ("I32", "I8"))

    def _zero(
        self, parts: Mapping[str, torch.Tensor], columns: int, dense: bool
    ) -> torch.Tensor | None:
        if not self.groups.zeros:
            return None
        stored = parts["weight_zero_point"]
        rows = len(parts["weight_packed"])
        shapes = self.groups.scale_shapes(rows, columns)
        num_words = self._words(rows)[0 if dense else 1]
        if stored.dtype == torch.int8 and tuple(stored.shape) in shapes:
            # One per tensor is never packed; others were not before 2025.
            return self._unsigned(self.groups.as_read(stored, rows).to(torch.int16))
        if stored.dtype != torch.int32 or len(stored) != num_words:
            raise LayoutError(
                f"weight_zero_point is {stored.dtype} {list(stored.shape)}; expected int32 with "
                f"{num_words} rows, packed as weight_packed is"
            )
        return _unpacked(stored.t(), self.groups.bits, rows, dense).t().to(torch.int16)

    def _unsigned(self, zero: torch.Tensor) -> torch.Tensor:
        """Zero points from 0."""
        middle = self.groups.middle
        if int(zero.min()) < -middle or int(zero.max()) >= middle:
            raise LayoutError(
                f"weight_zero_point holds {int(zero.min())} to {int(zero.max())}; expected "
                f"{-middle} to {middle - 1}"
            )
        return zero + middle

    def _stored_zero(self, zero: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        stored = self.groups.as_stored(zero, *shape)
        if not self.groups.by_row:
            return (stored - self.groups.middle).to(torch.int8)
        return _packed(stored.t().to(torch.uint8), self.groups.bits).t().contiguous()


def _packed(values: torch.Tensor, width: int) -> torch.Tensor:
    """[rows, n] uint8 to [rows, words] int32."""
    stream = bits.pack(values.contiguous(), width)
    filled = torch.nn.functional.pad(stream, (0, -stream.shape[1] % 4))
    return filled.flatten().view(torch.int32).view(len(values), -1)


def _unpacked(words: torch.Tensor, width: int, count: int, dense: bool) -> torch.Tensor:
    """[rows, words] int32 to [rows, count] uint8."""
    if dense:
        stream = words.flatten().view(torch.uint8).view(len(words), -1)
        return bits.unpack(stream, width, count).contiguous()
    mask = (1 << width) - 1
    shifts = range(0, _WORD_BITS // width * width, width)
    parts = [((words >> shift) & mask).to(torch.uint8) for shift in shifts]
    return torch.stack(parts, -1).flatten(1)[:, :count].contiguous()


def _in_order(weight: IntWeight) -> torch.Tensor:
    """Its numbers in the order of x's columns."""
    if weight.perm is None:
        return weight.q
    return torch.empty_like(weight.q).index_copy_(1, weight.perm, weight.q)


def _group_of_each_column(weight: IntWeight) -> torch.Tensor:
    groups = torch.arange(weight.shape[1], dtype=torch.int32) // weight.group
    if weight.perm is None:
        return groups
    return torch.empty_like(groups).index_copy_(0, weight.perm, groups)


def _order(g_idx: torch.Tensor, group: int) -> torch.Tensor | None:
    """The columns group by group; None: they lie so. Files without act order may hold -1 alone."""
    num_groups = len(g_idx) // group
    if bool((g_idx == -1).all()):
        return None
    if int(g_idx.min()) < 0 or int(g_idx.max()) >= num_groups:
        raise LayoutError(
            f"weight_g_idx holds {int(g_idx.min())} to {int(g_idx.max())}; expected 0 to "
            f"{num_groups - 1}"
        )
    sizes = torch.bincount(g_idx, minlength=num_groups)
    if bool((sizes != group).any()):
        raise LayoutError(
            f"weight_g_idx puts {int(sizes.min())} to {int(sizes.max())} columns into a group; "
            f"expected {group}"
        )
    perm = torch.argsort(g_idx, stable=True)
    return None if torch.equal(perm, torch.arange(len(perm), device=perm.device)) else perm
