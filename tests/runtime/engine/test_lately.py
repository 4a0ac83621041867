"""Drafts that bring nothing are told after one window, whatever is known of them from before."""

import pytest

from aweigh_runtime.engine.speculation.lately import WINDOW_S, Lately

STEPS = 100  # of one answer in a window


def after(*windows: tuple[int, int]) -> Lately:
    """Windows in which so many tokens were drafted, of which so many stayed."""
    lately = Lately()
    lately.look(0.0)
    for number, (drafted, kept) in enumerate(windows, 1):
        for _ in range(STEPS):
            lately.advanced(1)
        lately.verified(drafted, kept)
        lately.look(number * WINDOW_S)
    return lately


def test_a_window_without_gain_is_told_in_numbers_though_those_before_were_good() -> None:
    lately = after((300, 270), (290, 260), (8, 0))
    assert "in 100 steps of answers 8 tokens were drafted, of which 0% stay" in lately.verdict
    assert lately.mostly_wrong


def test_drafts_that_gain_are_not_told_of() -> None:
    assert after((8, 0), (300, 270)).verdict == ""
    assert after((8, 6)).verdict == ""


def test_rare_drafts_that_are_right_bring_too_little_and_are_not_called_wrong() -> None:
    lately = after((2, 2))
    assert "100% stay" in lately.verdict
    assert not lately.mostly_wrong


@pytest.mark.parametrize("before", [(8, 0), (300, 270)])
def test_where_nothing_could_be_drafted_the_last_verdict_stays(before: tuple[int, int]) -> None:
    assert after(before, (0, 0)).verdict == after(before).verdict


def test_before_a_window_is_over_nothing_is_told() -> None:
    lately = after()
    for _ in range(STEPS):
        lately.advanced(1)
    lately.verified(8, 0)
    lately.look(WINDOW_S - 0.1)
    assert lately.verdict == ""


def test_a_few_steps_tell_nothing() -> None:
    lately = after()
    lately.advanced(4)
    lately.verified(8, 0)
    lately.look(WINDOW_S)
    assert lately.verdict == ""
