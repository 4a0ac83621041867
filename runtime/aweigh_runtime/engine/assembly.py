"""Puts model and cache on the device and joins them to the step loop."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch

from aweigh_api.spec import DTypeName
from aweigh_runtime.engine.loop import Engine, Forward
from aweigh_runtime.engine.messages import Ready, Sampling, Start
from aweigh_runtime.engine.processors import usable_cpus
from aweigh_runtime.engine.sampling import Row, choose
from aweigh_runtime.engine.scheduler import Scheduler
from aweigh_runtime.failures import InvalidConfiguration, ModelDoesNotFit
from aweigh_runtime.model.cache import KVCache, bytes_per_token
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.load import load
from aweigh_runtime.model.memory import available_bytes

_CACHE_SHARE = 0.8  # of the memory that the weights have left; the rest is for activations
_WEIGHTS_PER_THREAD_BYTES = 64 << 20  # with less, a second thread slows a step down
_DTYPE_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def build(
    start: Start, directory: Path, progress: Callable[[int, int | None], None]
) -> tuple[Engine, Ready]:
    """Load the model and make the engine around it.

    Raises:
        StartFailure: as `load` does, or because the cache does not fit.
    """
    device = _device(start.device)
    decoder = load(directory, cast(DTypeName, start.dtype), device, start.max_model_len, progress)
    _use_threads(decoder)
    max_len = decoder.max_model_len
    slots = _slots(decoder, start.max_running)
    cache = KVCache(decoder.config, slots, max_len, decoder.dtype, device)

    def forward(tokens: list[int], chunks: Sequence[Chunk]) -> torch.Tensor:
        return decoder.forward(torch.tensor(tokens, device=device), chunks, cache)

    _warm_up(forward, slots, min(start.step_tokens, max_len))
    engine = Engine(Scheduler(slots, start.step_tokens, max_len), forward)
    ready = Ready(
        max_model_len=max_len,
        vocab_size=decoder.config.vocab_size,
        dtype=_DTYPE_NAMES[decoder.dtype],
        max_running=slots,
    )
    return engine, ready


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidConfiguration(
            "--device is cuda, but no GPU is visible; give the pod nvidia.com/gpu: 1 or use "
            "--device=auto"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _slots(decoder: Decoder, wanted: int) -> int:
    """Requests that can run together: as many as were asked for, or as many as have room."""
    per_token = bytes_per_token(decoder.config, decoder.dtype)
    per_slot = per_token * decoder.max_model_len
    room = int(_CACHE_SHARE * available_bytes(decoder.device))
    if per_slot > room:
        raise ModelDoesNotFit(
            f"the cache of one request needs {_gib(per_slot)} for {decoder.max_model_len} tokens, "
            f"and {_gib(room)} are left beside the weights; lower --max-model-len to at most "
            f"{room // per_token} or give more memory"
        )
    return min(wanted, room // per_slot)


def _warm_up(forward: Forward, slots: int, prompt_tokens: int) -> None:
    """A prompt and a decode step, so that no request pays for what a device does once."""
    rows = [Row(Sampling(seed=slot, top_p=0.9), 1) for slot in range(slots)]
    forward([0] * prompt_tokens, [Chunk(0, 0, prompt_tokens)])
    choose(forward([0] * slots, [Chunk(slot, 0, 1) for slot in range(slots)]), rows)


def _use_threads(decoder: Decoder) -> None:
    """On a CPU, threads that only wait for each other are worse than none."""
    if decoder.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        weights_bytes = sum(p.numel() * p.element_size() for p in decoder.parameters())
        useful = max(1, weights_bytes // _WEIGHTS_PER_THREAD_BYTES)
        torch.set_num_threads(min(usable_cpus(), useful))


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
