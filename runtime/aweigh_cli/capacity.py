"""How a model fits into memory, computed from its config. Pure: nothing is loaded or measured.

What a server measures at its start is estimated here: the largest step, and what drivers and
libraries take for themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from aweigh_api.spec import DTypeName
from aweigh_runtime.model import footprint
from aweigh_runtime.model.config import LayerConfig, ModelConfig

GIBI = 1 << 30
# Bytes that a GPU has for programs, as its driver reports them: less than the name promises.
GPUS = {
    "t4": int(14.6 * GIBI),
    "a10g": int(22.0 * GIBI),
    "l4": int(22.0 * GIBI),
    "rtx4090": int(23.5 * GIBI),
    "a100-40": int(39.4 * GIBI),
    "l40s": int(44.4 * GIBI),
    "h100": int(79.1 * GIBI),
    "a100-80": int(79.1 * GIBI),
    "h200": int(139.8 * GIBI),
    "b200": int(178.3 * GIBI),
}
STEP_TOKENS = {"gpu": 8192, "cpu": 512}  # of one forward pass, unless --step-tokens says otherwise
GPU_SPARE_SHARE = 0.05
GPU_LIBRARIES_BYTES = 600 << 20  # the driver's context and work space of matrix products
CPU_PROCESSES_BYTES = 700 << 20  # interpreters and libraries of both processes
CPU_SHARE = 0.5
CPU_KV_BYTES = 4 << 30
LENGTHS = (512, 2048, 8192, 32_768, 131_072)  # tokens of a request, for the table
_LOGIT_BYTES = 16  # per token of the vocabulary and row: logits, sorted, their ids and sums


@dataclass(frozen=True, slots=True)
class Device:
    """Where a model shall run."""

    name: str
    num_bytes: int
    is_gpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What an InferenceService, or the command line, says about memory."""

    dtype: DTypeName = "auto"
    max_model_len: int | None = None
    max_running: int = 256
    block_tokens: int = 16
    lengths: Sequence[int] = LENGTHS


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where a device's memory goes, in bytes."""

    device: Device
    dtype_bytes: int
    weights: int
    step: int  # activations and logits of the largest step
    reserve: int  # libraries, and what stays free
    kv: int  # for keys and values; 0 when not even the weights fit
    kv_per_token: int
    max_model_len: int
    tokens: int  # that the KV memory holds
    requests: dict[int, int]  # length in tokens → so many fit at once
    missing: int  # bytes that one request of max_model_len tokens lacks; 0: it fits

    @property
    def fits(self) -> bool:
        """A server would start."""
        return self.missing == 0


def plan(config: ModelConfig, device: Device, wish: Wish) -> Plan:
    """Divide a device's memory as a server does."""
    dtype_bytes = _dtype_bytes(config, device, wish)
    weights = footprint.weight_bytes(config, dtype_bytes)
    per_token = footprint.bytes_per_token(config, dtype_bytes)
    step = step_bytes(config, dtype_bytes, device, wish)
    reserve = (
        GPU_LIBRARIES_BYTES + int(GPU_SPARE_SHARE * device.num_bytes)
        if device.is_gpu
        else CPU_PROCESSES_BYTES
    )
    longest_len = wish.max_model_len or config.max_positions
    block = per_token * wish.block_tokens
    longest = -(-longest_len // wish.block_tokens) * block
    room = device.num_bytes - weights - step - reserve
    kv = max(room, 0) if device.is_gpu else reasonable_on_cpu(max(room, 0), longest)
    blocks = kv // block
    lengths = sorted({*(each for each in wish.lengths if each < longest_len), longest_len})
    return Plan(
        device=device,
        dtype_bytes=dtype_bytes,
        weights=weights,
        step=step,
        reserve=reserve,
        kv=kv,
        kv_per_token=per_token,
        max_model_len=longest_len,
        tokens=blocks * wish.block_tokens,
        requests={
            each: min(blocks // -(-each // wish.block_tokens), wish.max_running) for each in lengths
        },
        missing=max(longest - room, 0),
    )


def step_bytes(config: ModelConfig, dtype_bytes: int, device: Device, wish: Wish) -> int:
    """The most that a forward pass allocates beside weights and cache."""
    tokens = max(STEP_TOKENS["gpu" if device.is_gpu else "cpu"], wish.max_running)
    widest = max(_layer_values(config, layer) for layer in config.layers)
    logits = wish.max_running * config.vocab_size * _LOGIT_BYTES
    return tokens * widest * dtype_bytes + logits


def reasonable_on_cpu(room: int, longest: int) -> int:
    """A machine's memory is not a server's to fill, unless one request needs it."""
    return min(max(int(CPU_SHARE * room), min(longest, room)), max(CPU_KV_BYTES, longest))


def advice(config: ModelConfig, found: Plan, wish: Wish) -> list[str]:
    """What to change so that it fits."""
    changes: list[str] = []
    if found.tokens:
        changes.append(f"lower maxModelLen to at most {found.tokens}")
    if found.dtype_bytes > 2 and found.device.is_gpu:
        changes.append("set dtype to bf16")
    needed = found.device.num_bytes + found.missing
    if found.device.is_gpu:
        larger = [
            name
            for name, size in GPUS.items()
            if size >= needed and plan(config, Device(name, size, True), wish).fits
        ]
        changes.append(f"take a GPU such as {larger[0]}" if larger else "choose a smaller model")
    else:
        changes.append(f"raise resources.limits.memory to {-(-needed // (1 << 20))}Mi")
    return changes


def _dtype_bytes(config: ModelConfig, device: Device, wish: Wish) -> int:
    """On a CPU `auto` may be fp32, where the processor lacks the checkpoint's format."""
    if wish.dtype == "auto" and not device.is_gpu:
        return footprint.item_bytes("fp32", config)
    return footprint.item_bytes(wish.dtype, config)


def _layer_values(config: ModelConfig, layer: LayerConfig) -> int:
    """Values per token that live at the same time in the widest place of a layer."""
    copies = 1 if layer.experts is None else layer.experts.per_token
    attention = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    return 4 * config.hidden_size + max(attention, 3 * layer.mlp_size * copies)
