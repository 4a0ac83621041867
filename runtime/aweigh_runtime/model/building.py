"""A decoder without its weights: how it computes, and whether there is room for it."""

from collections.abc import Container
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from aweigh_runtime.failures import ModelDoesNotFit
from aweigh_runtime.model.arithmetic import Arithmetic, Fast
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.decoder import BuildStack, Decoder
from aweigh_runtime.model.exact import Exact
from aweigh_runtime.model.layers import Layers
from aweigh_runtime.model.memory import available_bytes
from aweigh_runtime.model.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What a decoder is built for."""

    max_model_len: int  # tokens of prompt and answer
    dtype: torch.dtype
    device: torch.device
    exact: bool = False  # a token's logits never depend on what else is in a step
    quantized: Container[str] = ()  # names of its matrices that are not dense


def build(config: ModelConfig, frame: Frame) -> Decoder:
    """Weights are left uninitialised."""
    arithmetic, layers = _way(config, frame)
    storage = Storage(frame.dtype, frame.device, arithmetic, quantized=frame.quantized)
    return Decoder(config, frame.max_model_len, storage, layers)


def expect_room(subject: object, needed: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse weights that are larger than what is free.

    Args:
        subject: whose weights.
        needed: bytes.
        dtype: of them.
        device: where they go.

    Raises:
        ModelDoesNotFit: says how much is missing.
    """
    free = available_bytes(device)
    if needed > free:
        raise ModelDoesNotFit(
            f"the weights of {subject} need {needed / 1e9:.2f} GB in {dtype}, and "
            f"{free / 1e9:.2f} GB are free on {device}; give the pod more memory or serve a "
            "smaller model"
        )


def _way(config: ModelConfig, frame: Frame) -> tuple[Arithmetic, BuildStack]:
    """How a model is computed fastest, or exactly."""
    if frame.exact:
        return Exact(), Layers
    if frame.device.type == "cuda" and find_spec("triton") is not None:
        from aweigh_runtime.model import fused  # its kernels need Triton, which is not everywhere

        if fused.takes(config, frame.dtype):
            return fused.FewRows(frame.device), fused.FusedLayers
    return Fast(), Layers
