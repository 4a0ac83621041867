"""Kubernetes quantities of memory as bytes: 40Gi, 500M, 1e9. Standard library only."""

import re
from fractions import Fraction

_SHAPE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[mkMGTPE]|[eE][+-]?[0-9]{1,9})?")
_MOST_TENS = 99
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"m": -1, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


class NotAQuantity(ValueError):
    """A text does not say how much memory is meant."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text!r} is not an amount of memory; expected bytes, or one such as 40Gi"
        )


def to_bytes(quantity: int | str) -> int:
    """The bytes that a quantity stands for, rounded up.

    Raises:
        NotAQuantity: it does not follow Kubernetes' notation.
    """
    match = _SHAPE.fullmatch(str(quantity))
    if match is None:
        raise NotAQuantity(str(quantity))
    number, suffix = Fraction(match[1]), match[2] or ""
    return -int(-(number * _factor(suffix)) // 1)


def _factor(suffix: str) -> Fraction:
    if suffix in _BINARY:
        return Fraction(1024) ** _BINARY[suffix]
    if suffix in _DECIMAL:
        return Fraction(1000) ** _DECIMAL[suffix]
    exponent = int(suffix[1:] or 0)  # more is beyond all memory, or less than a byte, all the same
    return Fraction(10) ** max(-_MOST_TENS, min(_MOST_TENS, exponent))
