"""What a model is quantized to: everything that decides about the result, as one value."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from aweigh_quantize.failures import Refusal

Scheme = Literal["rtn", "gptq", "awq", "int8", "fp8", "nvfp4"]
Granularity = Literal["channel", "tensor", "block"]
Activations = Literal["token", "static", "none"]
KvCache = Literal["fp8"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
WEIGHTS_ONLY: tuple[Scheme, ...] = ("rtn", "gptq", "awq")
WHOLE_ROW = -1  # as a size of groups
LARGEST_GROUP = 1 << 20
BITS = (2, 3, 4, 8)
_SMALLEST_GROUP = 32  # that a budget halves down to
TAKEN_BY: dict[str, tuple[Scheme, ...]] = {
    "bits": WEIGHTS_ONLY,
    "group_size": WEIGHTS_ONLY,
    "symmetric": WEIGHTS_ONLY,
    "act_order": ("gptq",),
    "static_groups": ("gptq",),
    "damping": ("gptq",),
    "granularity": ("fp8",),
    "activations": ("int8", "fp8", "nvfp4"),
    "smoothing": ("int8",),
}
"""Schemes in which a field of a recipe means something; `Recipe` itself refuses the others."""


class RecipeError(Refusal):
    """Options contradict each other, or a value is out of range."""


@dataclass(frozen=True, slots=True)
class Precision:
    """How fine the integers of one matrix are."""

    bits: int  # one of BITS
    group_size: int  # WHOLE_ROW: one scale for each row

    def __str__(self) -> str:
        return f"{self.bits} bit {_group(self.group_size)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Each field is an option of `aweigh quantize`.

    Raises:
        RecipeError: names the option, its value and what was expected.
    """

    scheme: Scheme = "gptq"
    bits: int = 4
    group_size: int = 128
    symmetric: bool | None = None  # None: all but awq, whose format is known for its zero points
    act_order: bool = True
    static_groups: bool = True  # with act order: groups of neighbours, quantized in another order
    damping: float = 0.01  # of the Hessian's diagonal, as a share of its mean
    sparse: bool = False  # 2:4
    granularity: Granularity = "channel"  # of scales in fp8
    activations: Activations | None = None  # None: token in int8 and fp8, none in nvfp4
    smoothing: float = 0.5  # int8: how much of the activations' range moves into the weights
    keep: tuple[str, ...] = ()  # modules that stay dense
    budget: float | None = None  # average bits of a weight, scales included
    recover: bool = False
    kv_cache: KvCache | None = None  # scales of keys and values for a cache in such numbers

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise RecipeError(f"--scheme is {self.scheme}; expected one of {', '.join(SCHEMES)}")
        _expect(self.bits in BITS, f"--bits is {self.bits}", "2, 3, 4 or 8")
        _expect(
            self.group_size == WHOLE_ROW
            or (16 <= self.group_size <= LARGEST_GROUP and self.group_size % 8 == 0),
            f"--group-size is {self.group_size}",
            f"{WHOLE_ROW} for whole rows, or a multiple of 8 from 16 to {LARGEST_GROUP}",
        )
        _expect(0 < self.damping < 1, f"--damping is {self.damping}", "a number between 0 and 1")
        _expect(0 <= self.smoothing <= 1, f"--smoothing is {self.smoothing}", "0 to 1")
        _expect(
            self.budget is None or 2 <= self.budget <= 16,
            f"--budget is {self.budget}",
            "2 to 16 average bits",
        )
        self._expect_together()

    def _expect_together(self) -> None:
        weights_only = self.scheme in WEIGHTS_ONLY
        _expect(
            self.scheme != "awq" or self.bits == 4,
            f"--scheme awq with --bits {self.bits}",
            "4 bits, the only ones that its format stores: use --scheme gptq",
        )
        _expect(
            not self.sparse or (self.scheme in ("rtn", "gptq") and self.bits in (4, 8)),
            f"--sparse 2:4 with --scheme {self.scheme} --bits {self.bits}",
            "--scheme gptq (or rtn) with 4 or 8 bits",
        )
        _expect(
            not self.sparse or self.is_symmetric,
            "--sparse 2:4 with --no-symmetric",
            "symmetric ones, as a zero must stay a zero",
        )
        _expect(
            self.budget is None or (weights_only and not self.sparse),
            f"--budget with --scheme {self.scheme}{' --sparse 2:4' if self.sparse else ''}",
            "--scheme gptq, awq or rtn without --sparse: other schemes have one size",
        )
        _expect(
            not self.recover or weights_only,
            f"--recover with --scheme {self.scheme}",
            "gptq, awq or rtn, whose rounding can be trained",
        )
        _expect(
            not (self.sparse and self.keep),
            "--sparse 2:4 with --keep",
            "one of them: the format stores every matrix in the same way",
        )
        _expect(
            self.granularity != "block" or self.rounding != "static",
            "--granularity block with --activations static",
            "dynamic activations: blocks have no static scales",
        )

    @property
    def precision(self) -> Precision:
        """Of every matrix, unless a budget gives each its own."""
        return Precision(self.bits, self.group_size)

    @property
    def choices(self) -> list[Precision]:
        """What a budget may give a matrix: the group, or halves of it that are large enough.

        All columns that fill the recipe's groups fill smaller ones.
        """
        groups = [self.group_size]
        while groups[-1] >= 2 * _SMALLEST_GROUP and groups[-1] % 16 == 0:
            groups.append(groups[-1] // 2)
        return [Precision(bits, group) for bits in BITS for group in groups]

    @property
    def is_symmetric(self) -> bool:
        """Integers have no zero points."""
        return self.scheme != "awq" if self.symmetric is None else self.symmetric

    @property
    def rounding(self) -> Activations:
        """What becomes of activations."""
        if self.scheme in WEIGHTS_ONLY:
            return "none"
        return self.activations or ("none" if self.scheme == "nvfp4" else "token")

    @property
    def has_groups(self) -> bool:
        """Some columns share a scale, and others have another."""
        return self.scheme in WEIGHTS_ONLY and self.group_size != WHOLE_ROW

    @property
    def reorders(self) -> bool:
        """Columns are stored in groups that are no neighbours."""
        ordered = self.scheme == "gptq" and self.act_order and not self.static_groups
        return ordered and self.has_groups and not self.sparse

    def keeps(self, module: str) -> bool:
        """Whether a module stays dense."""
        return any(matches(module, pattern) for pattern in self.keep)

    def name(self) -> str:
        """For people: `gptq 4 bit g128`."""
        if self.scheme not in WEIGHTS_ONLY:
            return self.scheme
        size = f"{self.budget:g} bits on average" if self.budget else f"{self.bits} bit"
        group = _group(self.group_size)
        marks = [
            mark
            for mark, holds in {
                "asym": self.scheme != "awq" and not self.is_symmetric,
                "sym": self.scheme == "awq" and self.is_symmetric,
                "2:4": self.sparse,
                "recovered": self.recover,
            }.items()
            if holds
        ]
        return " ".join([self.scheme, size, group, *marks])


def expect_taken(scheme: Scheme, given: Iterable[str]) -> None:
    """Refuse what somebody has asked for and would not get.

    Args:
        scheme: of the recipe.
        given: fields that were set, be it to their defaults.

    Raises:
        RecipeError: a field means nothing in this scheme, or beside another one.
    """
    given = list(given)
    if "budget" in given and "bits" in given:
        raise RecipeError(
            "--bits has no effect with --budget, which chooses the bits of each matrix; expected "
            "one of them"
        )
    for name in given:
        takers = TAKEN_BY.get(name, SCHEMES)
        if scheme not in takers:
            flag = f"--{name.replace('_', '-')}"
            raise RecipeError(
                f"{flag} has no effect with --scheme {scheme}; expected it with --scheme "
                f"{_one_of(takers)}: remove it, or choose another scheme"
            )


def _one_of(names: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def matches(module: str, pattern: str) -> bool:
    """Whether a pattern means a module: its name, its end, or with `*` a part of it."""
    return fnmatchcase(module, pattern) or fnmatchcase(module, f"*.{pattern}")


def unmatched(patterns: Sequence[str], modules: Sequence[str]) -> str | None:
    """The first pattern that means no module."""
    for pattern in patterns:
        if not any(matches(module, pattern) for module in modules):
            return pattern
    return None


def _group(size: int) -> str:
    return "channel" if size == WHOLE_ROW else f"g{size}"


def _expect(holds: bool, found: str, expected: str) -> None:
    if not holds:
        raise RecipeError(f"{found}; expected {expected}")
