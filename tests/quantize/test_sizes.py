"""What a scheme's files take, in a decoder layer of Llama's kind, counted from their headers."""

from pathlib import Path

import pytest

from benchmarks.quantized_sizes import SHAPE, size, write_layer

SMALL = {
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
ORDER = 32 / 1024  # bits of a weight: GPTQ's files tell the group of each column, once for all rows


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        ("rtn-4", 4 + (16 + 4) / 128 + ORDER),
        ("rtn-2", 2 + (16 + 2) / 128 + ORDER),
        ("rtn-4-2:4", 4 / 2 + 2 / 2 + 16 / 128),
        ("fp8-block", 8 + 32 / 128**2),
    ],
)
def test_a_weight_takes_its_bits_and_its_share_of_scales(
    tmp_path: Path, scheme: str, bits: float
) -> None:
    found = size(write_layer(tmp_path / "dense", SHAPE | SMALL), scheme, tmp_path / "out")
    assert 8 * found.written / found.num_weights == pytest.approx(bits, rel=0.005)
    assert found.ratio == pytest.approx(16 / bits, rel=0.005)
