"""The tokenizer that tests use."""

from importlib import resources
from pathlib import Path

from tokenizers import Tokenizer as Backend

from aweigh_runtime.text.tokenizer import Tokenizer

DIRECTORY = Path(str(resources.files("aweigh_runtime"))) / "builtin" / "helmsman-8m"
BACKEND = Backend.from_file(str(DIRECTORY / "tokenizer.json"))
TOKENIZER = Tokenizer.load(DIRECTORY)
