"""Which modules a format quantizes when its config names none."""

import re

_NUMBERED = re.compile(r"(^|\.)\d+\.")


def in_layer(module: str) -> bool:
    """Whether a module lies in one of the model's layers: `model.layers.0.mlp.up_proj` does.

    AutoGPTQ, GPTQModel and AutoAWQ quantize nothing else unless told to.
    """
    return _NUMBERED.search(module) is not None


def is_head(module: str) -> bool:
    """Whether a module makes logits of hidden states."""
    return module.rpartition(".")[2] == "lm_head"


def is_router(module: str) -> bool:
    """Whether a module decides which experts get a token: small, and sensitive to rounding."""
    return module.rpartition(".")[2] in ("gate", "router")
