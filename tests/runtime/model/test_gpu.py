"""The same model on a GPU. These run where there is one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from aweigh_api.spec import DTypeName
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.load import Wish, load
from aweigh_runtime.model.memory import available_bytes
from tests.conftest import Tell
from tests.runtime.model.checkpoints import (
    blocks_of,
    load_decoder,
    load_oracle,
    new_cache,
    oracle_logits,
    random_tokens,
    step,
)
from tests.runtime.model.test_greedy import fifty_prompts, greedy

pytestmark = pytest.mark.gpu

README = Path(__file__).parents[3] / "README.md"
NEAR_TIE = {"fp32": 1e-3, "bf16": 0.5}  # how far apart logits are that rounding may turn round


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


def test_the_distributions_on_the_gpu_are_as_near_to_the_exact_ones_as_those_of_transformers(
    helmsman: Path, tell: Tell
) -> None:
    tokens = AutoTokenizer.from_pretrained(helmsman)(README.read_text())["input_ids"]
    texts = [tokens[first : first + 250] for first in range(0, 2000, 250)]
    exact, theirs = load_oracle(helmsman), load_oracle(helmsman, torch.bfloat16).to("cuda")
    ours = load_decoder(helmsman, "bf16", "cuda")
    our_nats, their_nats = [], []
    for text in texts:
        wanted = _oracle_logits(exact, text)
        our_nats.append(_divergence(wanted, _all_logits(ours, text)))
        their_nats.append(_divergence(wanted, _oracle_logits(theirs, text)))
    our_mean, their_mean = torch.cat(our_nats).mean(), torch.cat(their_nats).mean()
    tell(
        f"mean KL to fp32 transformers over {sum(map(len, texts))} tokens, whole vocabulary, bf16: "
        f"ours {our_mean:.3e} nats per token, transformers {their_mean:.3e}"
    )
    assert our_mean <= 1.15 * their_mean


def _oracle_logits(oracle: Any, text: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = oracle(torch.tensor([text], device=oracle.device)).logits[0]
        return logits.cpu()


def _all_logits(decoder: Decoder, text: list[int]) -> torch.Tensor:
    cache = new_cache(decoder, 1)
    chunk = Chunk(0, len(text), blocks_of(cache, 0), num_logits=len(text))
    return decoder.forward(text, [chunk], cache).cpu()


def _divergence(exact: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL in nats of each row."""
    wanted, found = (logits.double().log_softmax(-1) for logits in (exact, other))
    return (wanted.exp() * (wanted - found)).sum(-1)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_greedy_text_on_the_gpu_is_that_of_the_cpu_up_to_a_near_tie(
    helmsman: Path, dtype: DTypeName, tell: Tell
) -> None:
    prompts, stop = fifty_prompts(helmsman)
    reference = load_decoder(helmsman, "fp32", "cpu", exact=True)
    wanted = greedy(reference, prompts, stop)
    found = greedy(load_decoder(helmsman, dtype, "cuda"), prompts, stop)
    gaps = []
    for prompt, one, other in zip(prompts, wanted, found, strict=True):
        if one != other:
            at = next(i for i, pair in enumerate(zip(one, other, strict=False)) if len({*pair}) > 1)
            logits = step(reference, new_cache(reference, 1), [(0, 0, prompt + one[:at])])[0]
            gaps.append((logits[one[at]] - logits[other[at]]).item())
    tell(
        f"greedy text in {dtype} on the GPU is the CPU's exact one for {50 - len(gaps)} of 50 "
        f"prompts; where it parts, logits are {max(gaps, default=0.0):.4f} apart at most"
    )
    assert max(gaps, default=0.0) <= NEAR_TIE[dtype]


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
