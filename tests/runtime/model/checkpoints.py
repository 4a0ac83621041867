"""Small Llama checkpoints with random weights, made by transformers, and ways to run ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from aweigh_api.spec import DTypeName
from aweigh_runtime.model.cache import KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.load import load

SHIPPED = Path(__file__).parents[3] / "runtime/aweigh_runtime/builtin"
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SHAPES: dict[str, dict[str, Any]] = {
    "grouped heads": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1},
    "as many key heads as query heads": {"num_key_value_heads": 4},
    "a head size of its own": {"head_dim": 24},
    "tied embeddings": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "scaled positions": {"rope_parameters": LLAMA3_ROPE},
    "another rope base": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
}


def write_checkpoint(directory: Path, shard_bytes: int = 1 << 30, **shape: Any) -> Path:
    """Write a random Llama of 4 layers and return its directory."""
    sizes = {
        "vocab_size": 160,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**(sizes | shape)))  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():  # biases start as zeros: they must count
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(directory, max_shard_size=shard_bytes)
    return directory


def load_decoder(
    directory: Path, dtype: DTypeName = "fp32", device: str = "cpu", max_len: int | None = None
) -> Decoder:
    """Ours."""
    return load(directory, dtype, torch.device(device), max_len, lambda done, total: None)


def load_oracle(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model as transformers runs it."""
    return LlamaForCausalLM.from_pretrained(directory, dtype=dtype)


def oracle_logits(oracle: Any, prompt: Sequence[int]) -> torch.Tensor:
    """[V], after the last token of the prompt."""
    with torch.inference_mode():
        tokens = torch.tensor([list(prompt)], device=oracle.device)
        logits: torch.Tensor = oracle(tokens).logits[0, -1].float()
        return logits


def new_cache(decoder: Decoder, num_slots: int, max_len: int = 256) -> KVCache:
    return KVCache(decoder.config, num_slots, max_len, decoder.dtype, decoder.device)


def step(
    decoder: Decoder, cache: KVCache, parts: Sequence[tuple[int, int, Sequence[int]]]
) -> torch.Tensor:
    """One forward pass over (slot, start, tokens) parts: [S, V]."""
    tokens = torch.tensor([token for _, _, run in parts for token in run], device=decoder.device)
    chunks = [Chunk(slot, start, len(run)) for slot, start, run in parts]
    logits: torch.Tensor = decoder(tokens, chunks, cache)
    return logits


def random_tokens(seed: int, count: int, vocabulary: int = 160) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    found: list[int] = torch.randint(vocabulary, (count,), generator=generator).tolist()
    return found
