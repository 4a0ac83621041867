"""Chains of drafted tokens by two CUDA graphs for each size: one begins them, one goes on.

A step ends with the choice of the tokens that the next one reads, so a chain is one replay after
the other. Where it begins is found out on the device, too: behind whatever stays of the drafts that
a model is still verifying when the chain is launched.
"""

from collections.abc import Sequence

import numpy as np
import torch

from aweigh_kernels import draft_chain
from aweigh_kernels.draft_line import PAIR, Going, Lines
from aweigh_runtime.model.cache import KVCache
from aweigh_runtime.model.chains import Behind, Chained
from aweigh_runtime.model.decode_graphs import Recorder, plan_of
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.graph_sizes import MOST_CHAINED, Size, graph_sizes
from aweigh_runtime.model.step_inputs import Inputs
from aweigh_runtime.model.step_plan import on_device


class RecordedChain:
    """The chains of one decoder over one cache; see `chains.Chain`."""

    def __init__(
        self,
        decoder: Decoder,
        cache: KVCache,
        *,
        vocab_size: int,
        most_requests: int,
        longest: int,
    ) -> None:
        """Record them; nothing is kept in the cache.

        Args:
            decoder: whose weights are in place, and stay there; `decode_graphs.recordable` has left
                sizes of one token and of two.
            cache: likewise.
            vocab_size: tokens that can be drafted, if the decoder has them.
            most_requests: that draft together.
            longest: tokens of a chain.
        """
        self.most_requests = min(most_requests, MOST_CHAINED)
        self.longest = longest
        self._decoder = decoder
        self._cache = cache
        self._size = min(vocab_size, decoder.config.vocab_size)
        width = -(-decoder.max_model_len // cache.block_tokens)
        device, most = decoder.device, self.most_requests
        self._lines = Lines.empty(most, longest, width, cache.block_tokens, device)
        # Kept here, as graphs read it.
        self._firsts = torch.arange(most, dtype=torch.int32, device=device)
        self._firsts_of_pairs = self._firsts * PAIR
        self._logits = torch.empty(PAIR * most, decoder.config.vocab_size, device=device)
        self._recorder = Recorder(device)
        self._graphs = {
            size.requests: tuple(self._recorded(size.requests, each) for each in (PAIR, 1))
            for size in graph_sizes(most, 0)
        }

    @torch.inference_mode()
    def draft(self, behind: Behind, length: int) -> Chained:
        """See `chains.Chain`."""
        num_requests = len(behind.going.ends)
        size = min(each for each in self._graphs if each >= num_requests)
        device = self._decoder.device
        if behind.begun:
            self._cache.clear(on_device(np.array(behind.begun, np.int64), device))
        table = _table(behind.blocks)
        self._lines.table[:num_requests, : table.shape[1]].copy_(on_device(table, device))
        self._follow(size, behind.chosen, behind.drafted, behind.going)
        first, following = self._graphs[size]
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record()
        first.replay()
        for _ in range(length - 1):
            following.replay()
        ended.record()
        drafts = self._lines.drafts.first(num_requests)
        return Chained(drafts.tokens, drafts.confidences, lambda: began.elapsed_time(ended) / 1e3)

    def _follow(self, size: int, chosen: torch.Tensor, drafted: torch.Tensor, going: Going) -> None:
        draft_chain.follow(
            chosen,
            drafted,
            on_device(going.packed(), self._decoder.device),
            self._lines.first(size),
            last_token=self._decoder.config.vocab_size - 1,
        )

    def _inputs(self, lines: Lines, each: int) -> Inputs:
        """Where a step of so many tokens of each request finds what it reads."""
        read, firsts = (
            (lines.pair, self._firsts_of_pairs) if each == PAIR else (lines.read, self._firsts)
        )
        return Inputs(
            tokens=read.tokens,
            positions=read.positions,
            slots=read.slots,
            firsts=firsts[: len(lines.table)],
            counts=read.counts,
            seen=read.seen,
            table=lines.table,
            common=None,
        )

    @torch.inference_mode()
    def _recorded(self, num_requests: int, each: int) -> torch.cuda.CUDAGraph:
        """A step of so many tokens of each request, and the choice of those that come next."""
        size, lines = Size(num_requests, each), self._lines.first(num_requests)
        inputs = self._inputs(lines, each)
        step = plan_of(self._decoder, self._cache, size, inputs, None)
        logits = self._logits[: size.rows]

        def work() -> None:
            self._decoder.compute(inputs.tokens, self._cache.by_layer, step, logits)
            draft_chain.choose(logits, lines, size=self._size)

        nothing = inputs.tokens[:0]
        self._follow(num_requests, nothing, nothing.view(0, 0), Going((), (), (), (), ()))
        work()  # once before, of padding alone: kernels are compiled
        return self._recorder.record(work)


def _table(blocks: Sequence[Sequence[int]]) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """[R, widest]; behind a request's own blocks anything."""
    table = np.zeros((len(blocks), max(map(len, blocks))), np.int32)
    for line, each in zip(table, blocks, strict=True):
        line[: len(each)] = each
    return table
