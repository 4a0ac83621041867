"""Exact arithmetic: a token's logits have the same bits in every schedule."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import silu

from aweigh_api.number_formats import KvCacheDTypeName, SchemeName
from aweigh_quantize.methods.fp4 import quantize
from aweigh_runtime.formats.fp4_layout import MODELOPT, Fp4Layout
from aweigh_runtime.formats.layout import Layout
from aweigh_runtime.formats.modules import in_layer
from aweigh_runtime.model.agreement import agreeing
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.exact import Exact
from aweigh_runtime.model.load import Wish, load
from tests.runtime.model.checkpoints import (
    BLOCK_TOKENS,
    SHIPPED,
    load_decoder,
    random_tokens,
    write_family,
)
from tests.runtime.model.families import FAMILIES
from tests.runtime.model.quantized import Quantize, quantized_twins

NUM_BLOCKS = 400


@dataclass(frozen=True)
class Kind:
    """What a decoder is made of."""

    family: str
    scheme: SchemeName = "auto"  # to which it is brought while it is loaded
    cached: KvCacheDTypeName = "auto"
    fp4: bool = False  # weights and activations


MODELS = {
    "helmsman-8m": Kind("helmsman-8m"),
    "Gemma 2": Kind("Gemma 2"),
    "Qwen 3 MoE": Kind("Qwen 3 MoE"),
    "Llama, dynamic": Kind("Llama, dynamic"),
    "fp8 activations": Kind("Llama 2", scheme="fp8"),
    "int8 activations": Kind("Llama 2", scheme="int8"),
    "fp4 activations": Kind("Llama 2", fp4=True),
    "fp8 cache": Kind("Gemma 2", cached="fp8"),
    "experts with fp8 activations": Kind("Qwen 3 MoE", scheme="fp8"),
    "experts with int8 activations and an fp8 cache": Kind("Mixtral", scheme="int8", cached="fp8"),
}


@dataclass(frozen=True)
class Subject:
    """A decoder, and how its keys and values are kept."""

    decoder: Decoder
    kept: CacheFormat

    def new_cache(self) -> KVCache:
        return _new_cache(self.decoder, self.kept)


@pytest.fixture(scope="module", params=MODELS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    kind = MODELS[request.param]
    decoder = _decoder(kind, tmp_path_factory.mktemp("model"))
    scales = torch.rand(decoder.config.num_layers, 2) if kind.cached == "fp8" else None
    return Subject(decoder, CacheFormat.of(decoder.dtype, kind.cached, scales))


def _decoder(kind: Kind, folder: Path) -> Decoder:
    if kind.family == "helmsman-8m":
        return load_decoder(SHIPPED / "helmsman-8m", exact=True)
    model_type, shape = FAMILIES[kind.family]
    longer = shape | {"max_position_embeddings": 512}
    directory = write_family(folder / "source", model_type, **longer)
    if kind.fp4:
        directory = _in_fp4(directory, folder)
    wish = Wish(dtype="fp32", scheme=kind.scheme, exact=True)
    return load(directory, wish, torch.device("cpu"), lambda done, total: None).decoder


def _in_fp4(directory: Path, folder: Path) -> Path:
    layout = Fp4Layout(spelling=MODELOPT, activations=True)
    scale = torch.tensor(2.0**-9, dtype=torch.float64)

    def rule(module: str) -> tuple[Layout, Quantize] | None:
        return (layout, partial(quantize, activation=scale)) if in_layer(module) else None

    said = {"quant_method": "modelopt_fp4", "quant_algo": "NVFP4", "ignore": ["lm_head"]}
    return quantized_twins(directory, folder, rule, said).quantized


@dataclass
class Request:
    """One of a random schedule. What it has in common with another is computed by that one."""

    tokens: list[int]
    blocks: list[int]
    source: "Request | None" = None
    common: int = 0
    computed: int = 0
    logits: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether all that it shares has been computed."""
        return self.source is None or (self.source.ready and self.source.computed >= self.common)


def _new_cache(decoder: Decoder, kept: CacheFormat | None = None) -> KVCache:
    kept = kept or CacheFormat(decoder.dtype, decoder.dtype)
    return KVCache(decoder.config, NUM_BLOCKS, BLOCK_TOKENS, kept, decoder.device)


def _num_blocks(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_TOKENS)


def _random_requests(random: Random, free: list[int], vocabulary: int) -> list[Request]:
    requests: list[Request] = []
    for seed in range(random.randint(1, 5)):
        tokens = random_tokens(seed, random.choice([1, 5, 40, 129, 200, 270]), vocabulary)
        source, common = None, 0
        if requests and random.random() < 0.5:
            source = random.choice(requests)
            full = min(len(source.tokens), len(tokens) - 1) // BLOCK_TOKENS
            common = random.randint(0, full) * BLOCK_TOKENS
            tokens[:common] = source.tokens[:common]
        blocks = [] if source is None else source.blocks[: common // BLOCK_TOKENS]
        blocks = [*blocks, *(free.pop() for _ in range(_num_blocks(len(tokens)) - len(blocks)))]
        requests.append(Request(tokens, blocks, source, common, common))
    return requests


def _step(decoder: Decoder, cache: KVCache, parts: list[tuple[Request, int]]) -> None:
    """Compute so many tokens of each request and keep their logits."""
    chunks = [
        Chunk(request.computed, count, request.blocks, num_logits=count) for request, count in parts
    ]
    tokens = [
        token
        for request, count in parts
        for token in request.tokens[request.computed : request.computed + count]
    ]
    logits = decoder.forward(torch.tensor(tokens), chunks, cache)
    for request, count in parts:
        mine, logits = logits[:count], logits[count:]
        request.logits |= dict(enumerate(mine, request.computed))
        request.computed += count


def _run(subject: Subject, random: Random, requests: list[Request], free: list[int]) -> None:
    cache = subject.new_cache()
    while open_requests := [r for r in requests if r.computed < len(r.tokens)]:
        parts = []
        for request in random.sample(open_requests, random.randint(1, len(open_requests))):
            if not request.ready:
                continue
            alone = all(other.source is not request for other in requests)
            if alone and random.random() < 0.1 and len(free) > len(request.blocks):  # preempted
                request.blocks = [free.pop() for _ in request.blocks]
                request.computed, request.source = 0, None
            left = len(request.tokens) - request.computed
            parts.append((request, min(left, random.choice([1, 2, 7, 33, 130, 300]))))
        if parts:
            _step(subject.decoder, cache, parts)


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=8, deadline=None)
def test_every_schedule_gives_the_logits_of_each_request_alone(subject: Subject, seed: int) -> None:
    """Chunks, batches, blocks, shared beginnings and preemptions are drawn at random."""
    random = Random(seed)
    free = list(range(NUM_BLOCKS))
    random.shuffle(free)
    requests = _random_requests(random, free, subject.decoder.config.vocab_size)

    _run(subject, random, requests, free)

    for request in requests:
        alone = Request(request.tokens, list(range(_num_blocks(len(request.tokens)))))
        _step(subject.decoder, subject.new_cache(), [(alone, len(alone.tokens))])
        for position, logits in request.logits.items():
            assert torch.equal(logits, alone.logits[position]), position


def test_one_request_that_shares_a_chunk_with_another_of_the_same_step_is_exact(
    subject: Subject,
) -> None:
    decoder = subject.decoder
    tokens = random_tokens(1, 60, decoder.config.vocab_size)
    first, second = Request(tokens[:50], [9, 4, 6, 2]), Request(tokens, [9, 4, 6, 7])
    second.computed = 48
    alone = Request(tokens, [0, 1, 2, 3])
    _step(decoder, subject.new_cache(), [(alone, 60)])

    _step(decoder, subject.new_cache(), [(second, 12), (first, 50)])

    for request in (first, second):
        for position, logits in request.logits.items():
            assert torch.equal(logits, alone.logits[position])


SMALL = (*range(1, 20), 31, 32, 33, 63, 64, 65)


@pytest.mark.parametrize(
    ("num_threads", "sizes"),
    [(1, (*SMALL, 100, 128, 129, 255, 256, 257, 300)), (2, (1, 2, 3, 4, 5, 8, 9, 13, 16, 33, 70))],
)
def test_a_decoded_token_is_the_same_beside_0_to_299_others(
    num_threads: int, sizes: tuple[int, ...]
) -> None:
    torch.set_num_threads(num_threads)
    decoder = load_decoder(SHIPPED / "helmsman-8m", exact=True)
    prompt = random_tokens(5, 33, 8192)
    cache = _new_cache(decoder)
    shared = Request(prompt, [0, 1, 399])
    _step(decoder, cache, [(shared, 32)])
    requests = [
        Request([*prompt[:32], random_tokens(i, 1, 8192)[0]], [0, 1, 2 + i]) for i in range(300)
    ]
    _step(decoder, cache, [(shared, 1)])

    for num_together in sizes:
        group = requests[:num_together]
        for request in group:
            request.computed = 32
        group[num_together // 2].tokens[32] = prompt[32]
        _step(decoder, cache, [(request, 1) for request in group])
        assert torch.equal(group[num_together // 2].logits[32], shared.logits[32]), num_together


@pytest.mark.parametrize("exact", [False, True])
def test_a_chunk_gives_as_many_logits_as_it_asks_for(exact: bool) -> None:
    decoder = load_decoder(SHIPPED / "helmsman-8m", exact=exact)
    cache, tokens = _new_cache(decoder), torch.arange(8)
    every = decoder.forward(tokens, [Chunk(0, 8, [0], num_logits=8)], cache)
    parts = [Chunk(0, 3, [1], num_logits=0), Chunk(0, 5, [2], num_logits=2)]
    last = decoder.forward(torch.cat((tokens[:3], tokens[:5])), parts, cache)
    none = decoder.forward(tokens[:3], parts[:1], cache)

    torch.testing.assert_close(last, every[3:5], atol=1e-4, rtol=0)
    assert none.shape == (0, 8192)


def test_far_into_a_long_request_the_cut_of_the_prompt_does_not_matter(tmp_path: Path) -> None:
    """Beyond 2048 tokens keys are weighed in several spans."""
    shape = {"max_position_embeddings": 4096, "num_hidden_layers": 2, "sliding_window": 1500}
    directory = write_family(tmp_path, "mistral", **shape)
    decoder = load_decoder(directory, exact=True)
    tokens = random_tokens(8, 2300)
    whole = Request(tokens, list(range(144)))
    cut = Request(tokens, list(reversed(range(200, 344))))
    _step(decoder, _new_cache(decoder), [(whole, 2300)])

    cache = _new_cache(decoder)
    for count in (1000, 1040, 1, 30, 228, 1):
        _step(decoder, cache, [(cut, count)])

    assert all(torch.equal(cut.logits[i], whole.logits[i]) for i in range(2300))


@pytest.mark.parametrize("width", [24, 96, 97, 768])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_row_operation_gives_each_row_the_same_bits_wherever_it_is(
    width: int, num_threads: int
) -> None:
    """As it is, silu does not: what is beyond the last whole vector takes another path."""
    torch.set_num_threads(num_threads)
    x = torch.randn(700, width, generator=torch.Generator().manual_seed(0))
    exact = Exact()
    alone = torch.cat([exact.by_rows(silu, row[None], width) for row in x])

    for count in (*range(2, 40), 63, 64, 65, 129, 300, 700):
        assert torch.equal(exact.by_rows(silu, x[-count:], width), alone[-count:])


def test_shapes_whose_rows_disagree_are_not_used() -> None:
    x = torch.randn(64, 3)

    def another_way_for_16(rows: torch.Tensor) -> torch.Tensor:
        return rows + (1e-7 if len(rows) == 16 else 0)

    def by_place(rows: torch.Tensor) -> torch.Tensor:
        return rows + 1e-6 * torch.arange(len(rows))[:, None]

    assert agreeing([lambda rows: rows * 2], x, (64, 16, 4)) == (64, 16, 4)
    assert agreeing([another_way_for_16], x, (64, 16, 4)) == (64, 4)
    assert agreeing([lambda rows: rows + 0, another_way_for_16], x, (64, 16, 4)) == (64, 4)
    assert agreeing([by_place], x, (64, 16, 4)) == (1,)
