"""How a server calls its decoder: from recorded graphs where it can, else launch by launch."""

from collections.abc import Callable, Sequence

import torch

from aweigh_kernels.draft_line import PAIR
from aweigh_runtime.model.cache import KVCache
from aweigh_runtime.model.chains import Chain
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.graph_sizes import Size, chain_bytes, graph_bytes, graph_sizes
from aweigh_runtime.model.step_inputs import Tokens

Step = Callable[[Tokens, Sequence[Chunk]], torch.Tensor]
"""`Decoder.forward` over one cache; the next call may write over the logits of the last one."""


def launched(decoder: Decoder, cache: KVCache) -> Step:
    """Launch by launch."""

    def step(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        return decoder.forward(tokens, chunks, cache)

    return step


def recorded_bytes(decoder: Decoder, most_requests: int, longest_draft: int = 0) -> int:
    """About what `recorded` keeps on a GPU; arguments are its own."""
    if not decoder.recordable:
        return 0
    return graph_bytes(decoder.config, decoder.dtype.itemsize, most_requests, longest_draft)


def recorded(decoder: Decoder, cache: KVCache, most_requests: int, longest_draft: int = 0) -> Step:
    """The same, with decode steps replayed from graphs where that is possible. Takes seconds.

    Args:
        decoder: its weights stay where they are from now on.
        cache: likewise.
        most_requests: that decode together.
        longest_draft: tokens that are verified behind a request's own; 0: nobody drafts.
    """
    step = launched(decoder, cache)
    if not decoder.recordable:
        return step
    from aweigh_runtime.model import decode_graphs  # its kernels need Triton, which may be missing

    wanted = graph_sizes(min(most_requests, cache.num_blocks), longest_draft)
    sizes = decode_graphs.recordable(decoder, cache, wanted)
    if not sizes:
        return step
    graphs = decode_graphs.DecodeGraphs(decoder, cache, sizes)

    def replayed(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        found = graphs.forward(tokens, chunks)
        return step(tokens, chunks) if found is None else found

    return replayed


def chained_bytes(decoder: Decoder, most_requests: int) -> int:
    """About what `chained` keeps on a GPU; arguments are its own."""
    if not decoder.recordable:
        return 0
    return chain_bytes(decoder.config, decoder.dtype.itemsize, most_requests)


def chained(
    decoder: Decoder, cache: KVCache, *, vocab_size: int, most_requests: int, longest: int
) -> Chain | None:
    """What drafts on the device alone; None: that is not possible. Takes seconds.

    Args:
        decoder: its weights stay where they are from now on.
        cache: likewise.
        vocab_size: tokens that can be drafted, if the decoder has them.
        most_requests: that draft together.
        longest: tokens of a draft.
    """
    if not decoder.recordable:
        return None
    from aweigh_runtime.model import decode_graphs, recorded_chain  # Triton may be missing

    steps = [Size(1, PAIR), Size(1, 1)]
    if decode_graphs.recordable(decoder, cache, steps) != steps:
        return None
    return recorded_chain.RecordedChain(
        decoder, cache, vocab_size=vocab_size, most_requests=most_requests, longest=longest
    )
