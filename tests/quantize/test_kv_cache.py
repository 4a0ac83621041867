"""Scales of keys and values: declared, written, read back, and worth having."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from aweigh_quantize.cache_scales import CacheScales
from aweigh_quantize.calibration import from_model
from aweigh_quantize.checkpoint import read_checkpoint
from aweigh_quantize.evaluation import Evaluation, evaluate
from aweigh_quantize.job import run
from aweigh_quantize.tensor_file import entry, write_tensors
from aweigh_quantize.texts import Text
from aweigh_runtime.formats.checkpoint import read_quantization
from aweigh_runtime.model.cache import CacheFormat, KVCache, KvScales
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.load import Loaded, Wish, load
from tests.quantize.conftest import COPIED
from tests.quantize.jobs import AMOUNT, CPU, Silent, job, tensors

FACTORS = {"k_proj": 2.0**8, "q_proj": 2.0**-8, "v_proj": 2.0**-13, "o_proj": 2.0**13}


@pytest.mark.parametrize(
    "recipe",
    [
        {"scheme": "rtn", "group_size": -1, "symmetric": False, "budget": 4.5},
        {"scheme": "rtn", "sparse": True},
        {"scheme": "gptq", "bits": 3, "static_groups": False},
        {"scheme": "awq"},
        {"scheme": "int8", "activations": "none"},
        {"scheme": "fp8", "granularity": "block"},
        {"scheme": "fp8", "granularity": "tensor", "activations": "static"},
    ],
    ids=lambda recipe: " ".join(map(str, recipe.values())),
)
def test_what_is_served_with_a_cache_in_fp8_loses_what_was_measured(
    cut: Path, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    found = run(job(cut, tmp_path / "out", **recipe, kv_cache="fp8"), Silent())
    said = read_quantization(tmp_path / "out")
    assert said is not None
    assert said.kv_cache_scheme == "fp8"
    served = _served(tmp_path / "out")
    loss = _loss(cut, served, served.kv_scales, _texts(cut))
    assert loss.kl.value == pytest.approx(found.loss.kl.value, rel=0.02)


def test_scales_keep_what_fp8_alone_would_lose(cut: Path, tmp_path: Path) -> None:
    """The same model with keys beyond the largest number of fp8, and values below the smallest."""
    other = _rescaled(cut, tmp_path / "helmsman-rescaled")
    recipe: dict[str, Any] = {"scheme": "fp8", "activations": "none", "kv_cache": "fp8"}
    found = {
        name: run(job(model, tmp_path / name, **recipe), Silent()).loss
        for name, model in (("same", cut), ("rescaled", other))
    }
    assert found["rescaled"].kl.value == pytest.approx(found["same"].kl.value, rel=0.2)

    served = _served(tmp_path / "rescaled")
    assert served.kv_scales is not None
    assert served.kv_scales.shape == (2, 2)
    assert bool((served.kv_scales[:, 0] > 1).all() and (served.kv_scales[:, 1] < 1).all())
    texts = _texts(other)
    scaled = _loss(other, served, served.kv_scales, texts)
    unscaled = _loss(other, served, None, texts)
    assert scaled.kl.value == pytest.approx(found["rescaled"].kl.value, rel=1e-2)
    assert scaled.excess(unscaled).low > 0


def test_a_cache_scale_is_the_smallest_power_of_two_that_fits() -> None:
    scales = CacheScales(CPU)
    new = torch.zeros(3, 4, 8)
    new[1, 0, 2], new[2, 3, 5] = -449.0, 448.0 / 1024
    scales.add(torch.zeros(1, 4, 8))
    assert scales.scales().tolist() == [1, 1]
    scales.add(new)
    assert scales.scales().tolist() == [2, 1 / 1024]
    with pytest.raises(ValueError, match="not finite"):
        scales.add(torch.full((1, 4, 8), torch.nan))


def _rescaled(source: Path, target: Path) -> Path:
    """Keys and values are larger or smaller, queries and outputs make up for it exactly."""
    target.mkdir()
    for name in (*COPIED, "config.json"):
        shutil.copyfile(source / name, target / name)
    scaled = {
        name: values * FACTORS.get(name.split(".")[-2], 1.0)
        for name, values in tensors(source).items()
    }
    write_tensors(target / "model.safetensors", [entry(*each) for each in scaled.items()])
    return target


def _texts(model: Path) -> list[Text]:
    """Those that a job of this model was measured on."""
    cache = model.parent / "cache"
    return from_model(read_checkpoint(model), AMOUNT.held_out(), CPU, cache, lambda: None)


def _served(folder: Path) -> Loaded:
    return load(folder, Wish(dtype="fp32"), CPU, lambda done, total: None)


def _loss(dense: Path, quantized: Loaded, scales: KvScales | None, texts: list[Text]) -> Evaluation:
    """As a server with a cache in fp8 has it."""
    whole, found = _served(dense).decoder, quantized.decoder
    plain = CacheFormat(whole.dtype, whole.dtype)
    kept = CacheFormat.of(found.dtype, "fp8", scales)
    return evaluate(
        texts, ((_logits(whole, text, plain), _logits(found, text, kept)) for text in texts)
    )


def _logits(decoder: Decoder, text: Text, kept: CacheFormat) -> torch.Tensor:
    count = -(-len(text.tokens) // 16)
    cache = KVCache(decoder.config, count, 16, kept, decoder.device)
    chunk = Chunk(0, len(text.tokens), range(count), len(text.tokens))
    return decoder.forward(torch.tensor(text.tokens), [chunk], cache)
