"""Chains of drafted tokens on a GPU against the same steps, each launched by the host."""

import pytest
import torch

from aweigh_kernels.draft_line import Going
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chains import Behind, Chain
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.stepping import chained
from tests.runtime.model.checkpoints import SHIPPED, load_decoder
from tests.runtime.model.test_decode_graphs_gpu import nobody_waits

pytestmark = pytest.mark.gpu

BLOCK_TOKENS, BLOCKS_EACH, LONGEST = 16, 6, 7
CUDA = torch.device("cuda")


class Drafting:
    """A small model, its cache, and texts that it reads."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        format = CacheFormat.of(decoder.dtype, "auto", None)
        self.cache = KVCache(decoder.config, 40, BLOCK_TOKENS, format, CUDA)
        self.vocab_size = decoder.config.vocab_size
        size = self.vocab_size
        made = chained(decoder, self.cache, vocab_size=size, most_requests=6, longest=LONGEST)
        assert made is not None
        self.chain: Chain = made

    def blocks(self, request: int) -> list[int]:
        return list(range(request * BLOCKS_EACH, (request + 1) * BLOCKS_EACH))[::-1]

    def greedy(self, request: int, text: list[int], count: int) -> list[int]:
        """What the model says behind a text, which it reads."""
        chunk = Chunk(0, len(text), self.blocks(request))
        tokens, said = text, []
        for _ in range(count):
            said.append(int(self.decoder.forward(tokens, [chunk], self.cache).argmax(-1)))
            chunk, tokens = Chunk(chunk.end, 1, self.blocks(request)), said[-1:]
        return said


@pytest.fixture(scope="module")
def drafting() -> Drafting:
    return Drafting(load_decoder(SHIPPED / "helmsman-1m-draft", "bf16", "cuda"))


def test_recording_keeps_nothing(drafting: Drafting) -> None:
    fresh = Drafting(drafting.decoder)
    assert not fresh.cache.layers.any()


@pytest.mark.parametrize("num_requests", [1, 3, 6])
def test_a_chain_says_what_the_model_says_behind_whatever_stays(
    drafting: Drafting, num_requests: int
) -> None:
    """Texts end before, at and behind the end of a block; of drafts none, some and all stay."""
    rooms = [LONGEST - request for request in range(num_requests)]
    texts = [[(7 * i + request) % 500 + 100 for i in range(13 + 2 * request)]
             for request in range(num_requests)]  # fmt: skip
    expected = [drafting.greedy(i, text, 3 * LONGEST) for i, text in enumerate(texts)]
    for request, text in enumerate(texts):
        drafting.greedy(request, text[:-2], 1)
    going = Going(
        firsts=range(num_requests),
        counts=[0] * num_requests,
        ends=[len(text) - 1 for text in texts],
        lasts=[text[-2] for text in texts],
        rooms=rooms,
    )
    newest = torch.tensor([text[-1] for text in texts], device=CUDA)
    blocks = [drafting.blocks(request) for request in range(num_requests)]
    behind = Behind(newest, newest.new_empty(num_requests, 0), going, blocks, [])
    with nobody_waits():
        found = drafting.chain.draft(behind, max(rooms))
    drafted = [found.tokens[i, :room].tolist() for i, room in enumerate(rooms)]
    expect_mostly(drafted, [said[:room] for said, room in zip(expected, rooms, strict=True)])
    assert float(found.confidences[0].min()) > 0.0
    assert found.seconds() > 0.0

    # As if the model had said the same, and then, behind some of it, something else.
    kept = [min(request, room) for request, room in enumerate(rooms)]
    said = []
    for request, room in enumerate(rooms):
        other = (drafted[request][kept[request]] + 1) % 500 if kept[request] < room else 100
        said += [*drafted[request][: kept[request]], other, *[3] * (room - kept[request])]
    texts = [[*text, *drafted[i][: kept[i]], said[sum(rooms[:i]) + i + kept[i]]]
             for i, text in enumerate(texts)]  # fmt: skip
    going = Going(
        firsts=[sum(rooms[:i]) + i for i in range(num_requests)],
        counts=rooms,
        ends=[len(text) - kept[i] - 1 for i, text in enumerate(texts)],
        lasts=[text[-2 - kept[i]] for i, text in enumerate(texts)],
        rooms=[LONGEST] * num_requests,
    )
    behind = Behind(torch.tensor(said, device=CUDA), found.tokens, going, blocks, [])
    with nobody_waits():
        found = drafting.chain.draft(behind, LONGEST)
    drafted = found.tokens.tolist()
    expected = [drafting.greedy(i, text, LONGEST) for i, text in enumerate(texts)]
    expect_mostly(drafted, expected)


def expect_mostly(drafted: list[list[int]], expected: list[list[int]]) -> None:
    """Two tokens may be about as likely, and rounding in another order tells."""
    assert [len(each) for each in drafted] == [len(each) for each in expected]
    same = sum(found == wanted for found, wanted in zip(drafted, expected, strict=True))
    assert same >= len(drafted) - len(drafted) // 3, (drafted, expected)
