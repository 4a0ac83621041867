import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.footprint import bytes_per_token, item_bytes, weight_bytes
from aweigh_runtime.model.placement import places
from tests.runtime.model.checkpoints import load_decoder, new_cache, write_family
from tests.runtime.model.families import FAMILIES
from tests.runtime.model.published import PUBLISHED


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize(
    "family", ["Llama 2", "Qwen 2", "Phi-3", "Gemma 3", "Qwen 3 MoE with plain layers"]
)
def test_what_is_announced_is_what_is_taken(family: str, dtype: str, tmp_path: Path) -> None:
    model_type, shape = FAMILIES[family]
    directory = write_family(tmp_path, model_type, **shape)
    config = read_config(directory)
    decoder = load_decoder(directory, "bf16" if dtype == "bf16" else "fp32")
    size = item_bytes("bf16" if dtype == "bf16" else "fp32", config)
    cache = new_cache(decoder, 2)

    assert weight_bytes(config, size) == sum(each.nbytes for each in decoder.weights.values())
    assert cache.layers.nbytes == 2 * 256 * bytes_per_token(config, size)


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_models_have_as_many_weights_as_their_configs_imply(
    model: str, tmp_path: Path
) -> None:
    count, config = PUBLISHED[model]
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = read_config(tmp_path)

    assert sum(math.prod(place.shape) for place in places(read)) == count
    assert weight_bytes(read, 2) == pytest.approx(2 * count, rel=1e-3)


def test_the_checkpoints_format_counts_where_no_other_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["Llama-3.1-8B"][1]))
    config = read_config(tmp_path)

    assert item_bytes("auto", config) == item_bytes("fp16", config) == 2
    assert item_bytes("fp32", config) == 4
    assert bytes_per_token(config, 2) == 128 << 10


def test_a_plan_needs_no_tensor_library() -> None:
    code = "import aweigh_runtime.model.footprint, aweigh_runtime.model.architectures, sys; "
    code += "sys.exit('torch' in sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True)
