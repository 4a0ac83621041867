"""Hidden states of all texts, on their way through a model, one layer at a time."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from aweigh_quantize.checkpoint import Checkpoint
from aweigh_quantize.observation import Observer, Seen
from aweigh_quantize.one_layer import OneLayer
from aweigh_quantize.texts import Text, batches, offsets, spans
from aweigh_runtime.model.arithmetic import Fast
from aweigh_runtime.model.cache import FP8, CacheFormat, KVCache, LayerCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.layers import CosSin
from aweigh_runtime.model.norm import Norm, norm
from aweigh_runtime.model.placement import outer_places
from aweigh_runtime.model.rope import angles_of
from aweigh_runtime.model.step_plan import Plan, plan
from aweigh_runtime.model.storage import Storage
from aweigh_runtime.model.vocabulary import Embedding, Head, embedding, head

_STEP_TOKENS = 8192  # that one call of a layer gets
_BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Step:
    """Texts that a layer gets in one call."""

    plan: Plan
    turns: Sequence[CosSin]


class Unshared(LayerCache):
    """Keys and values of one call alone, through which gradients flow."""

    def store(self, new: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """[T, 2K, D], as it comes."""
        self.kv = torch.zeros_like(self._rows).index_copy(0, slots, new).view(self.kv.shape)
        return new


class _Shown(LayerCache):
    """Shows what is stored."""

    def __init__(self, cache: LayerCache, observer: Observer) -> None:
        super().__init__(cache.kv)
        self._observer = observer

    def store(self, new: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        self._observer(new)
        return super().store(new, slots)


class Ends:
    """What stands before the first layer, and behind the last: either is read when it is used."""

    def __init__(self, checkpoint: Checkpoint, storage: Storage) -> None:
        self._checkpoint = checkpoint
        self._storage = storage

    @cached_property
    def embed(self) -> Embedding:
        """[T] to [T, N] before the first layer."""
        storage = self._empty()
        found = embedding(self._checkpoint.config, storage.within("embedding"))
        self._fill(storage)
        return found

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[T, N] behind the last layer to [T, V]."""
        finish, project = self._behind
        return project(finish(hidden))

    @cached_property
    def _behind(self) -> tuple[Norm, Head]:
        storage, config = self._empty(), self._checkpoint.config
        if config.tie_word_embeddings:
            embed = self.embed
        else:  # then nothing is multiplied with it: not read
            embed = embedding(config, self._empty().within("embedding"))
        found = norm(config, storage), head(config, embed, storage)
        self._fill(storage)
        return found

    def _empty(self) -> Storage:
        return replace(self._storage, weights={}, dense=[])

    def _fill(self, storage: Storage) -> None:
        places = outer_places(self._checkpoint.config)
        self._checkpoint.fill(storage.weights, (p for p in places if p.weight in storage.weights))


class Passage:
    """Texts laid out one after the other, [T, N] in fp32; every text is a request of its own."""

    def __init__(self, checkpoint: Checkpoint, texts: Sequence[Text], device: torch.device) -> None:
        self.texts = texts
        self.device = device
        self._checkpoint = checkpoint
        self._storage = Storage(torch.float32, device, Fast())
        self._lengths = [len(text.tokens) for text in texts]
        self._offsets = offsets(texts)
        self._steps = list(batches(self._lengths, _STEP_TOKENS))
        self._cache = self._kept_as(CacheFormat(torch.float32, torch.float32))
        positions = checkpoint.config.max_positions
        ropes = checkpoint.config.ropes
        self._angles = [angles_of(rope, positions, self._storage) for rope in ropes]

    @torch.no_grad()
    def embedded(self) -> torch.Tensor:
        """What the first layer gets."""
        return self.ends().embed(self.tokens(range(len(self.texts))))

    @torch.no_grad()
    def show(self, layer: OneLayer, hidden: torch.Tensor) -> None:
        """Let a layer compute as far as somebody observes it."""
        for rows, step in self._planned(self._cache):
            with suppress(Seen):
                layer.run(hidden[rows], step.turns, self._cache.by_layer[0], step.plan)

    @torch.no_grad()
    def show_cached(self, layer: OneLayer, hidden: torch.Tensor, observer: Observer) -> None:
        """Show the keys and values of all texts, [T, 2K, D] at a time, keys first."""
        kv = _Shown(self._cache.by_layer[0], observer)
        for rows, step in self._planned(self._cache):
            layer.run(hidden[rows], step.turns, kv, step.plan)

    @torch.no_grad()
    def advance(self, layer: OneLayer, hidden: torch.Tensor) -> None:
        """Put hidden states through a layer, in place; where it has scales, with a cache in fp8."""
        cache = self._cache
        if layer.cache_scales is not None:
            cache = self._kept_as(CacheFormat(torch.float32, FP8, layer.cache_scales[None]))
        for rows, step in self._planned(cache):
            found = layer.run(hidden[rows], step.turns, cache.by_layer[0], step.plan)
            hidden[rows] = found

    @torch.no_grad()
    def logits(self, *streams: torch.Tensor) -> Iterator[Iterator[torch.Tensor]]:
        """For each text the logits [T, V] behind the last layer, of each of some hidden states.

        They are computed one at a time, as they are asked for.
        """
        ends = self.ends()
        for rows in spans(self.texts):
            yield (ends.logits(hidden[rows]) for hidden in streams)

    def ends(self) -> Ends:
        """Of the dense model: they stay as they are."""
        return Ends(self._checkpoint, self._storage)

    def chosen(self, texts: Sequence[int]) -> Step:
        """Some of the texts, by number, for `trained`."""
        step = plan(list(_chunks([self._lengths[index] for index in texts])), self._cache)
        turns = [angles.at(step.positions, torch.float32) for angles in self._angles]
        return Step(step, turns)

    def trained(self, layer: OneLayer, hidden: torch.Tensor, step: Step) -> torch.Tensor:
        """What a layer puts out for some texts, [T, N]; gradients flow through it."""
        kv = Unshared(self._cache.layers[0])
        return layer.run(hidden, step.turns, kv, step.plan)

    def tokens(self, texts: Iterable[int]) -> torch.Tensor:
        """Of some texts, by number, [T]."""
        found = [token for index in texts for token in self.texts[index].tokens]
        return torch.tensor(found, device=self.device)

    def _planned(self, cache: KVCache) -> Iterator[tuple[slice, Step]]:
        """With the rows of the hidden states."""
        for run in self._steps:
            step = plan(list(_chunks(self._lengths[run.start : run.stop])), cache)
            rows = slice(self._offsets[run.start], self._offsets[run.stop])
            turns = [angles.at(step.positions, torch.float32) for angles in self._angles]
            cache.clear(step.begun)
            yield rows, Step(step, turns)

    def _kept_as(self, kept: CacheFormat) -> KVCache:
        """Of one layer: each is done with before the next begins."""
        config, device = self._checkpoint.config, self.device
        num_blocks = max(
            sum(-(-length // _BLOCK_TOKENS) for length in self._lengths[run.start : run.stop])
            for run in self._steps
        )
        one = replace(config, layers=config.layers[:1])
        return KVCache(one, num_blocks, _BLOCK_TOKENS, kept, device)


def _chunks(lengths: Sequence[int]) -> Iterator[Chunk]:
    first = 0
    for length in lengths:
        count = -(-length // _BLOCK_TOKENS)
        yield Chunk(0, length, range(first, first + count), 0)
        first += count
