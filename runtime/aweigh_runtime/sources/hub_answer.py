"""What a Hugging Face hub answers about a repository. Pure: no network, no disk."""

import re
from typing import Any

from huggingface_hub.hf_api import ModelInfo, RepoSibling

from aweigh_runtime.sources.listing import Listing, RemoteFile, needed

COMMIT = re.compile(r"[0-9a-f]{40}")


def parse(uri: str, answer: Any) -> Listing:
    """Read the files of a commit that a model needs.

    Raises:
        ValueError, TypeError, KeyError: this is not such an answer.
        ModelUnreadable: the repository holds no model in safetensors.
    """
    info = ModelInfo(**answer)  # type: ignore[no-untyped-call]
    if info.sha is None or not COMMIT.fullmatch(info.sha):
        raise ValueError(f"the commit is {info.sha!r}")
    siblings = info.siblings or []
    wanted = needed(uri, [sibling.rfilename for sibling in siblings])
    files = [_file(sibling) for sibling in siblings if sibling.rfilename in wanted]
    return Listing(info.sha, tuple(files))


def _file(sibling: RepoSibling) -> RemoteFile:
    if sibling.lfs is not None:
        digest = f"sha256:{sibling.lfs.sha256}"
        return RemoteFile(sibling.rfilename, sibling.lfs.size, digest)
    if sibling.size is None or sibling.blob_id is None:
        raise ValueError(f"{sibling.rfilename} has no size or no blob id")
    return RemoteFile(sibling.rfilename, sibling.size, f"git:{sibling.blob_id}")
