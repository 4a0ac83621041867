import re
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_runtime.formats.pattern import MAX_LENGTH, Pattern, PatternError

ALPHABET = "ab.0"
_ATOMS = st.sampled_from(["a", "b", "0", r"\.", ".", r"\d", r"\w", r"\S", "[ab]", "[^a.]", "[]a]"])
_ATOMS |= st.sampled_from(["[0-9]", r"[\]\d]", "^", "$"])
_SIGNS = st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{1,}", "{,2}", "*?", "+?", "??", "{2}?"])
_GROUPS = st.sampled_from(["(%s)", "(?:%s)", "(?=%s)", "(?!%s)"])


def _more(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    grouped = st.builds(lambda group, part: group % part, _GROUPS, parts)
    repeated = st.builds(lambda part, sign: f"(?:{part}){sign}", parts, _SIGNS)
    return st.one_of(
        grouped,
        repeated,
        st.lists(parts, min_size=2, max_size=3).map("".join),
        st.lists(parts, min_size=2, max_size=3).map("|".join).map("(?:{})".format),
    )


EXPRESSIONS = st.recursive(_ATOMS, _more, max_leaves=6)


@given(EXPRESSIONS, st.text(ALPHABET, max_size=8))
def test_an_expression_matches_what_re_matches(expression: str, text: str) -> None:
    assert Pattern(expression).matches(text) == (re.match(expression, text) is not None)


@pytest.mark.parametrize(
    ("expression", "module", "matches"),
    [
        (".*lm_head", "lm_head", True),
        (r"model\.layers\.(0|1|31)\.mlp\..*_proj$", "model.layers.31.mlp.up_proj", True),
        (r"model\.layers\.(0|1|31)\.mlp\..*_proj$", "model.layers.3.mlp.up_proj", False),
        (r".*self_attn\.(q|k|v|o)_proj", "model.layers.0.self_attn.k_proj", True),
        (r"^(?!.*(lm_head|gate)).*$", "model.layers.0.mlp.gate", False),
        (r".*\.layers\.[0-9]{1,2}\.", "model.layers.101.", False),
        ("model{x}", "model{x}", True),
        ("", "anything", True),
    ],
)
def test_expressions_as_checkpoints_have_them(expression: str, module: str, matches: bool) -> None:
    assert Pattern(expression).matches(module) is matches
    assert (re.match(expression, module) is not None) is matches


@pytest.mark.parametrize(
    "hostile",
    [
        "(a+)+$",
        "(a|a)*$",
        "(a|aa)+$",
        "((((((a*)*)*)*)*)*)*$",
        "(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)x",
        "((a{0,99}){0,99}){0,99}$",
        "(((a?){999}){999}){999}$",
        "(){9999}" * 100,
        "((){999}){999}",
        "(a(?!(a(?!(a(?!a*b))*b))*b))*$",
    ],
)
def test_a_hostile_expression_ends_soon(hostile: str) -> None:
    pattern = Pattern(hostile)
    start = time.monotonic()
    with suppress(PatternError):  # or it is found out in time
        pattern.matches("a" * 500 + "!")
    assert time.monotonic() - start < 2


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(PatternError, match="takes more than 50000 steps to match 'aaaa"):
        Pattern("(a(?!a*b))*$").matches("a" * 500)


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("(a", "does not close a group"),
        ("a)", "closes a group that it never opened"),
        ("[a", "is not closed"),
        ("[a[b]]", "holds a bracket"),
        ("[z-a]", "no class of characters"),
        ("[a||b]", "may mean an operation on sets"),
        ("*a", "nothing stands before '\\*'"),
        ("^*", "it is none: nothing to repeat"),
        ("a{3,2}", "it is none: min repeat"),
        ("a{10000}", "expected at most 9999 times"),
        ("a**", "repeats a repetition"),
        ("a++", "repeats a repetition"),
        ("a\\", "is not supported"),
        (r"(a)\1", "is not supported"),
        (r"\bmlp", "is not supported"),
        ("(?i)mlp", "is not supported"),
        ("(?<=a)b", "is not supported"),
        ("(?>a)b", "is not supported"),
        ("(?P<n>a)", "is not supported"),
        ("(" * 40 + ")" * 40, "nests more than 32 groups"),
        ("a" * (MAX_LENGTH + 1), f"expected at most {MAX_LENGTH}"),
    ],
)
def test_what_is_not_read_is_refused_at_once(expression: str, sentence: str) -> None:
    with pytest.raises(PatternError, match=sentence):
        Pattern(expression)


@given(st.text("()[]{}|*+?^$\\.ab01,", max_size=12))
def test_any_text_is_an_expression_that_re_reads_alike_or_is_refused(expression: str) -> None:
    try:
        pattern = Pattern(expression)
    except PatternError:
        return
    compiled = re.compile(expression)
    for text in ("", "a", "ab", "a.b0", "{1}", "ba01,"):
        assert pattern.matches(text) == (compiled.match(text) is not None)
