from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_runtime.model.decoder import Decoder
from tests.runtime.model.checkpoints import (
    SHAPES,
    load_decoder,
    load_oracle,
    new_cache,
    oracle_logits,
    random_tokens,
    step,
    write_checkpoint,
)

TOLERANCE = 4e-4  # of logits of up to 10 in fp32: with AVX2 alone two ways differ by 2e-4


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return load_decoder(write_checkpoint(tmp_path_factory.mktemp("model")))


def _alone(decoder: Decoder, prompt: list[int]) -> torch.Tensor:
    return step(decoder, new_cache(decoder, 1), [(0, 0, prompt)])[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_transformers(shape: str, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, **SHAPES[shape])
    decoder, oracle = load_decoder(directory), load_oracle(directory)

    for length in (1, 2, 17, 200):
        prompt = random_tokens(length, length)
        torch.testing.assert_close(
            _alone(decoder, prompt), oracle_logits(oracle, prompt), atol=TOLERANCE, rtol=0
        )


def test_the_real_model_gives_the_logits_of_transformers(helmsman: Path) -> None:
    decoder, oracle = load_decoder(helmsman), load_oracle(helmsman)

    for length in (1, 33, 256):
        prompt = random_tokens(length, length, 8192)
        torch.testing.assert_close(
            _alone(decoder, prompt), oracle_logits(oracle, prompt), atol=TOLERANCE, rtol=0
        )


def test_in_bf16_we_are_as_near_to_the_fp32_logits_as_transformers_is(helmsman: Path) -> None:
    prompt = random_tokens(7, 64, 8192)
    exact = oracle_logits(load_oracle(helmsman), prompt)
    theirs = oracle_logits(load_oracle(helmsman, torch.bfloat16), prompt)
    ours = _alone(load_decoder(helmsman, "bf16"), prompt)

    assert (ours - exact).norm() <= 1.25 * (theirs - exact).norm()


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15, deadline=None)
def test_a_prompt_in_chunks_equals_the_prompt_at_once(
    decoder: Decoder, lengths: list[int], seed: int
) -> None:
    prompt = random_tokens(seed, sum(lengths))
    cache = new_cache(decoder, 3)
    done = 0
    for length in lengths:
        logits = step(decoder, cache, [(1, done, prompt[done : done + length])])
        done += length

    torch.testing.assert_close(logits[0], _alone(decoder, prompt), atol=TOLERANCE, rtol=0)


@given(
    requests=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), min_size=1, max_size=6),
    order=st.permutations(range(6)),
)
@settings(max_examples=20, deadline=None)
def test_a_request_alone_equals_the_same_in_a_mixed_batch(
    decoder: Decoder, requests: list[tuple[int, int]], order: list[int]
) -> None:
    """`requests` are (tokens already cached, tokens in the step): prompts, chunks and decodes."""
    prompts = [random_tokens(seed, sum(sizes)) for seed, sizes in enumerate(requests)]
    cache = new_cache(decoder, 6)
    for request, (cached, _), prompt in zip(order, requests, prompts, strict=False):
        if cached:
            step(decoder, cache, [(request, 0, prompt[:cached])])

    mixed = step(
        decoder,
        cache,
        [
            (request, cached, prompt[cached:])
            for request, (cached, _), prompt in zip(order, requests, prompts, strict=False)
        ],
    )

    for logits, prompt in zip(mixed, prompts, strict=True):
        torch.testing.assert_close(logits, _alone(decoder, prompt), atol=TOLERANCE, rtol=0)


def test_decoding_token_by_token_equals_one_forward_pass(decoder: Decoder) -> None:
    prompts = [random_tokens(seed, 50) for seed in range(4)]
    starts = (3, 1, 20, 11)
    cache = new_cache(decoder, 4)
    for slot, start in enumerate(starts):
        step(decoder, cache, [(slot, 0, prompts[slot][:start])])
    for offset in range(30):
        logits = step(
            decoder,
            cache,
            [
                (slot, start + offset, [prompts[slot][start + offset]])
                for slot, start in enumerate(starts)
            ],
        )

    for slot, start in enumerate(starts):
        expected = _alone(decoder, prompts[slot][: start + 30])
        torch.testing.assert_close(logits[slot], expected, atol=TOLERANCE, rtol=0)


def test_blocks_that_are_used_again_forget_the_last_request(decoder: Decoder) -> None:
    cache = new_cache(decoder, 2)
    step(decoder, cache, [(0, 0, random_tokens(1, 64)), (1, 0, random_tokens(2, 40))])
    prompt, other = random_tokens(3, 9), random_tokens(4, 30)
    step(decoder, cache, [(0, 0, prompt[:8]), (1, 0, other[:29])])

    logits = step(decoder, cache, [(0, 8, prompt[8:]), (1, 29, other[29:])])

    torch.testing.assert_close(logits[0], _alone(decoder, prompt), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(logits[1], _alone(decoder, other), atol=TOLERANCE, rtol=0)


def test_logits_are_fp32_at_every_number_format(helmsman: Path) -> None:
    for dtype in ("bf16", "fp16", "fp32"):
        decoder = load_decoder(helmsman, dtype)
        assert _alone(decoder, [1, 2, 3]).dtype == torch.float32
