"""What a run has finished, in a folder beside the result, so that a killed run can go on.

    OUT.partial/
      rounded-0003.safetensors   a layer that is going to be trained
      steps-000120/              what is trained, after so many steps of training
      layer-0003.safetensors     tensors of a finished layer, as the result will have them
      layer-0003.streams         hidden states behind the last finished layer

A layer is finished when its file is there: the streams behind it are written before. A folder of
steps has its name once all of it is on the disk.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from aweigh_quantize.tensor_file import (
    CannotWrite,
    entry,
    make_folder,
    read_tensors,
    settle,
    write_tensors,
)
from aweigh_runtime.failures import StartFailure
from aweigh_runtime.model.header import read_header

_UNFINISHED = ".unfinished"


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


class Layers:
    """Those that are finished, of one kind."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._kind = kind

    def resumption(self) -> Resumption:
        """What is there already, and what of it is damaged."""
        finished = 0
        while self._path(finished).is_file():
            finished += 1
        damaged = frozenset(i for i in range(finished) if not _is_whole(self._path(i)))
        continues = finished > 0 and _is_whole(self._streams(finished - 1))
        return Resumption(finished, damaged, continues=continues)

    def finish(
        self, index: int, tensors: dict[str, torch.Tensor], streams: dict[str, torch.Tensor]
    ) -> None:
        """Keep a layer's tensors, and the hidden states behind it.

        Raises:
            CannotWrite: there is no room.
        """
        write_tensors(self._streams(index), [entry(*each) for each in streams.items()])
        self.replace(index, tensors)
        if index:
            self._streams(index - 1).unlink(missing_ok=True)

    def replace(self, index: int, tensors: dict[str, torch.Tensor]) -> None:
        """Keep a layer's tensors in place of damaged ones.

        Raises:
            CannotWrite: there is no room.
        """
        write_tensors(self._path(index), [entry(*each) for each in tensors.items()])

    def streams(self, index: int) -> dict[str, torch.Tensor]:
        """The hidden states behind a layer, by name; copies that may be changed."""
        return {name: found.clone() for name, found in read_tensors(self._streams(index)).items()}

    def tensors(self, index: int) -> dict[str, torch.Tensor]:
        """Of a finished layer: views of its file."""
        return read_tensors(self._path(index))

    def paths(self, count: int) -> list[Path]:
        """The files of the first layers."""
        return [self._path(index) for index in range(count)]

    def _path(self, index: int) -> Path:
        return self._folder / f"{self._kind}-{index:04}.safetensors"

    def _streams(self, index: int) -> Path:
        return self._folder / f"{self._kind}-{index:04}.streams"


class Steps:
    """What is trained, as it was after some step."""

    def __init__(self, folder: Path, num_layers: int) -> None:
        self._folder = folder
        self._num_layers = num_layers
        for path in folder.glob(f"steps-*{_UNFINISHED}"):  # of a run that was killed
            shutil.rmtree(path)
        whole = [path for path in self._folders() if self._has_all_layers(path)]
        self._finished = max((int(path.name.partition("-")[2]) for path in whole), default=0)

    def num_finished(self) -> int:
        """Steps that need not be done again."""
        return self._finished

    def tensors(self, index: int) -> dict[str, torch.Tensor]:
        """Of a layer, after the last finished step: views of its file; none before the first."""
        if not self._finished:
            return {}
        return read_tensors(self._folder / _steps(self._finished) / _numbered(index))

    def write(self, step: int, index: int, tensors: dict[str, torch.Tensor]) -> None:
        """Keep a layer's tensors.

        Raises:
            CannotWrite: there is no room.
        """
        folder = self._folder / (_steps(step) + _UNFINISHED)
        make_folder(folder)
        write_tensors(folder / _numbered(index), [entry(*each) for each in tensors.items()])

    def finish(self, step: int) -> None:
        """All layers are written: what was kept before is not needed any more.

        Raises:
            CannotWrite: the disk refuses.
        """
        path = self._folder / _steps(step)
        before = [each for each in self._folders() if each != path]
        try:
            if path.exists():  # damaged: else the step would not have been done again
                shutil.rmtree(path)
            path.with_name(path.name + _UNFINISHED).rename(path)
            settle(self._folder)
            for each in before:
                shutil.rmtree(each)
        except OSError as error:
            raise CannotWrite(path, error) from error
        self._finished = step

    def _has_all_layers(self, path: Path) -> bool:
        return all(_is_whole(path / _numbered(index)) for index in range(self._num_layers))

    def _folders(self) -> list[Path]:
        return [path for path in self._folder.glob("steps-*") if not path.suffix]


def _steps(count: int) -> str:
    return f"steps-{count:06}"


def _numbered(index: int) -> str:
    return f"{index:04}.safetensors"


def _is_whole(path: Path) -> bool:
    """A file has its name once it is written; what happens to it later, its header shows."""
    try:
        read_header(path)
    except (OSError, StartFailure):
        return False
    return True
