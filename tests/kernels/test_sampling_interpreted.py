"""The kernels of sampling without a GPU, number by number."""

import pytest

from tests.kernels.interpreter import expect_nothing_wrong


@pytest.mark.parametrize("sizes", [(1, 7), (5003,)], ids=["few tokens", "more than are listed"])
def test_rows_of_every_kind_get_the_tokens_that_torch_draws(sizes: tuple[int, ...]) -> None:
    expect_nothing_wrong("interpreted_sampling", *map(str, sizes))
