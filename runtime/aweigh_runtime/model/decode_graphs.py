"""Decode steps as CUDA graphs: recorded when a server starts, replayed by one launch each.

A step of a small batch takes less time on the GPU than the host needs to launch its kernels. A
graph has fixed shapes: a step runs in the smallest that takes it, and its padding is neither kept
nor seen. All graphs share one pool of memory, so what one has put out is gone with the next replay.

What a step reads is written by the host. Where few requests go on by a token each, as a draft does
again and again, a second graph moves it on by itself: of such steps only their tokens are new.

Sizes of several requests have a second graph, for steps in which some of them begin with the same
blocks: it reads these once, and the first one does not pay for it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from aweigh_kernels import common_attention_gpu, paged_attention_gpu
from aweigh_kernels.common_reads import CommonReads
from aweigh_kernels.dense import NARROW
from aweigh_runtime.model.cache import KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.common_blocks import LEAST_MEMBERS
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.fused import keeps
from aweigh_runtime.model.graph_sizes import Size, smallest
from aweigh_runtime.model.reads import paged_on_gpu, prompts
from aweigh_runtime.model.step_inputs import Inputs, StepInputs, Tokens
from aweigh_runtime.model.step_plan import Plan

_FEW = 16  # requests: of more, one begins a block in nearly every step


class DecodeGraphs:
    """The graphs of one decoder over one cache."""

    def __init__(self, decoder: Decoder, cache: KVCache, sizes: Sequence[Size]) -> None:
        """Record them; nothing is kept in the cache.

        Args:
            decoder: whose weights are in place, and stay there.
            cache: likewise.
            sizes: the one with most rows first; those that `recordable` has left.
        """
        self._decoder = decoder
        self._cache = cache
        unit_members = _unit_members(decoder, sizes)
        self._inputs = StepInputs(sizes, decoder.max_model_len, cache, unit_members)
        self._logits = torch.empty(
            sizes[0].rows, decoder.config.vocab_size, dtype=torch.float32, device=decoder.device
        )
        self._recorder = Recorder(decoder.device)
        self._graphs = {size: self._recorded(size) for size in sizes}
        few = [size for size in sizes if size.tokens_each == 1 and size.requests <= _FEW]
        self._following = {
            size: (self._recorded(size, follows=True), self._inputs.of(size).tokens) for size in few
        }
        self._of_common = {size: self._recorded(size, common=True) for size in unit_members}

    @torch.inference_mode()
    def forward(self, tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor | None:
        """Compute one step, as `Decoder.forward` does; the device is not waited for.

        Returns:
            [sum of num_logits, V], fp32, which the next step writes over. None: no graph takes it.

        Raises:
            IndexError: a chunk lies outside the cache.
        """
        size = smallest(self._graphs, chunks)
        if size is None:
            return None
        following = self._following.get(size)
        if following and isinstance(tokens, torch.Tensor) and self._inputs.goes_on(size, chunks):
            graph, own = following
            own[: len(tokens)].copy_(tokens)
            graph.replay()
        else:
            any_common = self._inputs.write(size, tokens, chunks)
            (self._of_common if any_common else self._graphs)[size].replay()
        return self._logits[: sum(chunk.num_tokens for chunk in chunks)]

    @property
    def sizes(self) -> Iterable[Size]:
        """That were recorded."""
        return self._graphs.keys()

    def replay_of(self, size: Size, *, common: bool = False) -> Callable[[], None]:
        """What computes the last step of a size again.

        Args:
            size: of the step.
            common: whether what requests have in common is read once.
        """
        return (self._of_common if common else self._graphs)[size].replay

    @torch.inference_mode()
    def _recorded(
        self, size: Size, *, common: bool = False, follows: bool = False
    ) -> torch.cuda.CUDAGraph:
        inputs = self._inputs.of(size)
        shared = inputs.common if common else None
        step = plan_of(self._decoder, self._cache, size, inputs, shared)
        output = self._logits[: size.rows]
        layers = self._cache.by_layer

        def compute() -> None:
            self._decoder.compute(inputs.tokens, layers, step, output)

        def go_on() -> None:
            inputs.move_on()
            compute()

        self._inputs.blank(size)
        compute()  # once before: kernels are compiled, and libraries take what they need
        return self._recorder.record(go_on if follows else compute)


class Recorder:
    """Records graphs that are replayed one after the other: they share what memory they need."""

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        # Nothing can be recorded on the stream that is there from the start. On this one nothing
        # runs: graphs are replayed where everything is computed, as products share memory.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # noqa: TID251

    def record(self, work: Callable[[], object]) -> torch.cuda.CUDAGraph:
        """What replays the launches of `work`; all that it needs has been compiled."""
        self._stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            work()
            graph.capture_end()
        return graph


def plan_of(
    decoder: Decoder, cache: KVCache, size: Size, inputs: Inputs, common: CommonReads | None
) -> Plan:
    """A step that reads what is in its inputs when it is replayed.

    Args:
        decoder: computes it.
        cache: where it reads and writes.
        size: of the step.
        inputs: of that size.
        common: what its requests have in common, if that is read once.
    """
    layouts: dict[Any, Any] = {}
    for window in {layer.window for layer in decoder.config.layers}:
        layouts[prompts, window] = []
        layouts[paged_on_gpu, window] = paged_attention_gpu.Reads(
            inputs.firsts,
            inputs.counts,
            inputs.seen,
            inputs.table,
            size.tokens_each,
            window,
            common if window is None else None,
        )
    return Plan(
        chunks=(),
        block_tokens=cache.block_tokens,
        token_bytes=cache.layers[0, 0, 0].nbytes,
        dtype=cache.dtype,
        table=np.zeros((0, 0), np.int64),
        positions=inputs.positions,
        slots=inputs.slots,
        logit_rows=slice(0, size.rows),
        begun=inputs.slots[:0],
        _layouts=layouts,
    )


def recordable(decoder: Decoder, cache: KVCache, sizes: Sequence[Size]) -> list[Size]:
    """The sizes whose steps our kernels compute from end to end; none for other decoders."""
    config, kv = decoder.config, cache.by_layer[0]
    if not decoder.recordable or not keeps(kv, decoder.dtype, decoder.device):
        return []
    shape = (1, config.num_heads, config.head_dim)
    query = torch.empty(shape, dtype=decoder.dtype, device=decoder.device)
    return [size for size in sizes if paged_attention_gpu.takes(query, kv.kept, size.tokens_each)]


def _unit_members(decoder: Decoder, sizes: Sequence[Size]) -> dict[Size, int]:
    """Requests that are read together at most, for sizes whose steps may have such."""
    config = decoder.config
    if decoder.dtype not in NARROW or all(layer.window is not None for layer in config.layers):
        return {}
    heads = config.num_heads, config.num_kv_heads
    found = {
        size: common_attention_gpu.unit_members(heads, config.head_dim, size.tokens_each)
        for size in sizes
        if size.requests >= LEAST_MEMBERS
    }
    return {size: members for size, members in found.items() if members}
