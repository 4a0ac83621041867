import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from aweigh_quantize.checkpoint import read_checkpoint
from aweigh_quantize.tensor_file import stored_entry, write_tensors
from aweigh_runtime.fields import read_object
from tests.runtime.model.checkpoints import SHIPPED

LAYERS = 2
COPIED = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "subjects.txt")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than such small models."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers of helmsman-8m: real weights, and a quarter of the time."""
    source, target = SHIPPED / "helmsman-8m", tmp_path_factory.mktemp("models") / "cut"
    target.mkdir()
    for name in COPIED:
        (target / name).write_bytes((source / name).read_bytes())
    config = read_object(source / "config.json") | {"num_hidden_layers": LAYERS}
    (target / "config.json").write_text(json.dumps(config))
    stored = read_checkpoint(source).stored
    kept = [
        stored_entry(tensor)
        for name, tensor in stored.items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) < LAYERS
    ]
    write_tensors(target / "model.safetensors", kept)
    return target
