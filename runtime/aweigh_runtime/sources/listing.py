"""What a source holds and which of it a model needs. Pure: no network, no disk."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.formats.files import SIDE_FILES

WEIGHTS = "*.safetensors"
# Never *.py: no code of a model is run. Never *.bin: such files are pickles.
DESCRIPTIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "chat_template*",
    "model.safetensors.index.json",
    *SIDE_FILES,
)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file and what its bytes must be."""

    name: str
    size: int
    digest: str  # sha256:HEX, git:HEX (git's name for a blob); etag:… and layer:… are names only


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one version of a model."""

    version: str  # the same version always has the same bytes
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def needed(uri: str, names: Sequence[str]) -> set[str]:
    """Those names of one directory that make up a model.

    Raises:
        ModelUnreadable: they hold no model in safetensors.
    """
    if "config.json" not in names:
        raise ModelUnreadable(f"{uri} has no config.json; expected the directory of a model")
    # Some makers publish the weights twice, once in a format of their own.
    weights = _matching(names, ["model*.safetensors"]) or _matching(names, [WEIGHTS])
    if not weights:
        raise ModelUnreadable(
            f"{uri} has no *.safetensors; choose a model or revision that has, because other "
            "formats can run code or are not supported"
        )
    return weights | _matching(names, DESCRIPTIONS)


def may_be_needed(name: str) -> bool:
    """Whether a model could need a file of this name."""
    return bool(_matching([name], (WEIGHTS, *DESCRIPTIONS)))


def _matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    return {
        name
        for name in names
        for pattern in patterns
        if fnmatchcase(name, pattern) and "/" not in name
    }
