"""What activations of 8 bits are, and how they are made; `round_rows` makes them.

    numbers[t, k] = nearest to x[t, k] / scale[t]             E4M3, with a scale for each token,
                                                              or for each token and 128 columns
    numbers[t, k] = nearest to x[t, k] / scale[t] + zero[t]   integers

Quotients are those of IEEE 754, and halves go to the even number.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from aweigh_kernels.checks import expect

GROUP = 128  # columns that share a scale, where a token has several
Rounding = Literal["static", "token", "group"]
KINDS = (torch.float8_e4m3fn, torch.int8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRounding:
    """How activations become numbers of 8 bits.

    Raises:
        ValueError: a scale is given where tokens have their own, or the other way round.
    """

    kind: torch.dtype  # float8_e4m3fn or int8
    by: Rounding
    scale: torch.Tensor | None = None  # [], fp32, of a static one
    shifted: bool = False  # integers with a zero point
    zero: torch.Tensor | None = None  # [], int32, of a static one that is shifted

    def __post_init__(self) -> None:
        if self.kind not in KINDS or (self.kind == torch.int8 and self.by == "group"):
            raise ValueError(
                f"activations are rounded to {self.kind} by {self.by}; expected int8 by token or "
                "static, or float8_e4m3fn"
            )
        if self.shifted and self.kind != torch.int8:
            raise ValueError("activations of float8_e4m3fn have a zero point; expected none")
        if (self.scale is not None) != (self.by == "static"):
            raise ValueError(f"activations rounded by {self.by}: expected a scale if static only")
        if (self.zero is not None) != (self.shifted and self.by == "static"):
            raise ValueError("a zero point goes with a static scale that is shifted, and no other")
        if self.scale is not None:
            expect("the activations' scale", self.scale, [()], [torch.float32])
        if self.zero is not None:
            expect("the activations' zero point", self.zero, [()], [torch.int32])

    def on(self, device: torch.device) -> "ByteRounding":
        """The same with what it holds on a device."""
        scale, zero = (
            each if each is None else each.to(device) for each in (self.scale, self.zero)
        )
        return replace(self, scale=scale, zero=zero)


@dataclass(frozen=True, slots=True)
class Rounded:
    """Activations of 8 bits. Rows are filled up with columns that count for nothing."""

    numbers: torch.Tensor  # [T, W], W a multiple of GROUP
    scale: torch.Tensor  # fp32, [T], or [W / GROUP, T]
    zero: torch.Tensor | None = None  # [T], int32


def padded(size: int) -> int:
    """Columns of a row of so many, filled up."""
    return -(-size // GROUP) * GROUP
