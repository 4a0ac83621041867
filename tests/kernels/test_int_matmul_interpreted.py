"""The kernels of products with integers without a GPU, number by number."""

import pytest

from tests.kernels.interpreter import expect_nothing_wrong


@pytest.mark.parametrize(
    ("bits", "kind"), [(2, "bf16"), (3, "fp16"), (4, "bf16"), (4, "fp16"), (8, "bf16"), (8, "fp16")]
)
def test_every_integer_comes_back_from_where_it_is_packed(bits: int, kind: str) -> None:
    """Alone to the last bit, in products as fp32 adds, and made dense; groups of all kinds."""
    expect_nothing_wrong("interpreted_int_matmul", str(bits), kind)
