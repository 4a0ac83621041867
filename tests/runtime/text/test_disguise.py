import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aweigh_runtime.text.disguise import Disguise, Piece, Specials

SPECIALS = Specials(["<|end|>", "<|user|>", "<|e", "<s>"])
TEXT = st.text(max_size=20)
TYPED = st.lists(TEXT | st.sampled_from(SPECIALS.texts)).map("".join)


@given(TYPED)
def test_what_was_typed_comes_back_without_special_tokens(typed: str) -> None:
    disguise = Disguise(SPECIALS)
    worn = disguise.put_on(typed)
    assert not any(special in worn for special in SPECIALS.texts)
    pieces = disguise.take_off(f"<|user|>{worn}<|end|>")
    assert "".join(piece.text for piece in pieces) == f"<|user|>{typed}<|end|>"
    assert pieces[0].text.startswith("<|user|>")
    own = "".join(piece.text for piece in pieces if not piece.literal)
    assert [own.count(special) for special in ("<|user|>", "<|end|>")] == [1, 1]


def test_a_text_without_special_tokens_is_left_alone() -> None:
    disguise = Disguise(SPECIALS)
    assert disguise.put_on("a < b | c > d") == "a < b | c > d"
    assert disguise.take_off("plain") == [Piece("plain", literal=False)]


def test_every_string_of_a_message_is_disguised() -> None:
    disguise = Disguise(SPECIALS)
    message: dict[str, Any] = {"role": "user", "name": "<s>", "parts": [{"text": "<s>"}], "n": 1}
    worn = disguise.put_on(message)
    assert "<s>" not in str(worn)
    assert (worn["role"], worn["n"]) == ("user", 1)


def test_no_text_makes_the_search_slow() -> None:
    specials = Specials([f"<|reserved_special_token_{i}|>" for i in range(255)] + ["<s>"])
    started_s = time.perf_counter()
    for part in ("<", "<|", "<|reserved_special_token_2"):
        text = part * ((1 << 20) // len(part))
        assert Disguise(specials).put_on(text) == text
    assert time.perf_counter() - started_s < 1  # 4 s when each token is tried at each place


@given(st.lists(st.text("ab<|.", min_size=1, max_size=4)), st.text("ab<|.", max_size=30))
def test_the_longest_special_token_is_found_wherever_one_begins(
    texts: list[str], typed: str
) -> None:
    specials = Specials(texts)
    at, expected = 0, []
    while at < len(typed):
        found = max((t for t in texts if typed.startswith(t, at)), key=len, default="")
        expected += [found] if found else []
        at += len(found) or 1
    assert [match.group() for match in specials.pattern.finditer(typed)] == expected


def test_nobody_can_guess_the_stand_in_of_another_request() -> None:
    assert Disguise(SPECIALS).put_on("<s>") != Disguise(SPECIALS).put_on("<s>")
