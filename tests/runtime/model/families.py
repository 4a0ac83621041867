"""One small checkpoint of each supported family and of each kind of rotary embedding."""

from typing import Any

from tests.runtime.model.checkpoints import LLAMA3_ROPE

EDGES = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # within a small vocabulary
_WINDOW = {"use_sliding_window": True, "sliding_window": 20}
_EXPERTS = {
    "num_experts": 5,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "head_dim": 16,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0 + pair / 7 for pair in range(6)],
    "long_factor": [2.0 + pair for pair in range(6)],
}
_GEMMA = {
    "head_dim": 24,
    "sliding_window": 20,
    "query_pre_attn_scalar": 40,
    **EDGES,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
GEMMA3 = _GEMMA | {"layer_types": ["sliding_attention", "full_attention"] * 2}
_GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 50_000.0, "factor": 8.0},
}
PHI4 = {
    "head_dim": 16,
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 256,
    "rope_parameters": _LONGROPE,
    **EDGES,
}

# The name of a test, the model_type in transformers, and what differs from a small Llama.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 2": ("llama", {}),
    "Llama 3": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "Llama, linear": ("llama", {"rope_parameters": _LINEAR}),
    "Llama, dynamic": ("llama", {"rope_parameters": DYNAMIC}),
    "Llama, yarn": ("llama", {"rope_parameters": _YARN}),
    "Llama, yarn with every key": (
        "llama",
        {
            "rope_parameters": _YARN
            | {"beta_fast": 16, "beta_slow": 2, "truncate": False}
            | {"mscale": 0.7, "mscale_all_dim": 1.4}
        },
    ),
    "Llama, yarn with an attention factor": (
        "llama",
        {"rope_parameters": _YARN | {"attention_factor": 1.3}},
    ),
    "Mistral": ("mistral", {"sliding_window": 20}),
    "Mistral without windows": ("mistral", {"sliding_window": None}),
    "Qwen 2": ("qwen2", {}),
    "Qwen 2, yarn": ("qwen2", {"rope_parameters": _YARN}),
    "Qwen 2 with windows in later layers": ("qwen2", {"max_window_layers": 2, **_WINDOW}),
    "Qwen 2 with a kind for each layer": (
        "qwen2",
        {"layer_types": ["full_attention", "sliding_attention"] * 2, **_WINDOW},
    ),
    "Qwen 3": ("qwen3", {"head_dim": 24, "tie_word_embeddings": True}),
    "Qwen 3 with biases": ("qwen3", {"head_dim": 16, "attention_bias": True}),
    "Phi-3": ("phi3", {"sliding_window": 20, **EDGES}),
    "Phi-4-mini": ("phi3", PHI4),
    "Gemma 2": ("gemma2", _GEMMA),
    "Gemma 2 without caps": (
        "gemma2",
        _GEMMA | {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "Gemma 3": ("gemma3_text", GEMMA3 | {"rope_parameters": _GEMMA3_ROPE}),
    "Gemma 3 with defaults": ("gemma3_text", EDGES | {"num_hidden_layers": 7}),
    "Mixtral": ("mixtral", {"num_local_experts": 5, "sliding_window": 20}),
    "Qwen 3 MoE": ("qwen3_moe", {"norm_topk_prob": True, **_EXPERTS}),
    "Qwen 3 MoE with plain layers": (
        "qwen3_moe",
        {"decoder_sparse_step": 2, "mlp_only_layers": [3], **_EXPERTS},
    ),
}
