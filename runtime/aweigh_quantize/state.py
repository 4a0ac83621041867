"""What a run has finished, in a folder beside the result, so that a killed run can go on.

    OUT.partial/
      job.json                   what is being made, of which model, on which texts
      rounded-0003.safetensors   a layer that is going to be trained
      steps-000120/              what is trained, after so many steps of training
      layer-0003.safetensors     tensors of a finished layer, as the result will have them
      layer-0003.streams         hidden states behind the last finished layer
      model/                     the result, while it is being written

A layer is finished when its file is there: the streams behind it are written before. A folder of
steps has its name, and `model` becomes OUT, in one step once all of it is on the disk.
"""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

from aweigh_quantize.recipe import Recipe
from aweigh_quantize.tensor_file import CannotWrite, entry, read_tensors, write_tensors, write_text
from aweigh_runtime.model.fields import read_object

_SUFFIX = ".partial"
_UNFINISHED = ".unfinished"

Found = TypeVar("Found")


class Occupied(ValueError):
    """There is something at OUT, or another run's work beside it."""


class State:
    """The folder of one run."""

    def __init__(self, out: Path) -> None:
        if not out.name:
            raise Occupied(f"--output is {str(out)!r}; expected the name of a new folder")
        self.out = out
        self.folder = out.with_name(out.name + _SUFFIX)
        self.model = self.folder / "model"

    @contextmanager
    def claimed(self, recipe: Recipe, subject: dict[str, Any]) -> Iterator[None]:
        """Begin, or go on with what the same command began; nobody else does meanwhile.

        Args:
            recipe: what is being made.
            subject: of which model and texts, in JSON.

        Raises:
            Occupied: OUT exists, or another command's work lies beside it, or is being done.
            CannotWrite: the folder cannot be made.
        """
        if self.out.exists():
            raise Occupied(f"--output is {self.out}, which exists already; expected a new name")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise CannotWrite(f"cannot write {self.folder}: {error.strerror}") from error
        with lock:
            _expect_alone(lock, self.folder)
            self._begin(recipe, subject)
            yield

    def _begin(self, recipe: Recipe, subject: dict[str, Any]) -> None:
        job = self.folder / "job.json"
        if job.is_file():
            self._expect_same(read_object(job), recipe, subject)
            return
        text = json.dumps({"recipe": asdict(recipe), "subject": subject}, indent=2)
        write_text(job, text + "\n")

    def remembered(self, name: str, find_out: Callable[[], Found]) -> Found:
        """What took long to find out, in JSON: once only, however often the run is killed."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            write_text(path, json.dumps(find_out()))
        found: Found = json.loads(path.read_text())
        return found

    def complete(self) -> None:
        """Make the written model appear at OUT, and remove everything else."""
        self.model.rename(self.out)
        shutil.rmtree(self.folder)

    def _expect_same(self, job: dict[str, Any], recipe: Recipe, subject: dict[str, Any]) -> None:
        found = recipe.difference(job.get("recipe", {}))
        if found is None:
            before = job.get("subject", {})
            changed = [name for name in subject if subject[name] != before.get(name)]
            found = f"the {changed[0]} is another one" if changed else None
        if found is not None:
            raise Occupied(
                f"{self.folder} holds the work of another command: {found}; expected the same "
                f"command, to go on, or another --output: else remove {self.folder}"
            )


class Layers:
    """Those that are finished, of one kind."""

    def __init__(self, state: State, kind: str) -> None:
        self._folder = state.folder
        self._kind = kind

    def num_finished(self) -> int:
        """Layers that need not be computed again."""
        count = 0
        while self._path(count).is_file():
            count += 1
        return count

    def finish(
        self, index: int, tensors: dict[str, torch.Tensor], streams: dict[str, torch.Tensor]
    ) -> None:
        """Keep a layer's tensors, and the hidden states behind it.

        Raises:
            CannotWrite: there is no room.
        """
        write_tensors(self._streams(index), [entry(*each) for each in streams.items()])
        write_tensors(self._path(index), [entry(*each) for each in tensors.items()])
        if index:
            self._streams(index - 1).unlink(missing_ok=True)

    def streams(self, index: int) -> dict[str, torch.Tensor]:
        """The hidden states behind a layer, by name; copies that may be changed."""
        return {name: found.clone() for name, found in read_tensors(self._streams(index)).items()}

    def tensors(self, index: int) -> dict[str, torch.Tensor]:
        """Of a finished layer: views of its file."""
        return read_tensors(self._path(index))

    def paths(self) -> list[Path]:
        """The files of all finished layers."""
        return [self._path(index) for index in range(self.num_finished())]

    def _path(self, index: int) -> Path:
        return self._folder / f"{self._kind}-{index:04}.safetensors"

    def _streams(self, index: int) -> Path:
        return self._folder / f"{self._kind}-{index:04}.streams"


class Steps:
    """What is trained, as it was after some step."""

    def __init__(self, state: State) -> None:
        self._folder = state.folder

    def num_finished(self) -> int:
        """Steps that need not be done again."""
        return max((int(path.name.partition("-")[2]) for path in self._finished()), default=0)

    def tensors(self, index: int) -> dict[str, torch.Tensor]:
        """Of a layer, after the last finished step: views of its file; none before the first."""
        step = self.num_finished()
        return read_tensors(self._folder / _steps(step) / _numbered(index)) if step else {}

    def write(self, step: int, index: int, tensors: dict[str, torch.Tensor]) -> None:
        """Keep a layer's tensors.

        Raises:
            CannotWrite: there is no room.
        """
        folder = self._folder / (_steps(step) + _UNFINISHED)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise CannotWrite(f"cannot write {folder}: {error.strerror}") from error
        write_tensors(folder / _numbered(index), [entry(*each) for each in tensors.items()])

    def finish(self, step: int) -> None:
        """All layers are written: what was kept before is not needed any more."""
        before = self._finished()
        (self._folder / (_steps(step) + _UNFINISHED)).rename(self._folder / _steps(step))
        for path in before:
            shutil.rmtree(path)

    def _finished(self) -> list[Path]:
        return [path for path in self._folder.glob("steps-*") if not path.suffix]


def _steps(count: int) -> str:
    return f"steps-{count:06}"


def _numbered(index: int) -> str:
    return f"{index:04}.safetensors"


def _expect_alone(lock: IO[str], folder: Path) -> None:
    """A killed process holds no lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Occupied(
            f"another aweigh quantize is at work in {folder}; expected to be alone: wait for it, "
            "or choose another --output"
        ) from error
