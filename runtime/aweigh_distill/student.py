"""A draft while it is trained: all its weights in fp32, and gradients to them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from aweigh_distill.batch import Batch, new_cache
from aweigh_quantize.checkpoint import Checkpoint
from aweigh_quantize.passage import Unshared
from aweigh_quantize.texts import Text
from aweigh_runtime.failures import ModelDoesNotFit
from aweigh_runtime.model.arithmetic import Fast
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.footprint import weight_bytes
from aweigh_runtime.model.mapped import FORMATS, rows_of
from aweigh_runtime.model.memory import available_bytes
from aweigh_runtime.model.placement import EMBEDDING, HEAD, Place, places
from aweigh_runtime.model.step_plan import plan
from aweigh_runtime.model.storage import Storage

_COPIES = 4  # of a weight: itself, its gradient, and the two moments of Adam
_WIDE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the result."""

    name: str  # in the checkpoint
    values: torch.Tensor  # as it is stored


class Student:
    """The draft."""

    def __init__(
        self, checkpoint: Checkpoint, texts: Sequence[Text], vocab_size: int, device: torch.device
    ) -> None:
        """Load it.

        Args:
            checkpoint: dense.
            texts: all that it will see.
            vocab_size: V of the target.
            device: where it is trained.

        Raises:
            ModelDoesNotFit: training takes more memory than is free.
        """
        config = checkpoint.config
        _expect_room(checkpoint, device)
        length = max(len(text.tokens) for text in texts)
        self._checkpoint = checkpoint
        self._places = list(places(config))
        self._decoder = Decoder(config, length, Storage(torch.float32, device, Fast()))
        checkpoint.fill(self._decoder.weights, self._places)
        self._cache = new_cache(self._decoder, texts, vocab_size)
        self.weights: Mapping[str, torch.Tensor] = self._decoder.weights  # by name
        for weight in self.weights.values():
            weight.requires_grad_()

    def logits(self, batch: Batch) -> torch.Tensor:
        """[R, V of the draft], through which gradients flow."""
        layers = [Unshared(kv) for kv in self._cache.layers]
        return self._decoder.compute(batch.tokens, layers, plan(batch.chunks, self._cache))

    def share_gradients(self) -> None:
        """Rows that one stored tensor fills stay the same: each gets the gradients of all."""
        for place in self._places:
            gradient = self.weights[place.weight].grad
            if place.repeats is not None and gradient is not None:
                rows = rows_of(gradient, place)
                rows.copy_(rows.sum(0, keepdim=True).expand_as(rows))

    def stored(self) -> Iterator[Stored]:
        """What was learned, rounded as the checkpoint stores it."""
        for place in self._places:
            yield Stored(self._checkpoint.own_name(place), self._rounded(place, place.name))
        # A tied head may be stored beside the embedding: it must not stay what it was.
        if self._checkpoint.config.tie_word_embeddings and HEAD in self._checkpoint.stored:
            place = next(place for place in self._places if place.name == EMBEDDING)
            yield Stored(self._checkpoint.stored[HEAD].name, self._rounded(place, HEAD))

    def _rounded(self, place: Place, name: str) -> torch.Tensor:
        rows = rows_of(self.weights[place.weight].detach(), place) - place.added
        values = rows if place.repeats is None else rows[0]
        return values.to(FORMATS[self._checkpoint.stored[name].dtype])


def _expect_room(checkpoint: Checkpoint, device: torch.device) -> None:
    needed = _COPIES * weight_bytes(checkpoint.config, _WIDE_BYTES)
    free = available_bytes(device)
    if needed > free:
        raise ModelDoesNotFit(
            f"training {checkpoint.directory} needs {needed / 1e9:.2f} GB beside the target, and "
            f"{free / 1e9:.2f} GB are free on {device}; expected a smaller draft, or more memory"
        )
