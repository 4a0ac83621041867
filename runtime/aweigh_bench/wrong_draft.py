"""A draft that is as large as another one and never right: its weights are random."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

_SEED = 0
_SPREAD = 0.02
_INDEX = "model.safetensors.index.json"


@contextmanager
def wrong_draft(original: Path | None) -> Iterator[Path | None]:
    """A copy of a model's directory with random weights, for as long as the context lasts.

    Args:
        original: None: nothing is copied.
    """
    if original is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="aweigh-bench-") as folder:
        copy = Path(folder) / original.name
        shutil.copytree(original, copy)
        _randomize(copy)
        yield copy


def _randomize(directory: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    chance = np.random.default_rng(_SEED)
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "numpy") as stored:
            for name in stored.keys():  # noqa: SIM118 - it is no dictionary
                shape = stored.get_slice(name).get_shape()
                tensors[name] = chance.normal(0.0, _SPREAD, shape).astype(np.float32)
        path.unlink()
    (directory / _INDEX).unlink(missing_ok=True)
    save_file(tensors, directory / "model.safetensors")
    config = directory / "config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"torch_dtype": "float32"}))
