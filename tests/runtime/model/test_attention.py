"""Attention against its formula, written out for one token at a time in fp64."""

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_runtime.model.arithmetic import Arithmetic, Fast
from aweigh_runtime.model.attention import AttentionShape
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.exact import Exact
from aweigh_runtime.model.step_plan import plan
from tests.runtime.model.checkpoints import load_decoder, write_checkpoint

NUM_BLOCKS, BLOCK_TOKENS = 200, 16
SHAPES = [
    AttentionShape(4, 0.2),
    AttentionShape(4, 0.2, soft_cap=1.5),
    AttentionShape(4, 0.2, window=1),
    AttentionShape(4, 0.2, window=37),
    AttentionShape(4, 0.2, soft_cap=3.0, window=150),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """4 query heads and 2 key heads of 64 numbers: a few hundred tokens split a group."""
    directory = write_checkpoint(tmp_path_factory.mktemp("model"), head_dim=64)
    return load_decoder(directory).config


FP32 = CacheFormat(torch.float32, torch.float32)


def _cache(config: ModelConfig) -> KVCache:
    """One that earlier requests have filled."""
    cache = KVCache(config, NUM_BLOCKS, BLOCK_TOKENS, FP32, torch.device("cpu"))
    cache.layers.normal_(generator=torch.Generator().manual_seed(1))
    return cache


def _expected(
    heads: torch.Tensor, kv: torch.Tensor, chunks: Sequence[Chunk], shape: AttentionShape
) -> torch.Tensor:
    """`kv` holds the keys and values of the step already."""
    queries = heads[:, : shape.num_heads].double().unbind()
    found: list[torch.Tensor] = []
    for chunk in chunks:
        seen = kv[list(chunk.blocks)].flatten(0, 1).double()  # [tokens, 2K, D]
        keys, values = seen.repeat_interleave(2, 1).chunk(2, 1)
        for position in range(chunk.start, chunk.end):
            first = 0 if shape.window is None else max(position + 1 - shape.window, 0)
            visible = slice(first, position + 1)
            scores = torch.einsum("hd,thd->ht", queries[len(found)], keys[visible]) * shape.scale
            if shape.soft_cap is not None:
                scores = shape.soft_cap * (scores / shape.soft_cap).tanh()
            found.append(torch.einsum("ht,thd->hd", scores.softmax(-1), values[visible]).flatten())
    return torch.stack(found).float()


def _check(
    config: ModelConfig, arithmetic: Arithmetic, chunks: Sequence[Chunk], shape: AttentionShape
) -> None:
    cache = _cache(config)
    num_tokens = sum(chunk.num_tokens for chunk in chunks)
    heads = torch.randn(num_tokens, 8, 64, generator=torch.Generator().manual_seed(2))

    found = arithmetic.attend(heads, cache.by_layer[1], plan(chunks, cache), shape)

    torch.testing.assert_close(
        found, _expected(heads, cache.layers[1], chunks, shape), atol=1e-5, rtol=0
    )
    for layer in (0, 2, 3):
        assert torch.equal(cache.layers[layer], _cache(config).layers[layer])


each = pytest.mark.parametrize("arithmetic", [Fast, partial(Fast, by_torch=True), Exact])


@each
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@given(
    sizes=st.lists(
        st.tuples(st.integers(0, 350), st.just(1) | st.integers(1, 80)), min_size=1, max_size=7
    ),
    side_by_side=st.booleans(),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=12, deadline=None)
def test_every_token_sees_what_its_position_and_window_allow(
    config: ModelConfig,
    arithmetic: Callable[[], Arithmetic],
    shape: AttentionShape,
    sizes: list[tuple[int, int]],
    side_by_side: bool,
    order: Random,
) -> None:
    """`sizes` are (tokens already cached, tokens in the step): prompts, chunks and decodes."""
    free = list(range(NUM_BLOCKS))
    if not side_by_side:
        order.shuffle(free)
    chunks = []
    for cached, count in sizes:
        blocks = [free.pop() for _ in range(-(-(cached + count) // BLOCK_TOKENS))]
        chunks.append(Chunk(cached, count, sorted(blocks) if side_by_side else blocks))

    _check(config, arithmetic(), chunks, shape)


@each
def test_a_request_may_read_blocks_that_another_writes_in_the_same_step(
    config: ModelConfig, arithmetic: Callable[[], Arithmetic]
) -> None:
    writer = Chunk(0, 40, [7, 3, 9])
    readers = [Chunk(32, 1, [7, 3, 50]), Chunk(32, 5, [7, 3, 51]), Chunk(16, 30, [7, 60, 61])]

    _check(config, arithmetic(), [*readers, writer], AttentionShape(4, 0.2))
    _check(config, arithmetic(), [writer, *readers], AttentionShape(4, 0.2, window=20))


@each
def test_many_requests_of_many_lengths_are_read_together(
    config: ModelConfig, arithmetic: Callable[[], Arithmetic]
) -> None:
    """They may share blocks, as those do that begin alike."""
    lengths = [1, 2, 16, 17, 31, 120, 128, 129, 500, 700, 1100, 1104, 1900, 2047, 2048, 2049, 2100]
    chunks = [
        Chunk(length - 1, 1, [*range((length - 1) // BLOCK_TOKENS), 150 + i])
        for i, length in enumerate(lengths)
    ]

    _check(config, arithmetic(), chunks, AttentionShape(4, 0.2))
