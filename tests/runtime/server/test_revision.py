"""A server's word for its model: the same for the same files, another one for others."""

from pathlib import Path

import pytest

from aweigh_runtime.config import Config
from aweigh_runtime.server.revision import revision


def written(directory: Path, **changed: bytes) -> Path:
    """A model of three files."""
    directory.mkdir(parents=True)
    files = {"config": b"{}", "tokenizer": b'{"model":{}}', "weights": bytes(200_000)} | changed
    (directory / "config.json").write_bytes(files["config"])
    (directory / "tokenizer.json").write_bytes(files["tokenizer"])
    (directory / "model.safetensors").write_bytes(files["weights"])
    return directory


def found(directory: Path, uri: str = "pvc://claim/model") -> str:
    return revision(Config(uri=uri, model_name="m", cache_dir=directory), directory)


@pytest.mark.parametrize(
    "changed",
    [
        {"config": b"[]"},
        {"tokenizer": b'{"model":[]}'},
        {"weights": bytes(200_001)},
        {"weights": bytes(100_000) + b"\1" * 100_000},
    ],
    ids=["config", "tokenizer", "size", "trained on"],
)
def test_another_model_in_a_folder_of_the_same_name_has_another_one(
    tmp_path: Path, changed: dict[str, bytes]
) -> None:
    one, same = written(tmp_path / "a" / "model"), written(tmp_path / "b" / "model")
    (same / ".marker").write_text("of one node alone")
    other = written(tmp_path / "c" / "model", **changed)
    assert found(one) == found(same) != found(other)


def test_a_download_has_the_version_in_its_folders_name(tmp_path: Path) -> None:
    one, two = written(tmp_path / "version-1"), written(tmp_path / "version-2")
    assert found(one, "hf://organisation/model") != found(two, "hf://organisation/model")
