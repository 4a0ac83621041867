"""Products with weights of 8 bits, and the rounding before them, without a GPU."""

from tests.kernels.interpreter import expect_nothing_wrong


def test_every_kind_of_rounding_and_product_is_what_its_reference_says() -> None:
    expect_nothing_wrong("interpreted_bytes")


def test_what_follows_a_product_is_what_separate_kernels_make_of_it() -> None:
    expect_nothing_wrong("interpreted_byte_products")
