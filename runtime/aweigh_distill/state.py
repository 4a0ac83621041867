"""What a run has done, in a folder beside the result, so that a killed run can go on.

    OUT.partial/
      drawn-1-000.json, ...         what the target has written, 512 texts in each
      before.json                   what the draft was worth
      training-000120.safetensors   weights and optimizer behind so many steps
      training.json                 which of these files counts, and its SHA-256

The checksum is written last: what was being written when the run was killed does not count.
"""

import hashlib
import json
from pathlib import Path

import torch

from aweigh_quantize.tensor_file import entry, read_tensors, write_tensors, write_text
from aweigh_quantize.unfinished import Unfinished
from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.fields import read_object


class State(Unfinished):
    """The folder of one run."""

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self._current = self.folder / "training.json"

    def save(self, step: int, tensors: dict[str, torch.Tensor]) -> None:
        """Keep the state of training in the place of an earlier one.

        Raises:
            CannotWrite: there is no room.
        """
        path = self._file(step)
        write_tensors(path, [entry(*each) for each in tensors.items()])
        write_text(self._current, json.dumps({"step": step, "sha256": _sha256(path)}))
        for other in self.folder.glob("training-*"):
            if other != path:
                other.unlink()

    def saved(self) -> tuple[int, dict[str, torch.Tensor]] | None:
        """The last step kept, and its tensors; None: there is none.

        Raises:
            ModelUnreadable: the file is not what was written.
        """
        if not self._current.is_file():
            return None
        found = read_object(self._current)
        path = self._file(found["step"])
        if not path.is_file() or _sha256(path) != found["sha256"]:
            raise ModelUnreadable(
                f"{path} is not what was written: its SHA-256 is not the one in "
                f"{self._current.name}; remove {self._current} to train from the beginning"
            )
        return found["step"], read_tensors(path)

    def _file(self, step: int) -> Path:
        return self.folder / f"training-{step:06}.safetensors"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
