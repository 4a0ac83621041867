"""The scales of keys and values that a checkpoint may bring along, under all of their names."""

from typing import Literal

import torch

from aweigh_runtime.formats.scales import scalar

Cached = Literal["key", "value"]
BOTH: tuple[Cached, ...] = ("key", "value")


def kv_scale_names(attention: str) -> dict[str, tuple[Cached, ...]]:
    """The tensors that hold such scales, and what each is for.

    vLLM and compressed-tensors write `k_scale` beside the projections, old compressed-tensors
    `k_proj.output_scale`, NVIDIA ModelOpt `k_proj.k_scale`; `kv_scale` is one for both. Scales of
    queries and of probabilities have no use here, since neither is stored: they are for nothing.

    Args:
        attention: `model.layers.0.self_attn`.

    Returns:
        By full name: whether it scales keys, values, both or nothing.
    """
    named: dict[str, tuple[Cached, ...]] = {"kv_scale": BOTH, "attn.kv_scale": BOTH}
    named |= {"q_scale": (), "prob_scale": (), "attn.q_scale": (), "attn.prob_scale": ()}
    letters: tuple[tuple[str, Cached], ...] = (("k", "key"), ("v", "value"))
    for letter, cached in letters:
        for place in ("", "attn.", f"{letter}_proj.", "qkv_proj."):
            named[f"{place}{letter}_scale"] = (cached,)
        named[f"{letter}_proj.output_scale"] = (cached,)
    return {f"{attention}.{name}": cached for name, cached in named.items()}


def written_names(attention: str) -> tuple[str, str]:
    """The tensors that compressed-tensors writes: the scale of keys, and that of values."""
    return f"{attention}.k_scale", f"{attention}.v_scale"


def read_kv_scale(name: str, tensor: torch.Tensor) -> float:
    """What stored keys or values are multiplied with.

    Raises:
        LayoutError: it is not a finite number above 0.
    """
    return float(scalar(name, tensor))
