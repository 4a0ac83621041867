from hypothesis import given
from hypothesis import strategies as st

from aweigh_runtime.text.stops import StopFinder

LETTERS = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def run(pieces: list[str], stops: list[str], *, keep: bool = False) -> tuple[str, bool]:
    finder, text = StopFinder(stops, keep=keep), ""
    for piece in pieces:
        text += finder.feed(piece)
        if finder.found:
            return text, True
    return text + finder.finish(), False


def expected(pieces: list[str], stops: list[str]) -> str:
    """What precedes the first stop string that any piece completes."""
    text = ""
    for piece in pieces:
        text += piece
        found = [text.find(stop) for stop in stops if stop in text]
        if found:
            return text[: min(found)]
    return text


@given(st.lists(LETTERS), STOPS)
def test_the_answer_is_cut_before_the_stop_string(pieces: list[str], stops: list[str]) -> None:
    text, found = run(pieces, stops)
    assert text == expected(pieces, stops)
    assert found == any(stop in "".join(pieces) for stop in stops)


@given(st.lists(LETTERS), STOPS)
def test_a_stop_string_that_is_kept_ends_the_answer(pieces: list[str], stops: list[str]) -> None:
    before, found = run(pieces, stops)
    text, found_too = run(pieces, stops, keep=True)
    assert found == found_too
    assert text in [before + stop for stop in stops] if found else text == before


def test_what_may_begin_a_stop_string_is_held_back_until_it_is_decided() -> None:
    finder = StopFinder(["END", "\n\n"])
    assert finder.feed("one\n") == "one"
    assert finder.feed("two E") == "\ntwo "
    assert finder.feed("NOUGH") == "ENOUGH"
    assert finder.feed(" EN") == " "
    assert finder.feed("D of it") == ""
    assert finder.found


def test_without_stop_strings_nothing_is_held_back() -> None:
    finder = StopFinder([])
    assert finder.feed("x") == "x"
    assert finder.finish() == ""
