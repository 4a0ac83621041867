"""Small checkpoints with random weights, made by transformers, and ways to run ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from aweigh_api.spec import DTypeName
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.load import Wish, load

BLOCK_TOKENS = 16
BLOCKS_EACH = 16  # 256 tokens of a request
SHIPPED = Path(__file__).parents[3] / "runtime/aweigh_runtime/builtin"
SIZES = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
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
    model: Any = LlamaForCausalLM(LlamaConfig(**(SIZES | shape)))  # type: ignore[no-untyped-call]
    return _write(model, directory, shard_bytes)


def write_family(directory: Path, model_type: str, **shape: Any) -> Path:
    """Write a random model of a family and return its directory."""
    config = AutoConfig.for_model(model_type, **(SIZES | shape))
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return _write(model, directory, 1 << 30)


def _write(model: Any, directory: Path, shard_bytes: int) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        # Biases start as zeros and norms as ones or zeros: each of their values must count.
        if name.endswith("bias") or "norm" in name:
            parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator)
        else:
            std = 0.3 if parameter.shape[-1] < 256 else 0.05
            parameter.data = std * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(directory, max_shard_size=shard_bytes)
    return directory


def load_decoder(
    directory: Path,
    dtype: DTypeName = "fp32",
    device: str = "cpu",
    max_len: int | None = None,
    *,
    exact: bool = False,
) -> Decoder:
    """Ours."""
    wish = Wish(dtype=dtype, max_model_len=max_len, exact=exact)
    return load(directory, wish, torch.device(device), lambda done, total: None).decoder


def load_oracle(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model as transformers runs it; its fast attention leaves soft caps out."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager")


def oracle_logits(oracle: Any, prompt: Sequence[int]) -> torch.Tensor:
    """[V], after the last token of the prompt."""
    with torch.inference_mode():
        tokens = torch.tensor([list(prompt)], device=oracle.device)
        logits: torch.Tensor = oracle(tokens).logits[0, -1].float()
        return logits


def new_cache(decoder: Decoder, num_requests: int) -> KVCache:
    """With room for so many requests of `step`."""
    num_blocks = num_requests * BLOCKS_EACH
    return KVCache(
        decoder.config,
        num_blocks,
        BLOCK_TOKENS,
        CacheFormat(decoder.dtype, decoder.dtype),
        decoder.device,
    )


def blocks_of(cache: KVCache, request: int) -> range:
    """All blocks of a request of `step`: from the cache's end to its start, never side by side."""
    last, stride = cache.num_blocks - 1 - request, cache.num_blocks // BLOCKS_EACH
    return range(last, last - stride * BLOCKS_EACH, -stride)


def step(
    decoder: Decoder, cache: KVCache, parts: Sequence[tuple[int, int, Sequence[int]]]
) -> torch.Tensor:
    """One forward pass over (request, start, tokens) parts: [S, V]."""
    tokens = torch.tensor([token for _, _, run in parts for token in run], device=decoder.device)
    chunks = [Chunk(start, len(run), blocks_of(cache, request)) for request, start, run in parts]
    return decoder.forward(tokens, chunks, cache)


def random_tokens(seed: int, count: int, vocabulary: int = 160) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    found: list[int] = torch.randint(vocabulary, (count,), generator=generator).tolist()
    return found
