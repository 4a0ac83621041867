"""Shapes of well-known models, to measure with random weights: no file of theirs is needed."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aweigh_bench.failures import Impossible

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "max_position_embeddings": 131_072,
    "vocab_size": 128_256,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
SHAPES: dict[str, dict[str, Any]] = {  # by name, as a config.json has it
    "llama-3.1-8b": _LLAMA
    | {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_scaling": _LLAMA3_ROPE,
    },
    "llama-3.2-1b": _LLAMA
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "rope_scaling": _LLAMA3_ROPE | {"factor": 32.0},
        "tie_word_embeddings": True,
    },
    "llama-tiny": _LLAMA  # for trying things out on a CPU
    | {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 8192,
        "max_position_embeddings": 2048,
    },
}
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@contextmanager
def shape_directory(name: str, flag: str = "--shape") -> Iterator[Path]:
    """A model's directory without weights, for as long as the context lasts.

    Its tokenizer is a built-in model's, whose vocabulary is smaller: the other tokens stand for
    nothing.

    Args:
        name: of a shape.
        flag: that has given it.

    Raises:
        Impossible: there is no such shape.
    """
    from aweigh_runtime.sources.local import builtin

    if name not in SHAPES:
        raise Impossible(f"{flag} is {name}; expected one of {', '.join(SHAPES)}")
    with tempfile.TemporaryDirectory(prefix="aweigh-bench-") as folder:
        directory = Path(folder) / name
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(SHAPES[name]))
        for file in _TOKENIZER:
            shutil.copy(builtin("helmsman-8m") / file, directory)
        yield directory
