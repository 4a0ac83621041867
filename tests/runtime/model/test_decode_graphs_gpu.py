"""Replayed steps against the same steps launched one kernel at a time, on a GPU."""

import warnings
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from aweigh_api.number_formats import KvCacheDTypeName, SchemeName
from aweigh_quantize.methods.grid import Grid
from aweigh_quantize.methods.sparse import magnitude
from aweigh_runtime.formats.gptq_layout import GptqLayout
from aweigh_runtime.formats.layout import Layout
from aweigh_runtime.formats.marlin24 import Marlin24Layout
from aweigh_runtime.model import common_blocks
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.common_blocks import groups_of
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.graph_sizes import Size, graph_sizes
from aweigh_runtime.model.load import Wish
from aweigh_runtime.model.random_weights import make_up
from aweigh_runtime.model.step_inputs import StepInputs, Tokens
from aweigh_runtime.model.step_plan import lay_out
from aweigh_runtime.sources.local import builtin
from tests.runtime.model.checkpoints import load_decoder, write_checkpoint, write_family
from tests.runtime.model.families import FAMILIES
from tests.runtime.model.quantized import Quantize, quantized_twins, round_to

pytestmark = pytest.mark.gpu

NUM_BLOCKS, BLOCK_TOKENS = 400, 16
VOCABULARY = 8192
CUDA = torch.device("cuda")


class Recorded:
    """A decoder and its graphs."""

    def __init__(self, decoder: Decoder, kept: KvCacheDTypeName = "auto", *, most: int = 4) -> None:
        from aweigh_runtime.model.decode_graphs import DecodeGraphs, recordable

        self.decoder = decoder
        format = CacheFormat.of(decoder.dtype, kept, None)
        self.cache = KVCache(decoder.config, NUM_BLOCKS, BLOCK_TOKENS, format, CUDA)
        sizes = recordable(decoder, self.cache, graph_sizes(most, 4 if most > 4 else 0))
        self.graphs = DecodeGraphs(decoder, self.cache, sizes)


class Steps:
    """Requests that have seen some tokens, in a cache that is theirs."""

    def __init__(self, recorded: Recorded) -> None:
        self.decoder, self.cache = recorded.decoder, recorded.cache
        self.graphs = recorded.graphs
        self.cache.layers.zero_()
        self.chance = Random(0)
        self.free = list(range(NUM_BLOCKS))
        self.chance.shuffle(self.free)

    def tokens(self, count: int) -> list[int]:
        return [self.chance.randrange(self.decoder.config.vocab_size) for _ in range(count)]

    def read(self, length: int, more: int = 0) -> Chunk:
        """A request that has so many tokens, and room for more."""
        count = -(-(length + more + 1) // BLOCK_TOKENS)
        blocks, self.free = self.free[:count], self.free[count:]
        if length:
            chunk = Chunk(0, length, blocks)
            self.decoder.forward(self.tokens(length), [chunk], self.cache)
        return Chunk(length, 1 + more, blocks, 1 + more)

    def alike(self, count: int, length: int, more: int) -> list[Chunk]:
        """Requests that begin with the same tokens, and have others and room for more behind."""
        num_common = length // BLOCK_TOKENS
        common, self.free = self.free[:num_common], self.free[num_common:]
        self.decoder.forward(self.tokens(length), [Chunk(0, length, common)], self.cache)
        chunks = []
        for index in range(count):
            own, self.free = self.free[:3], self.free[3:]
            behind = Chunk(length, 1 + index, [*common, *own])
            self.decoder.forward(self.tokens(1 + index), [behind], self.cache)
            chunks.append(Chunk(behind.end, 1 + more, behind.blocks, 1 + more))
        return chunks

    def both(self, chunks: list[Chunk]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of a step, replayed and launched; both write the same into the cache."""
        tokens = self.tokens(sum(chunk.num_tokens for chunk in chunks))
        replayed = self.graphs.forward(tokens, chunks)
        assert replayed is not None
        return replayed.clone(), self.decoder.forward(tokens, chunks, self.cache)


def expect_alike(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Parts of what attention sees are joined in another order: the last bits may differ."""
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 0.02 * expected.norm()
    best, other = expected.topk(2).values.unbind(-1)
    sure = best - other > 0.1 * expected.std()
    assert torch.equal(found.argmax(-1)[sure], expected.argmax(-1)[sure])


@contextmanager
def nobody_waits() -> Iterator[None]:
    """Whatever waits for the device fails."""
    with warnings.catch_warnings():  # that not everything is found
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    from tests.runtime.model.checkpoints import SHIPPED

    return load_decoder(SHIPPED / "helmsman-8m", "bf16", "cuda")


@pytest.fixture(scope="module")
def recorded(decoder: Decoder) -> Recorded:
    return Recorded(decoder, most=24)


@pytest.fixture
def steps(recorded: Recorded) -> Steps:
    return Steps(recorded)


def test_recording_keeps_nothing(decoder: Decoder) -> None:
    assert not Recorded(decoder).cache.layers.any()


def test_steps_of_every_number_of_requests_are_those_of_the_eager_decoder(steps: Steps) -> None:
    requests = [steps.read(7 * index) for index in range(24)]
    for count in (1, 2, 3, 4, 5, 8, 9, 16, 17, 24):
        expect_alike(*steps.both(requests[:count]))


def test_steps_that_go_on_by_themselves_are_those_that_are_written(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = [], StepInputs.write

    def noted(inputs: StepInputs, size: Size, tokens: Tokens, chunks: Sequence[Chunk]) -> bool:
        written.append([chunk.start for chunk in chunks])
        return write(inputs, size, tokens, chunks)

    monkeypatch.setattr(StepInputs, "write", noted)
    requests = [steps.read(16 * index + 3, more=40) for index in range(3)]
    with_tokens = torch.tensor(steps.tokens(3 * 40), device=CUDA).view(40, 3)
    for further, tokens in enumerate(with_tokens):
        # As the scheduler keeps them.
        chunks = [Chunk(each.start + further, 1, array("q", each.blocks), 1) for each in requests]
        expected = steps.decoder.forward(tokens, chunks, steps.cache)
        found = steps.graphs.forward(tokens, chunks)
        assert found is not None
        expect_alike(found, expected)
    assert [starts[0] for starts in written] == [3, 16, 32]  # the first, and beginnings of blocks


def test_lengths_change_under_one_graph(steps: Steps) -> None:
    for length in (0, 1, 15, 16, 17, 200, 31, 600, 1, 1023):
        expect_alike(*steps.both([steps.read(length)]))


def test_greedy_text_is_that_of_the_eager_decoder(steps: Steps) -> None:
    prompts = [steps.tokens(9 + index) for index in range(5)]
    texts: list[list[list[int]]] = []
    for replayed in (True, False):
        blocks = [range(4 * index, 4 * index + 4) for index in range(5)]
        chunks = [Chunk(0, len(prompt), blocks[i]) for i, prompt in enumerate(prompts)]
        packed = [token for prompt in prompts for token in prompt]
        new = steps.decoder.forward(packed, chunks, steps.cache).argmax(-1)
        text = [new.tolist()]
        for ahead in range(40):
            chunks = [Chunk(len(prompt) + ahead, 1, blocks[i]) for i, prompt in enumerate(prompts)]
            if replayed:
                logits = steps.graphs.forward(new, chunks)
                assert logits is not None
            else:
                logits = steps.decoder.forward(new, chunks, steps.cache)
            new = logits.argmax(-1)
            text.append(new.tolist())
        texts.append(text)
    assert texts[0] == texts[1]


def test_drafts_of_any_length_are_verified_in_a_graph(steps: Steps) -> None:
    for lengths in ([4], [4, 0, 2], [1, 1, 1, 1, 1], [0, 3, 4, 4, 2, 1, 0, 4]):
        expect_alike(*steps.both([steps.read(40 + more, more) for more in lengths]))


@pytest.mark.parametrize(("count", "more"), [(24, 0), (9, 0), (8, 4)])
def test_what_requests_have_in_common_is_read_once(
    steps: Steps, count: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common_blocks, "LEAST_POSITIONS", 128)
    monkeypatch.setattr(common_blocks, "LEAST_SAVED", 0)
    chunks = steps.alike(count, 320, more)
    places = lay_out(chunks, steps.cache)
    assert groups_of(places.table, places.starts, BLOCK_TOKENS)
    expect_alike(*steps.both(chunks))
    expect_alike(*steps.both([steps.read(100, more), *chunks[1:]]))
    expect_alike(*steps.both(chunks[:7]))  # too few


def test_padding_touches_no_block_and_disturbs_nobody(steps: Steps) -> None:
    steps.both([steps.read(60) for _ in range(24)])  # leaves its numbers in every array
    chunk = steps.read(20)
    others = [block for block in range(NUM_BLOCKS) if block not in chunk.blocks]
    steps.cache.layers[:, others] = float("nan")
    expect_alike(*steps.both([chunk]))
    crowd = [chunk, *(steps.read(0) for _ in range(4))]  # padded to 8
    found, expected = steps.both(crowd)
    assert found.isfinite().all()
    expect_alike(found, expected)
    own = {block for each in crowd for block in each.blocks}
    others = [block for block in range(NUM_BLOCKS) if block not in own]
    assert steps.cache.layers[:, others].isnan().all()


def test_tokens_of_the_device_are_those_of_a_list(steps: Steps) -> None:
    chunks = [steps.read(30), steps.read(3), steps.read(64)]
    tokens = steps.tokens(3)
    listed = steps.graphs.forward(tokens, chunks)
    assert listed is not None
    listed = listed.clone()
    there = steps.graphs.forward(torch.tensor(tokens, device="cuda"), chunks)
    assert there is not None
    assert torch.equal(listed, there)


def test_replays_repeat_to_the_bit(steps: Steps) -> None:
    chunks = [steps.read(300), steps.read(3)]
    tokens = steps.tokens(2)
    first = steps.graphs.forward(tokens, chunks)
    assert first is not None
    first = first.clone()
    for _ in range(20):
        steps.both([steps.read(1)])  # another graph in between
        again = steps.graphs.forward(tokens, chunks)
        assert again is not None
        assert torch.equal(first, again)


def test_nobody_waits_for_the_device(steps: Steps) -> None:
    decode, prompt = steps.read(30), Chunk(0, 40, steps.free[:3])
    tokens = steps.tokens(1)
    behind = Chunk(8, 30, steps.free[3:6])
    steps.decoder.forward(steps.tokens(71), [prompt, decode, behind], steps.cache)
    with nobody_waits():
        assert steps.graphs.forward(tokens, [decode]) is not None
        steps.decoder.forward(steps.tokens(71), [prompt, decode, behind], steps.cache)


def test_a_cache_of_8_bits_is_written_and_read_in_a_graph(decoder: Decoder) -> None:
    steps = Steps(Recorded(decoder, "fp8"))
    expect_alike(*steps.both([steps.read(100), steps.read(5), steps.read(33)]))


@pytest.mark.parametrize(
    "shape", [{"attention_bias": True, "mlp_bias": True}, {"num_key_value_heads": 4}], ids=str
)
def test_other_shapes(tmp_path: Path, shape: dict[str, Any]) -> None:
    directory = write_checkpoint(tmp_path, max_position_embeddings=1024, **shape)
    steps = Steps(Recorded(load_decoder(directory, "bf16", "cuda")))
    expect_alike(*steps.both([steps.read(100), steps.read(5), steps.read(33)]))


@pytest.mark.parametrize("family", ["Gemma 2", "Qwen 3", "Phi-4-mini"])
def test_other_families(tmp_path: Path, family: str) -> None:
    model_type, shape = FAMILIES[family]
    directory = write_family(tmp_path, model_type, **(shape | {"max_position_embeddings": 1024}))
    steps = Steps(Recorded(load_decoder(directory, "bf16", "cuda")))
    expect_alike(*steps.both([steps.read(100), steps.read(5), steps.read(33)]))


INTEGERS = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
SPARSE = INTEGERS | {"checkpoint_format": "marlin_24", "group_size": -1}


@pytest.mark.parametrize(
    ("layout", "quantize", "stated"),
    [
        (GptqLayout(bits=4, group=32), round_to(4, 32), INTEGERS),
        (Marlin24Layout(bits=4), partial(magnitude, grid=Grid(bits=4, group=-1)), SPARSE),
    ],
    ids=["integers", "2:4"],
)
def test_packed_integers_are_multiplied_in_a_graph(
    layout: Layout, quantize: Quantize, stated: dict[str, Any], tmp_path: Path
) -> None:
    sizes = {"intermediate_size": 128, "num_key_value_heads": 4}  # stripes of 64 outputs
    source = write_checkpoint(tmp_path / "source", max_position_embeddings=1024, **sizes)

    def rule(module: str) -> tuple[Layout, Quantize] | None:
        return (layout, quantize) if "model.layers." in module else None

    twins = quantized_twins(source, tmp_path, rule, stated)
    decoder = load_decoder(twins.quantized, "bf16", "cuda")
    assert decoder.recordable
    steps = Steps(Recorded(decoder))
    expect_alike(*steps.both([steps.read(100), steps.read(5), steps.read(33)]))
    with nobody_waits():
        steps.decoder.forward(steps.tokens(40), [Chunk(0, 40, steps.free[:3])], steps.cache)


@pytest.mark.parametrize("scheme", ["fp8", "int8", "int4"])
def test_weights_that_nobody_has_made_are_multiplied_in_a_graph(scheme: SchemeName) -> None:
    wish = Wish(dtype="bf16", max_model_len=1024, scheme=scheme)
    decoder = make_up(builtin("helmsman-8m"), wish, CUDA).decoder
    assert decoder.recordable
    steps = Steps(Recorded(decoder, "fp8"))
    expect_alike(*steps.both([steps.read(100), steps.read(5), steps.read(33)]))


def test_layers_with_a_window_read_what_is_in_common_for_each_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common_blocks, "LEAST_POSITIONS", 128)
    monkeypatch.setattr(common_blocks, "LEAST_SAVED", 0)
    model_type, shape = FAMILIES["Gemma 2"]
    directory = write_family(tmp_path, model_type, **(shape | {"max_position_embeddings": 1024}))
    steps = Steps(Recorded(load_decoder(directory, "bf16", "cuda"), most=8))
    expect_alike(*steps.both(steps.alike(8, 160, 0)))
