"""Which model this is: a stream that one server began goes on only where it is the same.

All servers of a service come to the same word for the same model, whenever and wherever their files
were written. Never all of the weights are read.
"""

import hashlib
from pathlib import Path

from aweigh_runtime.config import Config

# What is served beside the weights.
_TEXTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
# Of a file of weights. Who trains on changes most of them, and neither names nor sizes.
_NUM_PIECES, _PIECE_BYTES = 16, 4 << 10

_IN_FOLDERS = ("builtin", "file", "pvc")  # a download lies in a folder that bears its version


def revision(config: Config, directory: Path) -> str:
    """Other weights, or other texts, have another one. Reads some files."""
    served = (config.uri, directory.name, config.dtype, config.quantization)
    found = hashlib.sha256("\n".join(served).encode())
    if config.uri.partition("://")[0] in _IN_FOLDERS:
        for text in _TEXTS:
            if (directory / text).is_file():
                found.update(f"\n{text}\n".encode() + (directory / text).read_bytes())
        for weights in sorted(directory.glob("*.safetensors")):
            found.update(f"\n{weights.name}\n".encode() + _samples(weights))
    return found.hexdigest()[:16]


def _samples(weights: Path) -> bytes:
    """Its size, and pieces from all over it."""
    size = weights.stat().st_size
    samples = [b"%d\n" % size]
    with weights.open("rb") as file:
        for number in range(1, _NUM_PIECES + 1):
            file.seek(max(0, size * number // _NUM_PIECES - _PIECE_BYTES))
            samples.append(file.read(_PIECE_BYTES))
    return b"".join(samples)
