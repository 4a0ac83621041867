"""GPTQ's tensors: integers packed along the inputs, a scale and a zero point for each group.

    w[n, k] = scales[g, n] · (q[n, k] - zero[g, n]),  g = g_idx[k]

GPTQ is by Frantar et al. 2022, its tensors are those of AutoGPTQ and GPTQModel. Version 1 stores
zero points less one, version 2 as they are; files of either kind that name the other are common.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aweigh_kernels import bits as stream
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.weight import Weight
from aweigh_runtime.formats.groups import described
from aweigh_runtime.formats.layout import FLOATS, LayoutError, Part
from aweigh_runtime.formats.scales import expect_scales

VERSIONS = {"gptq": 1, "gptq_v2": 2}  # by what checkpoint_format calls them
_TELLING_BITS = 4  # up to which trained weights are zero on average, to 0.06 of a step


@dataclass(frozen=True, slots=True, kw_only=True)
class GptqLayout:
    """How GPTQ stores a matrix."""

    bits: int  # one of aweigh_kernels.bits.WIDTHS
    group: int | None = None  # inputs that share a scale; None: all
    version: int = 1  # 1: zero points are stored less one; 2: as they are
    symmetric: bool = True  # every zero point is 2 to the power of `bits - 1`
    act_order: bool = False  # inputs were put into groups by their weight in the error

    @property
    def name(self) -> str:
        """For people."""
        zeros = "" if self.symmetric else ", zero points"
        order = ", act order" if self.act_order else ""
        version = "" if self.version == 1 else f", version {self.version}"
        return f"gptq {self.bits} bit, {described(self.group)}{zeros}{order}{version}"

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """qweight, qzeros, scales, and g_idx: the group of each input.

        Raises:
            LayoutError: N or K does not fill words of 32 bits.
        """
        unit = 32 // math.gcd(self.bits, 32)
        if rows % unit or columns % unit:
            raise LayoutError(
                f"a matrix of {rows} outputs and {columns} inputs does not fit {self.name}; "
                f"expected multiples of {unit}"
            )
        groups = -(-columns // self._group(columns))
        return {
            "qweight": Part(((columns * self.bits // 32, rows),), ("I32",)),
            "qzeros": Part(((groups, rows * self.bits // 32),), ("I32",)),
            "scales": Part(((groups, rows),), FLOATS),
            "g_idx": Part(((columns,),), ("I32",), optional=not self.act_order),
        }

    def read(self, parts: Mapping[str, torch.Tensor], rows: int, columns: int) -> IntWeight:
        """The stored weight, its inputs put together by group.

        Raises:
            LayoutError: scales or groups that no such file has, or zero points of the other
                version.
        """
        q = stream.unpack(_bytes(parts["qweight"].t()), self.bits, columns)
        perm = self._perm(parts["g_idx"]) if "g_idx" in parts else None
        weight = IntWeight(
            q=q if perm is None else q[:, perm],
            scale=parts["scales"].t().contiguous(),
            zero=self._zero(parts["qzeros"], rows),
            bits=self.bits,
            group=self._group(columns),
            perm=perm,
        )
        expect_scales("scales", weight)
        self._expect_version(weight)
        return weight

    def write(self, weight: Weight) -> dict[str, torch.Tensor]:
        """The tensors that `read` makes the same weight of.

        Raises:
            LayoutError: bits, group, order or zero points are not those of this layout.
        """
        if not isinstance(weight, IntWeight):
            raise LayoutError(f"{self.name} holds no {type(weight).__name__}; expected IntWeight")
        rows, columns = weight.shape
        self.parts(rows, columns)  # refuses a shape that does not fit
        self._expect(weight)
        order = torch.arange(columns) if weight.perm is None else weight.perm.cpu()
        g_idx = torch.empty(columns, dtype=torch.int32)
        g_idx[order] = (torch.arange(columns) // weight.group).int()
        q = torch.empty_like(weight.q).index_copy_(1, order.to(weight.q.device), weight.q)
        return {
            "qweight": stream.pack(q, self.bits).view(torch.int32).t().contiguous(),
            "qzeros": stream.pack(self._stored_zero(weight), self.bits).view(torch.int32),
            "scales": weight.scale.expand(rows, -1).t().contiguous(),
            "g_idx": g_idx,
        }

    def _group(self, columns: int) -> int:
        return columns if self.group is None else min(self.group, columns)

    def _perm(self, g_idx: torch.Tensor) -> torch.Tensor | None:
        """[K]: the inputs in the order of their groups; None: they are in order."""
        columns = len(g_idx)
        in_order = (torch.arange(columns, device=g_idx.device) // self._group(columns)).int()
        unused = not self.act_order and not bool(g_idx.any())  # some packers leave zeros
        if unused or torch.equal(g_idx, in_order):
            return None
        groups = int(in_order[-1]) + 1
        low, high = int(g_idx.min()), int(g_idx.max())
        if low < 0 or high >= groups:
            raise LayoutError(
                f"g_idx holds {low} to {high}; expected groups 0 to {groups - 1}: copy the model "
                "again"
            )
        sizes, expected = torch.bincount(g_idx, minlength=groups), torch.bincount(in_order)
        if not torch.equal(sizes, expected):
            group = int((sizes != expected).nonzero()[0])
            raise LayoutError(
                f"g_idx puts {int(sizes[group])} inputs into group {group}; expected "
                f"{int(expected[group])}: groups of unequal size are not supported"
            )
        return torch.argsort(g_idx, stable=True)

    def _zero(self, qzeros: torch.Tensor, rows: int) -> torch.Tensor | None:
        """[N, ceil(K / group)], int16: from 0 to 2 to the power of `bits`; None: symmetric.

        The largest stored number of version 1 means one more than fits: no kernel wraps it.
        """
        stored = stream.unpack(_bytes(qzeros), self.bits, rows).t()
        if not self.symmetric:
            return (stored.to(torch.int16) + self._offset).contiguous()
        half = 1 << (self.bits - 1)
        low, high = int(stored.min()), int(stored.max())
        if low == high == half - self._offset:
            return None
        if low == high == half - (1 - self._offset):
            raise LayoutError(
                f"qzeros holds {low} everywhere, as symmetric files of {self._other} do, but the "
                f"checkpoint says version {self.version}; set checkpoint_format to {self._other}"
            )
        raise LayoutError(
            f"qzeros holds {low} to {high}; expected {half - self._offset} everywhere, because "
            "the checkpoint says that it is symmetric: set sym to false if it is not"
        )

    def _expect_version(self, weight: IntWeight) -> None:
        """Zero points of the other version move every weight by one step, to the same side.

        Weights are nearly zero on average. Where groups are so few or so different that their mean
        says little, and at 8 bits, where a step is too small to be seen, nothing is refused.
        """
        if weight.zero is None or self.bits > _TELLING_BITS:
            return
        whole = weight.shape[1] // weight.group  # the last group may be shorter
        q = torch.unflatten(weight.q[:, : whole * weight.group], 1, (whole, weight.group))
        groups = q.sum(-1, dtype=torch.int32) / weight.group - weight.zero[:, :whole]
        mean, doubt = float(groups.mean()), float(groups.std()) / math.sqrt(groups.numel())
        other = 1 if self.version == 2 else -1  # the mean that a file of the other version has
        if abs(mean - other) < 0.25 and abs(mean) > 6 * doubt:
            raise LayoutError(
                f"the weights are {mean:.2f} steps on average, as zero points of {self._other} "
                f"make them, but the checkpoint says version {self.version}; set "
                f"checkpoint_format to {self._other}"
            )

    def _stored_zero(self, weight: IntWeight) -> torch.Tensor:
        """[ceil(K / group), N], uint8."""
        if weight.zero is None:
            zero = torch.full_like(weight.scale, 1 << (self.bits - 1), dtype=torch.int16)
        else:
            zero = weight.zero
        stored = zero.expand(weight.shape[0], -1).t() - self._offset
        if int(stored.min()) < 0 or int(stored.max()) >= 1 << self.bits:
            raise LayoutError(
                f"zero points are {int(zero.min())} to {int(zero.max())}; version {self.version} "
                f"stores {self._offset} to {(1 << self.bits) - 1 + self._offset}"
            )
        return stored.to(torch.uint8).contiguous()

    def _expect(self, weight: IntWeight) -> None:
        columns = weight.shape[1]
        if (weight.bits, min(weight.group, columns)) != (self.bits, self._group(columns)):
            raise LayoutError(
                f"the weight has {weight.bits} bits in groups of {weight.group}; expected those "
                f"of {self.name}"
            )
        if weight.perm is not None and not self.act_order:
            raise LayoutError(f"the weight is in act order; {self.name} is not")
        half = 1 << (self.bits - 1)
        if self.symmetric and weight.zero is not None and bool((weight.zero != half).any()):
            raise LayoutError(f"the weight has zero points; {self.name} is symmetric")

    @property
    def _other(self) -> str:
        """What checkpoint_format calls the other version."""
        return next(name for name, version in VERSIONS.items() if version != self.version)

    @property
    def _offset(self) -> int:
        """What is taken off a zero point before it is stored."""
        return 2 - self.version


def _bytes(words: torch.Tensor) -> torch.Tensor:
    """[..., n] of 32 bits as [..., 4n] of 8, copied: a row of one word may have any stride."""
    return words.clone(memory_format=torch.contiguous_format).view(torch.uint8)
