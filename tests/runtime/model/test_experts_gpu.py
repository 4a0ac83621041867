"""Models with experts on a GPU: routed and multiplied there, in graphs, beside torch's way."""

from pathlib import Path
from typing import Any

import pytest
import torch

from aweigh_api.number_formats import SchemeName
from aweigh_runtime.formats.gptq_layout import GptqLayout
from aweigh_runtime.formats.modules import is_router
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.load import Wish, load
from tests.runtime.model.checkpoints import (
    blocks_of,
    load_decoder,
    new_cache,
    random_tokens,
    write_family,
)
from tests.runtime.model.families import FAMILIES
from tests.runtime.model.quantized import Quantize, quantized_twins, round_to
from tests.runtime.model.test_decode_graphs_gpu import Recorded, Steps, expect_alike, nobody_waits

pytestmark = pytest.mark.gpu

KINDS = ["Mixtral", "Qwen 3 MoE", "Qwen 3 MoE with plain layers"]
WIDE = {"hidden_size": 128, "intermediate_size": 128, "max_position_embeddings": 1024}


def written(directory: Path, family: str, **shape: Any) -> Path:
    model_type, own = FAMILIES[family]
    return write_family(directory, model_type, **(own | {"max_position_embeddings": 1024} | shape))


def logits_of(decoder: Decoder, prompts: int = 40, length: int = 5) -> torch.Tensor:
    """[prompts * length, V], behind each token. In a long prompt all would see what one chose."""
    cache = new_cache(decoder, prompts)
    chunks = [Chunk(0, length, blocks_of(cache, each), length) for each in range(prompts)]
    return decoder.forward(random_tokens(1, prompts * length), chunks, cache)


def expect_mostly_alike(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Rounded otherwise, a token now and then has another expert that is nearly as good."""
    off = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(off.median()) < 0.01
    assert float((off > 0.05).float().mean()) < 0.1


@pytest.mark.parametrize("family", KINDS)
def test_logits_are_those_of_torchs_layers(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aweigh_runtime.model import fused

    directory = written(tmp_path, family)
    decoder = load_decoder(directory, "fp16", "cuda")
    assert decoder.recordable
    assert not decoder.waits
    monkeypatch.setattr(fused, "takes", lambda config, dtype: False)
    plain = load_decoder(directory, "fp16", "cuda")
    assert plain.waits
    expect_mostly_alike(logits_of(decoder), logits_of(plain))


@pytest.mark.parametrize("family", KINDS)
def test_steps_are_replayed_and_nobody_waits(tmp_path: Path, family: str) -> None:
    steps = Steps(Recorded(load_decoder(written(tmp_path, family), "fp16", "cuda"), most=24))
    requests = [steps.read(7 * index + 1) for index in range(24)]
    for count in (1, 3, 4, 9, 24):
        expect_alike(*steps.both(requests[:count]))
    tokens = steps.tokens(140)
    prompts = [Chunk(0, 40, steps.free[:3]), Chunk(0, 100, steps.free[3:10])]
    steps.decoder.forward(tokens, prompts, steps.cache)
    with nobody_waits():
        steps.decoder.forward(tokens, prompts, steps.cache)


@pytest.mark.parametrize("family", ["Mixtral", "Qwen 3 MoE"])
def test_greedy_text_is_that_of_the_eager_decoder(tmp_path: Path, family: str) -> None:
    """Token by token behind the same text: where one is clearly the likeliest it is the same."""
    steps = Steps(Recorded(load_decoder(written(tmp_path, family), "fp16", "cuda")))
    blocks = [steps.free[4 * index : 4 * index + 4] for index in range(4)]
    chunks = [Chunk(0, 9 + index, blocks[index]) for index in range(4)]
    packed = steps.tokens(sum(chunk.num_tokens for chunk in chunks))
    new = steps.decoder.forward(packed, chunks, steps.cache).argmax(-1)
    for ahead in range(30):
        chunks = [Chunk(9 + index + ahead, 1, blocks[index]) for index in range(4)]
        eager = steps.decoder.forward(new, chunks, steps.cache)
        replayed = steps.graphs.forward(new, chunks)
        assert replayed is not None
        expect_alike(replayed.clone(), eager)
        new = eager.argmax(-1)


def quantized(module: str) -> bool:
    return "model.layers." in module and not is_router(module)


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
def test_experts_that_are_quantized_while_they_are_loaded(
    tmp_path: Path, scheme: SchemeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = written(tmp_path, "Qwen 3 MoE", **WIDE)
    expect_as_one_by_one(directory, Wish(dtype="fp16", scheme=scheme), monkeypatch)


@pytest.mark.parametrize("family", ["Mixtral", "Qwen 3 MoE"])
def test_experts_of_4_bits(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path / "source", family, **WIDE)
    layout, quantize = GptqLayout(bits=4, group=32), round_to(4, 32)
    stated = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}

    def rule(module: str) -> tuple[GptqLayout, Quantize] | None:
        return (layout, quantize) if quantized(module) else None

    twins = quantized_twins(source, tmp_path, rule, stated)
    expect_as_one_by_one(twins.quantized, Wish(dtype="fp16"), monkeypatch)


def expect_as_one_by_one(directory: Path, wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs hold them, and they find what one expert after the other does."""
    from aweigh_runtime.model import fused_experts

    decoder = load(directory, wish, torch.device("cuda"), lambda done, total: None).decoder
    assert decoder.recordable
    steps = Steps(Recorded(decoder))
    expect_alike(*steps.both([steps.read(100), steps.read(5), steps.read(33)]))
    monkeypatch.setattr(fused_experts, "stack_of", lambda weight, count, dtype: None)
    alone = load(directory, wish, torch.device("cuda"), lambda done, total: None).decoder
    assert alone.waits
    assert not alone.recordable
    expect_mostly_alike(logits_of(decoder), logits_of(alone))


def test_experts_of_two_kinds_are_multiplied_one_by_one(tmp_path: Path) -> None:
    source = written(tmp_path / "source", "Mixtral", **WIDE)
    stated = {
        "quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True,
        "dynamic": {r"+:.*experts\.3\..*": {"group_size": 64}},
    }  # fmt: skip

    def rule(module: str) -> tuple[GptqLayout, Quantize] | None:
        group = 64 if ".experts.3." in module else 32
        layout = GptqLayout(bits=4, group=group)
        return (layout, round_to(4, group)) if quantized(module) else None

    twins = quantized_twins(source, tmp_path, rule, stated)
    decoder = load_decoder(twins.quantized, "fp16", "cuda")
    assert decoder.waits
    expect_mostly_alike(logits_of(decoder), logits_of(load_decoder(twins.dense, "fp16", "cuda")))
