"""The kernels of drafts that stay on the device, without a GPU, number by number."""

from tests.kernels.interpreter import expect_nothing_wrong


def test_chains_go_on_where_torch_says_behind_what_stays() -> None:
    expect_nothing_wrong("interpreted_drafts")
