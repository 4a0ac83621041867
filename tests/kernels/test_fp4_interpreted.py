"""The kernels of NVFP4 without a GPU, number by number."""

import pytest

from tests.kernels.interpreter import expect_nothing_wrong


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_every_value_times_its_scale_comes_back_from_where_it_is_packed(kind: str) -> None:
    """All 16 by all 256; alone to the last bit, in products as fp32 adds, and made dense."""
    expect_nothing_wrong("interpreted_fp4_matmul", kind)


def test_activations_are_rounded_as_the_reference_rounds_them() -> None:
    """Codes, scales in both orders, and what they mean: all numbers of fp16, and all ties."""
    expect_nothing_wrong("interpreted_fp4_rounding")


def test_codes_are_multiplied_with_their_scales_as_an_emulation_of_tensor_cores_has_them() -> None:
    expect_nothing_wrong("interpreted_fp4_blocks")
