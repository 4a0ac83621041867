"""A folder beside a result, in which it is made; it becomes the result in one step.

OUT.partial/
  lock        held by whoever is at work
  job.json    what is being made, and of what
  model/      the result, while it is being written
  written     model/ is whole: where it is gone, it has become the result
"""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from aweigh_quantize.failures import Refusal
from aweigh_quantize.tensor_file import CannotWrite, settle, write_text
from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.fields import read_object

_SUFFIX = ".partial"
_BEGUN = {"lock", "job.json"}  # files of a run that has not finished anything

Found = TypeVar("Found")


class Occupied(Refusal):
    """There is something at OUT, or another run's work beside it."""


class Unfinished:
    """The folder of one run; a killed run can go on in it."""

    def __init__(self, out: Path) -> None:
        if not out.name:
            raise Occupied(f"--output is {str(out)!r}; expected the name of a new folder")
        self.out = out
        self.folder = out.with_name(out.name + _SUFFIX)
        self.model = self.folder / "model"
        self._written = self.folder / "written"

    @contextmanager
    def claimed(self, recipe: Mapping[str, Any], subject: Mapping[str, Any]) -> Iterator[None]:
        """Begin, or go on with what the same command began; nobody else does meanwhile.

        Args:
            recipe: what is being made: flags, with `_` for `-`, and their values.
            subject: of which model and texts.

        Raises:
            Occupied: OUT exists, or another command's work lies beside it, or is being done.
            CannotWrite: the folder cannot be made, or what is left of it cannot be removed.
        """
        if self.out.exists():
            self._remove_if_all_is_done()
            raise Occupied(f"--output is {self.out}, which exists already; expected a new name")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise CannotWrite(self.folder, error) from error
        with lock:
            _expect_alone(lock, self.folder)
            self._begin({"recipe": recipe, "subject": subject})
            try:
                yield
            finally:
                self._remove_if_nothing_is_done()

    def remembered(self, name: str, find_out: Callable[[], Found]) -> Found:
        """What took long to find out, in JSON: once only, however often the run is killed.

        Raises:
            ModelUnreadable: the file is not what was written.
        """
        path = self._path(name)
        if not self.remembers(name):
            write_text(path, json.dumps(find_out()))
        try:
            found: Found = json.loads(path.read_text())
        except ValueError as error:
            raise ModelUnreadable(
                f"{path} is not what was written ({error}); remove it to have it found out again"
            ) from error
        return found

    def remembers(self, name: str) -> bool:
        """Whether it was found out already."""
        return self._path(name).is_file()

    def complete(self) -> None:
        """Make the written model appear at OUT, and then remove everything else.

        Raises:
            CannotWrite: the disk refuses.
        """
        write_text(self._written, "")
        try:
            self.model.rename(self.out)
            settle(self.out.parent)
            self._remove()
        except OSError as error:
            raise CannotWrite(self.out, error) from error

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _remove(self) -> None:
        """What says that it may be removed goes last."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != self._written:
                path.unlink()
        shutil.rmtree(self.folder)

    def _remove_if_all_is_done(self) -> None:
        """What a run leaves that is killed when its result has just appeared."""
        if not self._written.is_file() or self.model.exists():
            return
        try:
            with (self.folder / "lock").open("w") as lock:
                _expect_alone(lock, self.folder)
                self._remove()
        except OSError as error:
            raise CannotWrite(self.folder, error) from error

    def _remove_if_nothing_is_done(self) -> None:
        """Else what was refused would stand in the way of the corrected command."""
        if self.folder.is_dir() and {each.name for each in self.folder.iterdir()} == _BEGUN:
            shutil.rmtree(self.folder)

    def _begin(self, job: dict[str, Mapping[str, Any]]) -> None:
        path, text = self.folder / "job.json", json.dumps(job, indent=2)
        if not path.is_file():
            write_text(path, text + "\n")
            return
        try:
            found = _difference(json.loads(text), read_object(path))
        except ModelUnreadable as error:
            found = f"its job.json cannot be read: {error}"
        if found is not None:
            raise Occupied(
                f"{self.folder} holds the work of another command: {found}; expected the same "
                f"command, to go on, or another --output: else remove {self.folder}"
            )


def _difference(job: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The first in which another job differs; None: in nothing."""
    recipe, subject = other.get("recipe"), other.get("subject")
    if not isinstance(recipe, dict) or not isinstance(subject, dict):
        return "its job.json does not say what it is"
    for name, value in job["recipe"].items():
        if value != recipe.get(name):
            return f"--{name.replace('_', '-')} is {value}, and was {recipe.get(name)}"
    for name, value in job["subject"].items():
        if value != subject.get(name):
            return f"the {name} is another one"
    return None


def _expect_alone(lock: IO[str], folder: Path) -> None:
    """A killed process holds no lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Occupied(
            f"another aweigh command is at work in {folder}; expected to be alone: wait for it, "
            "or choose another --output"
        ) from error
