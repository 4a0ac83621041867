"""Routing and grouped products without a GPU, number by number."""

import pytest

from tests.kernels.interpreter import expect_nothing_wrong


@pytest.mark.parametrize("part", ["routing", "dense", "ints", "bytes"])
def test_each_token_gets_what_its_own_experts_find(part: str) -> None:
    """Experts without tokens, with one and with many; ties; matrices of all kinds."""
    expect_nothing_wrong("interpreted_experts", part)
