"""A draft that is as large as another one and never right: its weights are random."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aweigh_bench.failures import Impossible

_SEED = 0
_SPREAD = 0.02
_INDEX = "model.safetensors.index.json"


@contextmanager
def wrong_draft(original: Path | None) -> Iterator[Path | None]:
    """A copy of a model's directory with random weights, for as long as the context lasts.

    Args:
        original: None: nothing is copied.

    Raises:
        Impossible: it is quantized.
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
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    chance = torch.Generator().manual_seed(_SEED)
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - it is no dictionary
                found = stored.get_tensor(name)
                if found.dtype not in (torch.bfloat16, torch.float16, torch.float32):
                    raise Impossible(
                        f"--wrong gives a draft random weights, and its {name} is {found.dtype}; "
                        "expected a draft that is not quantized"
                    )
                random = torch.randn(found.shape, generator=chance) * _SPREAD
                tensors[name] = random.to(found.dtype)  # in the same time as the original
        path.unlink()
    (directory / _INDEX).unlink(missing_ok=True)
    save_file(tensors, directory / "model.safetensors")
