"""AWQ checkpoints of the gemm version: 4 bits packed along the outputs, scaled by group.

    w[n, k] = scales[g, n] · (q[n, k] - zero[g, n]),  g = k // group

AWQ is by Lin et al. 2023, the tensors are those of AutoAWQ. The four even outputs of eight come
before the odd ones, so that a GPU can widen two at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aweigh_kernels import bits
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.weight import Weight
from aweigh_runtime.fields import Fields
from aweigh_runtime.formats.groups import described, read_group
from aweigh_runtime.formats.layout import FLOATS, LayoutError, Part, Quantization
from aweigh_runtime.formats.modules import in_layer
from aweigh_runtime.formats.scales import expect_scales

_BITS = 4
_HALF = 1 << (_BITS - 1)  # the zero point of a symmetric file
_IN_WORD = 32 // _BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class AwqLayout:
    """How AWQ stores a matrix."""

    group: int | None = None  # inputs that share a scale; None: all
    symmetric: bool = False  # every zero point is 8

    @property
    def name(self) -> str:
        """For people."""
        return f"awq 4 bit, {described(self.group)}{'' if self.symmetric else ', zero points'}"

    def parts(self, rows: int, columns: int) -> dict[str, Part]:
        """qweight, qzeros, scales.

        Raises:
            LayoutError: N does not fill words of 32 bits, or K does not fill groups.
        """
        group = self.group or columns
        if rows % _IN_WORD or columns % group:
            raise LayoutError(
                f"a matrix of {rows} outputs and {columns} inputs does not fit {self.name}; "
                f"expected a multiple of {_IN_WORD} outputs and of {group} inputs"
            )
        groups = columns // group
        return {
            "qweight": Part(((columns, rows // _IN_WORD),), ("I32",)),
            "qzeros": Part(((groups, rows // _IN_WORD),), ("I32",), optional=self.symmetric),
            "scales": Part(((groups, rows),), FLOATS),
        }

    def read(self, parts: Mapping[str, torch.Tensor], rows: int, columns: int) -> IntWeight:
        """The stored weight.

        Raises:
            LayoutError: scales that no such file has, or zero points in a symmetric one.
        """
        del rows
        weight = IntWeight(
            q=_unpacked(parts["qweight"]).t().contiguous(),
            scale=parts["scales"].t().contiguous(),
            zero=self._zero(_unpacked(parts["qzeros"])) if "qzeros" in parts else None,
            bits=_BITS,
            group=self.group or columns,
        )
        expect_scales("scales", weight)
        return weight

    def write(self, weight: Weight) -> dict[str, torch.Tensor]:
        """The tensors that `read` makes the same weight of.

        Raises:
            LayoutError: bits, group, order or zero points are not those of this layout.
        """
        if not isinstance(weight, IntWeight):
            raise LayoutError(f"{self.name} holds no {type(weight).__name__}; expected IntWeight")
        self.parts(*weight.shape)  # refuses a shape that does not fit
        self._expect(weight)
        return {
            "qweight": _packed(weight.q.t()),
            "qzeros": _packed(_stored_zero(weight).expand(weight.shape[0], -1).t()),
            "scales": weight.scale.expand(weight.shape[0], -1).t().contiguous(),
        }

    def _zero(self, stored: torch.Tensor) -> torch.Tensor | None:
        """[N, K / group], int16; None: symmetric."""
        if not self.symmetric:
            return stored.t().to(torch.int16).contiguous()
        low, high = int(stored.min()), int(stored.max())
        if not low == high == _HALF:
            raise LayoutError(
                f"qzeros holds {low} to {high}; expected {_HALF} everywhere, because the "
                "checkpoint says that it has no zero points: set zero_point to true if it has"
            )
        return None

    def _expect(self, weight: IntWeight) -> None:
        columns = weight.shape[1]
        if (weight.bits, min(weight.group, columns)) != (_BITS, self.group or columns):
            raise LayoutError(
                f"the weight has {weight.bits} bits in groups of {weight.group}; expected those "
                f"of {self.name}"
            )
        if weight.perm is not None:
            raise LayoutError(f"the weight is in act order; {self.name} has none")
        if self.symmetric and weight.zero is not None and bool((weight.zero != _HALF).any()):
            raise LayoutError(f"the weight has zero points; {self.name} has none")


def quantization(fields: Fields) -> Quantization:
    """Of `quantization_config` in config.json, or of quant_config.json as AutoAWQ once wrote it.

    Raises:
        ModelUnreadable: a field is missing or has a value that it cannot have.
        UnsupportedModel: another version, such as gemv, or not 4 bits.
    """
    version = fields.spelling("version", "checkpoint_format", "format")
    fields.choice(version, fields.text(version, "gemm").lower(), ["gemm"])
    width = fields.spelling("bits", "w_bit")
    fields.choice(width, str(fields.integer(width, 1, 32)), [str(_BITS)])
    layout = AwqLayout(
        group=read_group(fields, "group_size", "q_group_size"),
        symmetric=not fields.boolean("zero_point", True),
    )
    kept = tuple(fields.flat_texts("modules_to_not_convert"))

    def layout_of(module: str) -> AwqLayout | None:
        # AutoAWQ looks for these words anywhere in a name, so that "up" means every up_proj.
        dense = not in_layer(module) or any(word in module for word in kept)
        return None if dense else layout

    return Quantization(scheme="awq", description=layout.name, layout_of=layout_of)


def _stored_zero(weight: IntWeight) -> torch.Tensor:
    """[N or 1, K / group], uint8."""
    if weight.zero is None:
        return torch.full_like(weight.scale, _HALF, dtype=torch.uint8)
    low, high = int(weight.zero.min()), int(weight.zero.max())
    if low < 0 or high >= 1 << _BITS:
        raise LayoutError(f"zero points are {low} to {high}; AWQ stores 0 to {(1 << _BITS) - 1}")
    return weight.zero.to(torch.uint8)


def _packed(values: torch.Tensor) -> torch.Tensor:
    """[R, N], uint8, to [R, N / 8], int32."""
    evens_first = torch.unflatten(values, 1, (-1, 4, 2)).transpose(2, 3).flatten(1)
    return bits.pack(evens_first, _BITS).view(torch.int32)


def _unpacked(words: torch.Tensor) -> torch.Tensor:
    """[R, N / 8], int32, to [R, N], uint8."""
    count = words.shape[1] * _IN_WORD
    evens_first = bits.unpack(words.contiguous().view(torch.uint8), _BITS, count)
    return torch.unflatten(evens_first, 1, (-1, 2, 4)).transpose(2, 3).flatten(1)
