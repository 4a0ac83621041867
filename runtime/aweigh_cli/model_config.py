"""A model's config.json, wherever the model is. Nothing but this one small file is fetched."""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from aweigh_cli.failures import CommandFailure, ExitStatus

if TYPE_CHECKING:
    from aweigh_runtime.model.config import ModelConfig
    from aweigh_runtime.sources.client import Client


def model_config(uri: str, revision: str | None) -> "ModelConfig":
    """The shape of the model at a URI.

    Raises:
        CommandFailure: it cannot be read from this machine, or is no model that can be served.
    """
    from aweigh_runtime.failures import StartFailure
    from aweigh_runtime.model.architectures import read_config
    from aweigh_runtime.sources import local

    scheme, _, rest = uri.partition("://")
    try:
        if scheme == "builtin":
            return read_config(local.builtin(rest))
        if scheme == "file":
            return read_config(local.directory(rest))
        if scheme == "hf":
            with tempfile.TemporaryDirectory(prefix="aweigh-plan-") as folder:
                (Path(folder) / "config.json").write_bytes(_from_hub(rest, revision))
                return read_config(Path(folder))
    except StartFailure as failure:
        raise CommandFailure(str(failure), failure.exit_code) from failure
    raise CommandFailure(
        f"the model URI is {uri!r}, which cannot be read from here; expected builtin://, file:/// "
        "or hf://: for others copy config.json into a directory and give file:///DIRECTORY",
        ExitStatus.BAD_INPUT,
    )


def _from_hub(repository: str, revision: str | None) -> bytes:
    if find_spec("huggingface_hub") is None:
        raise CommandFailure(
            "reading from a hub needs huggingface_hub, not installed here; expected the extra "
            "`runtime`: install aweigh[runtime]"
        )
    from aweigh_runtime.sources.access import read_token
    from aweigh_runtime.sources.client import Client
    from aweigh_runtime.sources.hub import DEFAULT_ENDPOINT, REPOSITORY

    if not REPOSITORY.fullmatch(repository):
        raise CommandFailure(
            f"hf://{repository} is not a repository; expected hf://ORGANISATION/MODEL",
            ExitStatus.BAD_INPUT,
        )
    endpoint = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    with Client(endpoint, repository, read_token(None), delays_s=(1.0,)) as client:
        return client.patience.repeat(lambda: _content(client, revision or "main"))


def _content(client: "Client", revision: str) -> bytes:
    with client.file(revision, "config.json", 0) as response:
        return response.read()
