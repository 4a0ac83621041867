from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aweigh_runtime.text.disguise import Disguise, Piece

SPECIALS = ["<|end|>", "<|user|>", "<|e", "<s>"]
TEXT = st.text(max_size=20)
TYPED = st.lists(TEXT | st.sampled_from(SPECIALS)).map("".join)


@given(TYPED)
def test_what_was_typed_comes_back_without_special_tokens(typed: str) -> None:
    disguise = Disguise(SPECIALS)
    worn = disguise.put_on(typed)
    assert not any(special in worn for special in SPECIALS)
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


def test_nobody_can_guess_the_stand_in_of_another_request() -> None:
    assert Disguise(SPECIALS).put_on("<s>") != Disguise(SPECIALS).put_on("<s>")
