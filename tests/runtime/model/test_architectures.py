"""Every family against transformers, in fp32: whole, in chunks, and token by token."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    DynamicCache,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from aweigh_runtime.model.architectures import ARCHITECTURES
from aweigh_runtime.model.shards import SINGLE
from tests.runtime.model.checkpoints import (
    SIZES,
    load_decoder,
    load_oracle,
    new_cache,
    oracle_logits,
    random_tokens,
    step,
    write_family,
)
from tests.runtime.model.families import DYNAMIC, FAMILIES, GEMMA3, PHI4, VISION

TOLERANCE = 1e-4
CHUNKS = (30, 1, 7, 50, 1, 1, 1, 60, 20, 1)  # 172 tokens, decodes among them


def _expect_oracle(directory: Path, oracle: Any, length: int = 172) -> None:
    """One full pass, and chunks beside another request, give what transformers gives."""
    decoder = load_decoder(directory)
    prompt, other = random_tokens(1, length), random_tokens(2, length)
    expected = oracle_logits(oracle, prompt)

    whole = step(decoder, new_cache(decoder, 1), [(0, 0, prompt)])[0]
    torch.testing.assert_close(whole, expected, atol=TOLERANCE, rtol=0)
    for short in (1, 2, 20, 21):
        logits = step(decoder, new_cache(decoder, 1), [(0, 0, prompt[:short])])[0]
        torch.testing.assert_close(
            logits, oracle_logits(oracle, prompt[:short]), atol=TOLERANCE, rtol=0
        )
    cache = new_cache(decoder, 2)
    done = 0
    for count in CHUNKS:
        parts = [(0, done, other[done : done + count]), (1, done, prompt[done : done + count])]
        logits = step(decoder, cache, parts)
        done += count
    torch.testing.assert_close(logits[1], expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(logits[0], oracle_logits(oracle, other), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_each_family_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    model_type, shape = FAMILIES[family]
    directory = write_family(tmp_path, model_type, **shape)

    _expect_oracle(directory, load_oracle(directory))


def test_every_architecture_is_among_the_families() -> None:
    tested = {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type] for model_type, _ in FAMILIES.values()}

    assert tested | {"Gemma3ForConditionalGeneration"} == set(ARCHITECTURES)


@pytest.mark.parametrize(
    "family", ["Llama, yarn", "Qwen 3", "Gemma 2", "Gemma 3", "Mixtral", "Qwen 3 MoE"]
)
def test_in_bf16_we_are_as_near_to_the_fp32_logits_as_transformers_is(
    family: str, tmp_path: Path
) -> None:
    model_type, shape = FAMILIES[family]
    directory = write_family(tmp_path, model_type, **shape)
    oracle, decoder = load_oracle(directory, torch.bfloat16), load_decoder(directory, "bf16")
    exact_oracle = load_oracle(directory)
    ours, theirs = [], []
    for length in range(8, 120, 8):
        prompt = random_tokens(length, length)
        exact = oracle_logits(exact_oracle, prompt)
        ours.append(step(decoder, new_cache(decoder, 1), [(0, 0, prompt)])[0] - exact)
        theirs.append(oracle_logits(oracle, prompt) - exact)

    assert torch.stack(ours).norm() <= 1.25 * torch.stack(theirs).norm()


@pytest.mark.parametrize("prefixes", [{}, {"language_model.model.": "model.language_model."}])
def test_the_text_part_of_a_model_that_sees_images_is_served(
    prefixes: dict[str, str], tmp_path: Path
) -> None:
    text = Gemma3TextConfig.from_dict({**SIZES, **GEMMA3})
    torch.manual_seed(0)
    oracle: Any = Gemma3ForConditionalGeneration._from_config(  # type: ignore[no-untyped-call]
        Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4),
        attn_implementation="eager",
    ).eval()
    oracle.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / SINGLE)
    for old, new in prefixes.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / SINGLE)

    _expect_oracle(tmp_path, oracle)


def test_beyond_its_length_dynamic_scaling_is_that_of_transformers_token_by_token(
    tmp_path: Path,
) -> None:
    """Theirs turns a whole prompt by its length; ours each token by its own position."""
    shape = {"max_position_embeddings": 64, "rope_parameters": DYNAMIC}
    directory = write_family(tmp_path, "llama", **shape)
    decoder, oracle = load_decoder(directory), load_oracle(directory)
    prompt = random_tokens(3, 200)
    known = DynamicCache()
    with torch.inference_mode():
        oracle(torch.tensor([prompt[:60]]), past_key_values=known)
        expected = [
            oracle(torch.tensor([[token]]), past_key_values=known).logits[0, -1]
            for token in prompt[60:]
        ]

    assert decoder.max_model_len == 256
    whole = step(decoder, new_cache(decoder, 1), [(0, 0, prompt)])[0]
    torch.testing.assert_close(whole, expected[-1], atol=TOLERANCE, rtol=0)
    part = step(decoder, new_cache(decoder, 1), [(0, 0, prompt[:100])])[0]
    torch.testing.assert_close(part, expected[100 - 61], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("served", "length"), [(64, 30), (64, 64), (65, 65), (256, 172)])
def test_the_factors_of_phi_are_chosen_by_the_length_that_is_served(
    served: int, length: int, tmp_path: Path
) -> None:
    directory = write_family(tmp_path, "phi3", **PHI4 | {"original_max_position_embeddings": 64})
    decoder = load_decoder(directory, max_len=served)
    prompt = random_tokens(4, length)

    logits = step(decoder, new_cache(decoder, 1), [(0, 0, prompt)])[0]

    expected = oracle_logits(load_oracle(directory), prompt)
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


def test_an_expert_that_nobody_chose_is_not_computed(tmp_path: Path) -> None:
    """Its weights are not numbers: they would show in every sum that they are part of."""
    directory = write_family(tmp_path, "mixtral", num_local_experts=5, num_experts_per_tok=1)
    decoder = load_decoder(directory)
    prompt = random_tokens(5, 1)
    before = step(decoder, new_cache(decoder, 1), [(0, 0, prompt)])
    poisoned = 0
    for index in range(4):
        down = decoder.weights[f"layers.{index}.mlp.down"]
        for expert in range(5):
            kept = down[expert].clone()
            down[expert] = float("nan")
            if step(decoder, new_cache(decoder, 1), [(0, 0, prompt)]).isnan().any():
                down[expert] = kept
            else:
                poisoned += 1

    assert poisoned == 4 * 4
    assert torch.equal(step(decoder, new_cache(decoder, 1), [(0, 0, prompt)]), before)
