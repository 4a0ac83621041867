"""What a run has finished, in a folder beside the result, so that a killed run can go on.

    OUT.partial/
      layer-0003.safetensors     tensors of a finished layer, as the result will have them
      stream-0003.safetensors    hidden states behind the last finished layer

A layer is finished when its file is there: the stream behind it is written before.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from aweigh_quantize.tensor_file import entry, read_tensors, write_tensors
from aweigh_quantize.unfinished import Unfinished
from aweigh_runtime.failures import StartFailure
from aweigh_runtime.model.header import read_header


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a run goes on."""

    finished: int  # layers whose files are there
    damaged: frozenset[int]  # those of them that cannot be read
    continues: bool  # the hidden states behind the last of them are there

    @property
    def recomputed(self) -> int:
        """The first layers that must be computed once more: to replace the damaged ones.

        Each layer is made behind those before it, and only the last one's hidden states are kept.
        """
        if not self.continues:
            return self.finished
        return max(self.damaged, default=-1) + 1

    @property
    def num_valid(self) -> int:
        """Layers that need not be computed."""
        return self.finished - self.recomputed


class State(Unfinished):
    """The folder of one run."""

    def resumption(self) -> Resumption:
        """What is there already, and what of it is damaged."""
        finished = 0
        while self._layer(finished).is_file():
            finished += 1
        damaged = frozenset(i for i in range(finished) if not _is_whole(self._layer(i)))
        continues = finished > 0 and _is_whole(self._stream(finished - 1))
        return Resumption(finished, damaged, continues=continues)

    def finish(
        self, index: int, tensors: dict[str, torch.Tensor], streams: dict[str, torch.Tensor]
    ) -> None:
        """Keep a layer's tensors, and the hidden states behind it.

        Raises:
            CannotWrite: there is no room.
        """
        write_tensors(self._stream(index), [entry(*each) for each in streams.items()])
        self.replace(index, tensors)
        if index:
            self._stream(index - 1).unlink(missing_ok=True)

    def replace(self, index: int, tensors: dict[str, torch.Tensor]) -> None:
        """Keep a layer's tensors in place of damaged ones.

        Raises:
            CannotWrite: there is no room.
        """
        write_tensors(self._layer(index), [entry(*each) for each in tensors.items()])

    def streams(self, index: int) -> dict[str, torch.Tensor]:
        """The hidden states behind a layer, by name; copies that may be changed."""
        return {name: found.clone() for name, found in read_tensors(self._stream(index)).items()}

    def layers(self, count: int) -> list[Path]:
        """The files of the first layers."""
        return [self._layer(index) for index in range(count)]

    def _layer(self, index: int) -> Path:
        return self.folder / f"layer-{index:04}.safetensors"

    def _stream(self, index: int) -> Path:
        return self.folder / f"stream-{index:04}.safetensors"


def _is_whole(path: Path) -> bool:
    """A file has its name once it is written; what happens to it later, its header shows."""
    try:
        read_header(path)
    except (OSError, StartFailure):
        return False
    return True
