import os
import tempfile
from pathlib import Path

import pytest

from aweigh_api import names
from aweigh_runtime.failures import InvalidConfiguration, ModelNotFound, ModelUnreadable
from aweigh_runtime.sources import fetch, local


def _fetch(uri: str, revision: str | None = None) -> Path:
    return fetch(
        uri,
        revision=revision,
        secret_dir=None,
        cache_dir=Path("/nonexistent"),
        progress=lambda done, total: None,
    )


@pytest.mark.parametrize("name", ["helmsman-8m", "helmsman-1m-draft"])
def test_a_builtin_model_is_a_directory_with_all_that_serving_needs(name: str) -> None:
    directory = _fetch(f"builtin://{name}")

    assert (directory / "config.json").is_file()
    assert (directory / "tokenizer.json").is_file()
    assert list(directory.glob("*.safetensors"))


def test_an_unknown_builtin_model_is_refused_with_the_list() -> None:
    with pytest.raises(ModelNotFound, match="helmsman-1m-draft, helmsman-8m"):
        _fetch("builtin://nelson")


def test_a_builtin_name_cannot_lead_elsewhere() -> None:
    with pytest.raises(InvalidConfiguration, match=r"contains '\.\.'"):
        _fetch("builtin://../model")
    with pytest.raises(ModelNotFound):
        _fetch("builtin:///etc")


def test_a_file_uri_is_its_path(model: Path) -> None:
    assert _fetch(f"file://{model}") == model


def test_a_relative_file_uri_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="three slashes"):
        _fetch("file://models/llama")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("closed", ["itself", "its parent"])
def test_a_directory_that_may_not_be_read_is_named(closed: str) -> None:
    """As a user who is not let in, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own lets nobody in
        Path(folder).chmod(0o755)
        model = Path(folder) / "parent" / "model"
        model.mkdir(parents=True)
        assert _ended_as_another_user(model) == 1  # it may be read
        (model if closed == "itself" else model.parent).chmod(0o700)
        assert _ended_as_another_user(model) == 0


def _ended_as_another_user(model: Path) -> int:
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            _fetch(f"file://{model}")
        except ModelUnreadable as failure:
            os._exit(0 if f"{model} cannot be read: permission denied" in str(failure) else 2)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_file_uri_must_lead_to_a_directory(model: Path) -> None:
    with pytest.raises(ModelNotFound, match="there is no directory /no/such/place"):
        _fetch("file:///no/such/place")
    with pytest.raises(ModelNotFound, match="is a file; expected the directory"):
        _fetch(f"file://{model}/config.json")


def test_each_claim_is_read_from_where_it_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "models" / "llama" / "8b").mkdir(parents=True)
    (tmp_path / "drafts").mkdir()

    assert local.claim("models/llama/8b", tmp_path) == tmp_path / "models" / "llama" / "8b"
    assert local.claim("drafts", tmp_path) == tmp_path / "drafts"
    with pytest.raises(ModelNotFound, match="pvc://models/qwen: there is no directory"):
        local.claim("models/qwen", tmp_path)


def test_a_claim_outside_of_a_pod_is_refused_with_the_way_out() -> None:
    with pytest.raises(ModelNotFound, match=f"{names.MODEL_MOUNT}.*outside of a cluster use file"):
        _fetch("pvc://models/llama")


@pytest.mark.parametrize("uri", ["gs://bucket/model", "llama", "https://example.org/model", ""])
def test_an_unknown_scheme_is_refused_with_the_list(uri: str) -> None:
    with pytest.raises(
        InvalidConfiguration, match="builtin://, file://, pvc://, hf://, s3://, oci://"
    ):
        _fetch(uri)


def test_a_revision_goes_with_hubs_only() -> None:
    with pytest.raises(InvalidConfiguration, match="only hf:// models have revisions"):
        _fetch("builtin://helmsman-8m", revision="main")


@pytest.mark.parametrize("repository", ["llama", "a/b/c", "a/", "/b", "-a/b", "a/b?c"])
def test_a_malformed_repository_is_refused(repository: str) -> None:
    with pytest.raises(InvalidConfiguration, match="expected hf://ORGANISATION/MODEL"):
        _fetch(f"hf://{repository}")
