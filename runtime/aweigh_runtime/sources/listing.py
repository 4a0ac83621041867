"""What a repository of the hub holds and which of it a model needs. Pure: no network, no disk."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from huggingface_hub.hf_api import ModelInfo, RepoSibling

from aweigh_runtime.failures import ModelUnreadable

COMMIT = re.compile(r"[0-9a-f]{40}")
# Never *.py: no code of a model is run. Never *.bin: such files are pickles.
DESCRIPTIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "chat_template*",
    "model.safetensors.index.json",
)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file and what its bytes must be."""

    name: str
    size: int
    digest: str  # SHA-256 of a large file's bytes; of a small one git's name for them, SHA-1
    large: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one commit that a model needs."""

    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def parse(uri: str, answer: Any) -> Listing:
    """Read the hub's answer about a repository.

    Raises:
        ValueError, TypeError, KeyError: this is not such an answer.
        ModelUnreadable: the repository holds no model in safetensors.
    """
    info = ModelInfo(**answer)  # type: ignore[no-untyped-call]
    if info.sha is None or not COMMIT.fullmatch(info.sha):
        raise ValueError(f"the commit is {info.sha!r}")
    siblings = [sibling for sibling in info.siblings or [] if "/" not in sibling.rfilename]
    wanted = _wanted(uri, [sibling.rfilename for sibling in siblings])
    files = [_file(sibling) for sibling in siblings if sibling.rfilename in wanted]
    return Listing(info.sha, tuple(files))


def _wanted(uri: str, names: Sequence[str]) -> set[str]:
    if "config.json" not in names:
        raise ModelUnreadable(f"{uri} has no config.json; expected a repository with a model")
    # Some repositories hold the weights twice, once in the format of the model's own makers.
    weights = _matching(names, ["model*.safetensors"]) or _matching(names, ["*.safetensors"])
    if not weights:
        raise ModelUnreadable(
            f"{uri} has no *.safetensors; choose a repository or revision that has, because other "
            "formats can run code or are not supported"
        )
    return weights | _matching(names, DESCRIPTIONS)


def _matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    return {name for name in names for pattern in patterns if fnmatchcase(name, pattern)}


def _file(sibling: RepoSibling) -> RemoteFile:
    if sibling.lfs is not None:
        return RemoteFile(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256, large=True)
    if sibling.size is None or sibling.blob_id is None:
        raise ValueError(f"{sibling.rfilename} has no size or no blob id")
    return RemoteFile(sibling.rfilename, sibling.size, sibling.blob_id, large=False)
