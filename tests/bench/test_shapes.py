"""Models that are a shape and random weights."""

import pytest

from aweigh_bench.failures import Impossible
from aweigh_bench.shapes import SHAPES, shape_directory
from aweigh_bench.subject import Setting, subject
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.footprint import weight_bytes
from tests.bench.commands import bench


@pytest.mark.parametrize(
    ("name", "billions"), [("llama-3.1-8b", 8.03), ("llama-3.2-1b", 1.24), ("llama-tiny", 0.001)]
)
def test_a_shape_has_the_parameters_of_its_name(name: str, billions: float) -> None:
    with shape_directory(name) as directory:
        parameters = weight_bytes(read_config(directory), 2) / 2
    assert parameters / 1e9 == pytest.approx(billions, rel=0.2 if billions < 0.01 else 0.01)


def test_the_directory_is_gone_afterwards() -> None:
    with shape_directory("llama-tiny") as directory:
        assert (directory / "tokenizer.json").is_file()
    assert not directory.exists()


def test_an_unknown_shape_is_refused_with_those_there_are() -> None:
    expected = f"--shape is large; expected one of {', '.join(SHAPES)}"
    with pytest.raises(Impossible, match=expected), shape_directory("large"):
        pass


async def test_a_shape_and_a_model_are_not_given_together() -> None:
    with pytest.raises(Impossible, match="are both given"):
        async with subject(Setting(shape="llama-tiny", model="builtin://helmsman-8m")):
            pass


async def test_a_shape_is_served_and_measured() -> None:
    done = await bench(
        "throughput", "--shape=llama-tiny", "--serve-flag=--device=cpu", "--batches=1,2",
        "--serve-flag=--kv-cache-memory=64Mi", "--threads=1", "--input-tokens=8",
        "--output-tokens=4", "--rounds=1", "--output=json", "--random-weights",
    )  # fmt: skip
    assert [row["at once"] for row in done.rows()] == ["1", "2"]
