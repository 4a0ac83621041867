"""A recipe in one word, for lists of them: `gptq-3-g64-asym`, `fp8-block`, `gptq-4-2:4`.

The scheme comes first; what follows in any order says what differs from its defaults.
"""

import re
from typing import Any

from aweigh_quantize.recipe import SCHEMES, Recipe, RecipeError, Scheme, expect_taken

_WORDS: dict[str, dict[str, Any]] = {
    "channel": {"group_size": -1},
    "asym": {"symmetric": False},
    "sym": {"symmetric": True},
    "2:4": {"sparse": True},
    "recover": {"recover": True},
    "reorder": {"static_groups": False},
    "tensor": {"granularity": "tensor"},
    "block": {"granularity": "block"},
    "static": {"activations": "static"},
    "weights": {"activations": "none"},
    "token": {"activations": "token"},
}
_BITS = re.compile(r"[2348]")
_GROUP = re.compile(r"g(\d+)")
_BUDGET = re.compile(r"\d+\.\d+")


def recipe_of(text: str) -> Recipe:
    """What a word means.

    Raises:
        RecipeError: a part of it means nothing, to this scheme either, or parts contradict each
            other.
    """
    name, *words = text.split("-")
    scheme: Scheme | None = next((known for known in SCHEMES if known == name), None)
    if scheme is None:
        raise RecipeError(
            f"{text!r} begins with {name!r}; expected one of {', '.join(SCHEMES)}, as in gptq-3-g64"
        )
    given: dict[str, Any] = {}
    for word in words:
        given |= _meaning(word, text)
    expect_taken(scheme, given)
    return Recipe(scheme=scheme, **given)


def _meaning(word: str, text: str) -> dict[str, Any]:
    if word in _WORDS:
        return _WORDS[word]
    if _BITS.fullmatch(word):
        return {"bits": int(word)}
    if found := _GROUP.fullmatch(word):
        return {"group_size": int(found[1])}
    if _BUDGET.fullmatch(word):
        return {"budget": float(word)}
    raise RecipeError(
        f"{text!r} has {word!r}; expected bits (3), a group (g64), a budget (4.6) or one of "
        f"{', '.join(_WORDS)}"
    )
