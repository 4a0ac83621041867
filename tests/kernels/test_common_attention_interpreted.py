"""Attention to what requests have in common without a GPU, beside sums in fp64."""

from tests.kernels.interpreter import expect_nothing_wrong


def test_requests_find_together_what_each_would_find_by_itself() -> None:
    expect_nothing_wrong("interpreted_common")
