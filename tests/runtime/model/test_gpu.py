"""The same model on a GPU. These run where there is one."""

from pathlib import Path

import pytest
import torch

from aweigh_api.spec import DTypeName
from aweigh_runtime.model.load import Wish, load
from aweigh_runtime.model.memory import available_bytes
from tests.runtime.model.checkpoints import (
    load_decoder,
    load_oracle,
    new_cache,
    oracle_logits,
    random_tokens,
    step,
)

pytestmark = pytest.mark.gpu


def _logits(directory: Path, dtype: DTypeName, device: str, prompt: list[int]) -> torch.Tensor:
    decoder = load_decoder(directory, dtype, device)
    return step(decoder, new_cache(decoder, 1), [(0, 0, prompt)])[0].cpu()


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("bf16", torch.bfloat16), ("fp16", torch.half)])
def test_logits_on_the_gpu_are_as_near_to_the_exact_ones_as_transformers_are(
    helmsman: Path, dtype: DTypeName, torch_dtype: torch.dtype
) -> None:
    ours, theirs = 0.0, 0.0
    oracle = load_oracle(helmsman, torch_dtype).to("cuda")
    for length in (1, 30, 64, 65, 100, 150, 200, 250):  # for a single one, chance decides
        prompt = random_tokens(length, length, 8192)
        exact = _logits(helmsman, "fp32", "cpu", prompt)
        our_logits = _logits(helmsman, dtype, "cuda", prompt)
        ours += (our_logits - exact).norm().item()
        theirs += (oracle_logits(oracle, prompt).cpu() - exact).norm().item()
        assert our_logits.argmax() in exact.topk(2).indices
    assert ours <= 1.15 * theirs


def test_fp32_logits_on_the_gpu_are_those_of_the_cpu(helmsman: Path) -> None:
    prompt = random_tokens(5, 100, 8192)

    torch.testing.assert_close(
        _logits(helmsman, "fp32", "cuda", prompt),
        _logits(helmsman, "fp32", "cpu", prompt),
        atol=1e-3,
        rtol=0,
    )


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_a_mixed_batch_on_the_gpu_equals_each_request_alone(
    helmsman: Path, dtype: DTypeName
) -> None:
    decoder = load_decoder(helmsman, dtype, "cuda")
    prompts = [random_tokens(seed, 40 + seed, 8192) for seed in range(4)]
    cached = (0, 40, 30, 42)  # a prompt, a decode, a chunk, a decode
    slots = (3, 0, 2, 1)
    cache = new_cache(decoder, 4)
    for slot, count, prompt in zip(slots, cached, prompts, strict=True):
        if count:
            step(decoder, cache, [(slot, 0, prompt[:count])])
    mixed = step(
        decoder,
        cache,
        [(s, n, p[n:]) for s, n, p in zip(slots, cached, prompts, strict=True)],
    )

    tolerance = {"bf16": 0.05, "fp16": 0.01, "fp32": 1e-4}[dtype]
    for logits, prompt in zip(mixed, prompts, strict=True):
        alone = step(decoder, new_cache(decoder, 1), [(0, 0, prompt)])[0]
        assert (logits - alone).norm() <= tolerance * alone.norm()


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_exact_logits_on_the_gpu_have_the_same_bits_in_every_step(
    helmsman: Path, dtype: DTypeName
) -> None:
    decoder = load_decoder(helmsman, dtype, "cuda", exact=True)
    prompts = [random_tokens(seed, 100 + seed, 8192) for seed in range(40)]
    cache = new_cache(decoder, 40)
    alone = [step(decoder, new_cache(decoder, 1), [(0, 0, prompt)])[0] for prompt in prompts]

    for first in range(0, 40, 8):  # steps that mix prompts, chunks and decodes
        parts = [(i, 0, prompts[i][: 98 - i]) for i in range(first, first + 8)]
        step(decoder, cache, [*parts[1:], (first, 0, prompts[first])])
        step(
            decoder, cache, [(i, 98 - i, prompts[i][98 - i : -1]) for i in range(first, first + 8)]
        )
    logits = step(decoder, cache, [(i, 99 + i, prompts[i][-1:]) for i in range(40)])

    for i in range(40):
        assert torch.equal(logits[i], alone[i])


def test_auto_is_the_checkpoints_format_and_memory_is_taken_once(helmsman: Path) -> None:
    device = torch.device("cuda")
    free = available_bytes(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()  # by other tests
    decoder = load(helmsman, Wish(), device, lambda done, total: None).decoder

    weights = sum(weight.nbytes for weight in decoder.weights.values())
    assert decoder.dtype == torch.bfloat16
    assert free > 0
    assert torch.cuda.max_memory_allocated() - before <= 1.5 * weights
