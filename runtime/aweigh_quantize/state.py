"""What a run has finished, in a folder beside the result, so that a killed run can go on.

    OUT.partial/
      job.json                   what is being made, of which model, on which texts
      layer-0003.safetensors     tensors of a finished layer, as the result will have them
      stream-0003.safetensors    hidden states behind the last finished layer
      model/                     the result, while it is being written

A layer is finished when its file is there: the stream behind it is written before. The folder
`model` becomes OUT in one step once all of it is on the disk.
"""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

from aweigh_quantize.recipe import Recipe
from aweigh_quantize.tensor_file import (
    CannotWrite,
    entry,
    read_tensors,
    settle,
    write_tensors,
    write_text,
)
from aweigh_runtime.failures import StartFailure
from aweigh_runtime.fields import read_object
from aweigh_runtime.model.header import read_header

_SUFFIX = ".partial"

Found = TypeVar("Found")


class Occupied(ValueError):
    """There is something at OUT, or another run's work beside it."""


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
            raise CannotWrite(self.folder, error) from error
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

    def remembered(self, name: str, find_out: Callable[[], Found]) -> Found:
        """What took long to find out, in JSON: once only, however often the run is killed."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            write_text(path, json.dumps(find_out()))
        found: Found = json.loads(path.read_text())
        return found

    def complete(self) -> None:
        """Make the written model appear at OUT, and then remove everything else.

        Raises:
            CannotWrite: the disk refuses.
        """
        try:
            self.model.rename(self.out)
            settle(self.out.parent)
            shutil.rmtree(self.folder)
        except OSError as error:
            raise CannotWrite(self.out, error) from error

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


def _expect_alone(lock: IO[str], folder: Path) -> None:
    """A killed process holds no lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Occupied(
            f"another aweigh quantize is at work in {folder}; expected to be alone: wait for it, "
            "or choose another --output"
        ) from error
