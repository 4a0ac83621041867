"""The layers of an artifact, laid over one another, and the model's directory among them."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.sources.archive import REMOVAL, unpack
from aweigh_runtime.sources.listing import RemoteFile, needed
from aweigh_runtime.sources.manifest import Layer

MAX_FILES = 10_000
_ALL_BEFORE = ".wh..opq"  # after REMOVAL: everything that earlier layers put in this directory


def blob_name(layer: Layer) -> str:
    """The file that a layer is downloaded to."""
    return layer.digest.replace(":", "-")


class Tree:
    """Files by their path in the artifact; of two layers the later one counts."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._files: dict[str, Path | None] = {}

    def put(self, path: str, content: Path | None) -> None:
        """Add a file, a link (None), or the mark that removes what is beneath it."""
        folder, _, name = path.rpartition("/")
        if not name.startswith(REMOVAL):
            self._files[path] = content
            if len(self._files) > MAX_FILES:
                raise ModelUnreadable(
                    f"{self._uri} holds more than {MAX_FILES} files that a model could need; "
                    "expected the files of one model"
                )
            return
        removed = name.removeprefix(REMOVAL)
        gone = folder if removed == _ALL_BEFORE else f"{folder}/{removed}".lstrip("/")
        for other in [other for other in self._files if f"{other}/".startswith(f"{gone}/")]:
            del self._files[other]

    def model(self) -> dict[str, Path]:
        """The files of the one directory that holds a model, by name.

        Raises:
            ModelUnreadable: no directory does, several do, or one of its files is a link.
        """
        folder = self._folder()
        inside = {path.rpartition("/")[2]: path for path in self._files if _folder(path) == folder}
        model = {}
        for name in needed(self._uri, list(inside)):
            content = self._files[inside[name]]
            if content is None:
                raise ModelUnreadable(
                    f"{self._uri}: {inside[name]} is a link; expected the file itself"
                )
            model[name] = content
        return model

    def _folder(self) -> str:
        weights = {_folder(path) for path in self._files if path.endswith(".safetensors")}
        described = {_folder(path) for path in self._files if _name(path) == "config.json"}
        found = sorted(
            (weights & described) or weights or described,
            key=lambda folder: (_depth(folder), folder),
        )
        if len(found) > 1 and _depth(found[0]) == _depth(found[1]):
            raise ModelUnreadable(
                f"{self._uri} holds models in {found[0]!r} and in {found[1]!r}; expected one"
            )
        return found[0] if found else ""


def collect(uri: str, layers: Sequence[Layer], blobs: Path, staging: Path) -> Tree:
    """Lay the downloaded layers over one another."""
    tree = Tree(uri)
    for layer in layers:
        blob = blobs / blob_name(layer)
        if layer.form == "file":
            tree.put(layer.path, blob)
            continue
        for path, content in unpack(
            uri, blob, compressed=layer.form == "tar+gzip", staging=staging
        ):
            tree.put(path, content)
    return tree


def place(model: dict[str, Path], target: Path) -> tuple[RemoteFile, ...]:
    """Give the files of a model their names, and say what they are."""
    uses = Counter(model.values())
    files = []
    for name, content in model.items():
        files.append(RemoteFile(name, content.stat().st_size, f"layer:{content.name}"))
        uses[content] -= 1
        if uses[content]:  # two names for the same bytes
            shutil.copyfile(content, target / name)
        else:
            content.replace(target / name)
    return tuple(files)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _depth(folder: str) -> int:
    return len(folder.split("/")) if folder else 0
