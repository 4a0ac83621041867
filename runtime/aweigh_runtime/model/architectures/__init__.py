"""Reads config.json: one module per family says how it differs from a plain decoder. No tensor.

A value that is wrong makes the model unreadable; one that is right but not built makes it
unsupported, and the message names what is. Code that a model brings along is never looked at.
"""

from collections.abc import Callable
from pathlib import Path

from aweigh_runtime.failures import ModelNotFound, ModelUnreadable, UnsupportedModel
from aweigh_runtime.fields import Fields, read_object
from aweigh_runtime.model.architectures.gemma import gemma2, gemma3, gemma3_with_vision
from aweigh_runtime.model.architectures.llama import llama
from aweigh_runtime.model.architectures.mistral import mistral, mixtral
from aweigh_runtime.model.architectures.phi import phi3
from aweigh_runtime.model.architectures.qwen import qwen2, qwen3, qwen3_moe
from aweigh_runtime.model.config import ModelConfig

ARCHITECTURES: dict[str, Callable[[Fields], ModelConfig]] = {
    "Gemma2ForCausalLM": gemma2,
    "Gemma3ForCausalLM": gemma3,
    "Gemma3ForConditionalGeneration": gemma3_with_vision,
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "MixtralForCausalLM": mixtral,
    "Phi3ForCausalLM": phi3,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
    "Qwen3MoeForCausalLM": qwen3_moe,
}


def read_config(directory: Path) -> ModelConfig:
    """Parse and check `config.json`.

    Raises:
        ModelNotFound: there is no such directory.
        ModelUnreadable: the file is missing, is not a JSON object, or holds impossible values.
        UnsupportedModel: the runtime lacks the architecture or a feature.
    """
    if not directory.is_dir():
        raise ModelNotFound(f"there is no directory {directory}; check its URI")
    path = directory / "config.json"
    if not path.is_file():
        raise ModelUnreadable(f"{directory} has no config.json; expected a Hugging Face model")
    fields = Fields(path, read_object(path))
    names = fields.texts("architectures")
    for name in names:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name](fields)
    raise UnsupportedModel(
        f"{path}: architecture {', '.join(names)[:200] or 'not given'} is not supported; "
        f"supported: {', '.join(ARCHITECTURES)}"
    )
