"""How a model fits into memory, computed from its config. Pure: nothing is loaded or measured.

What a server measures at its start is estimated here: the largest step, and what drivers and
libraries take for themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aweigh_api.number_formats import KvCacheDTypeName
from aweigh_api.spec import DTypeName
from aweigh_runtime.engine import sizing
from aweigh_runtime.model import footprint
from aweigh_runtime.model.config import LayerConfig, ModelConfig
from aweigh_runtime.model.graph_sizes import chain_bytes, graph_bytes

if TYPE_CHECKING:  # it needs torch, whose import takes seconds
    from aweigh_runtime.formats.layout import Quantization

MEBI, GIBI = 1 << 20, 1 << 30
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
GPU_LIBRARIES_BYTES = 600 << 20  # the driver's context and work space of matrix products
CPU_PROCESSES_BYTES = 700 << 20  # interpreters and libraries of both processes
LENGTHS = (512, 2048, 8192, 32_768, 131_072)  # tokens of a request, for the table
# Per token of the vocabulary and row: logits, sorted, their ids and sums;
_LOGIT_BYTES = 16
_DRAFTED_LOGIT_BYTES = 36  # of a drafted token also what both models expected, and noise

# Schemes whose products graphs may hold.
_RECORDED = ("awq", "fp8", "gptq", "int4", "int8", "marlin24", "nvfp4")


@dataclass(frozen=True, slots=True)
class Device:
    """Where a model shall run."""

    name: str
    num_bytes: int
    is_gpu: bool

    @property
    def kind(self) -> str:
        """As the engine names it."""
        return "cuda" if self.is_gpu else "cpu"


@dataclass(frozen=True, slots=True)
class Draft:
    """A model that guesses what the large one will say."""

    uri: str
    config: ModelConfig
    kept_bytes: footprint.KeptBytes | None = None  # of each matrix; None: all are dense


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What an InferenceService, or the command line, says about memory."""

    dtype: DTypeName = "auto"
    kv_cache_dtype: KvCacheDTypeName = "auto"
    quantization: "Quantization | None" = None  # of the model's matrices
    kept_bytes: footprint.KeptBytes | None = None  # of each
    max_model_len: int | None = None
    max_running: int = 256
    block_tokens: int = 16
    host: int = 0  # bytes of host memory for what leaves the cache
    longest_draft: int = 0  # tokens; 0: nothing is drafted
    drafts: Sequence[Draft] = ()
    lengths: Sequence[int] = LENGTHS


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where a device's memory goes, in bytes."""

    device: Device
    dtype_bytes: int
    weights: int
    drafts: dict[str, int]  # URI of a draft model → its weights
    step: int  # activations and logits of the largest step
    graphs: int  # recorded decode steps, of the model and all drafts
    reserve: int  # libraries, and what stays free
    host: int  # for what leaves the cache: a pod's own memory, but not a GPU's
    left: int  # to other programs of a machine, where no GPU is filled
    kv: int  # for keys and values; 0 when not even the weights fit
    kv_per_token: int  # of the model and all drafts
    draft_kv_per_token: dict[str, int]  # URI of a draft model → its part of it
    max_model_len: int
    tokens: int  # that the KV memory holds
    requests: dict[int, int]  # length in tokens → so many fit at once
    missing: int  # bytes that one request of max_model_len tokens lacks; 0: it fits

    @property
    def fits(self) -> bool:
        """A server would start."""
        return self.missing == 0


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a server makes of a device: it goes without drafts where only the model fits."""

    plan: Plan
    left_out: tuple[str, ...]  # URIs of draft models
    advice: list[str]  # what to change so that everything fits


def fitted(config: ModelConfig, device: Device, wish: Wish) -> Fitted:
    """Divide a device's memory, with the drafts if there is room for them."""
    found = plan(config, device, wish)
    if found.fits:
        return Fitted(found, (), [])
    changes = advice(config, found, wish)
    if found.drafts:
        alone = plan(config, device, replace(wish, drafts=(), longest_draft=0))
        if alone.fits:
            return Fitted(alone, tuple(found.drafts), changes)
    return Fitted(found, (), changes)


def plan(config: ModelConfig, device: Device, wish: Wish) -> Plan:
    """Divide a device's memory as a server does."""
    dtype_bytes = _dtype_bytes(config, device, wish)
    weights = footprint.weight_bytes(config, dtype_bytes, wish.kept_bytes)
    drafts, draft_kv, steps = {}, {}, [step_bytes(config, dtype_bytes, device, wish)]
    quantized = wish.quantization is not None and wish.quantization.scheme in _RECORDED
    recorded = quantized or footprint.is_dense(config, wish.kept_bytes)
    graphs = _recorded_bytes(config, dtype_bytes, device, wish) if recorded else 0
    for each in wish.drafts:
        own_bytes = _draft_dtype_bytes(each, device, wish)
        drafts[each.uri] = footprint.weight_bytes(each.config, own_bytes, each.kept_bytes)
        draft_kv[each.uri] = footprint.bytes_per_token(each.config, own_bytes)
        steps.append(step_bytes(each.config, own_bytes, device, wish))
        alone = replace(wish, longest_draft=sizing.RECORDED_TOKENS - 1)
        if footprint.is_dense(each.config, each.kept_bytes):
            graphs += _recorded_bytes(each.config, own_bytes, device, alone)
            graphs += _chained_bytes(each.config, own_bytes, device, wish)
    step = max(steps)
    # A block of the pool has the keys and values of its tokens in each of the models.
    per_token = footprint.bytes_per_token(config, _cached_bytes(dtype_bytes, wish))
    per_token += sum(draft_kv.values())
    reserve = sizing.spare_bytes(device.kind, device.num_bytes) + (
        GPU_LIBRARIES_BYTES if device.is_gpu else CPU_PROCESSES_BYTES
    )
    longest_len = footprint.model_len(config, wish.max_model_len)
    block = per_token * wish.block_tokens
    longest = -(-longest_len // wish.block_tokens) * block
    room = device.num_bytes - weights - sum(drafts.values()) - step - graphs - reserve
    room -= 0 if device.is_gpu else wish.host
    kv = sizing.kv_bytes(device.kind, max(room, 0), longest)
    blocks = kv // block
    lengths = sorted({*(each for each in wish.lengths if each < longest_len), longest_len})
    return Plan(
        device=device,
        dtype_bytes=dtype_bytes,
        weights=weights,
        drafts=drafts,
        step=step,
        graphs=graphs,
        reserve=reserve,
        host=wish.host,
        left=max(room - kv, 0),
        kv=kv,
        kv_per_token=per_token,
        draft_kv_per_token=draft_kv,
        max_model_len=longest_len,
        tokens=blocks * wish.block_tokens,
        requests={
            each: min(blocks // -(-each // wish.block_tokens), wish.max_running) for each in lengths
        },
        missing=max(longest - room, 0),
    )


def _draft_dtype_bytes(draft: Draft, device: Device, wish: Wish) -> int:
    """A draft computes in its checkpoint's own format, and caches in it."""
    return _dtype_bytes(draft.config, device, replace(wish, dtype="auto"))


def _cached_bytes(dtype_bytes: int, wish: Wish) -> int:
    """Of one number among cached keys and values."""
    made_for = None if wish.quantization is None else wish.quantization.kv_cache_scheme
    kept = made_for or "auto" if wish.kv_cache_dtype == "auto" else wish.kv_cache_dtype
    return footprint.cached_bytes(kept, dtype_bytes)


def _recorded_bytes(config: ModelConfig, dtype_bytes: int, device: Device, wish: Wish) -> int:
    """Of graphs, which are recorded of what our own kernels compute from end to end."""
    if not device.is_gpu or dtype_bytes != 2:
        return 0
    return graph_bytes(config, dtype_bytes, wish.max_running, wish.longest_draft)


def _chained_bytes(config: ModelConfig, dtype_bytes: int, device: Device, wish: Wish) -> int:
    """Of the graphs of a draft's chains."""
    if not device.is_gpu or dtype_bytes != 2:
        return 0
    return chain_bytes(config, dtype_bytes, wish.max_running)


def step_bytes(config: ModelConfig, dtype_bytes: int, device: Device, wish: Wish) -> int:
    """The most that a forward pass allocates beside weights and cache."""
    tokens = max(sizing.STEP_TOKENS[device.kind], wish.max_running)
    widest = max(_layer_values(config, layer) for layer in config.layers)
    drafted = min(wish.max_running * wish.longest_draft, sizing.DRAFTED_TOKENS, tokens)
    logit_bytes = wish.max_running * _LOGIT_BYTES + drafted * _DRAFTED_LOGIT_BYTES
    return tokens * widest * dtype_bytes + config.vocab_size * logit_bytes


def advice(config: ModelConfig, found: Plan, wish: Wish) -> list[str]:
    """What to change so that it fits."""
    changes: list[str] = []
    if found.tokens:
        changes.append(f"lower maxModelLen to at most {found.tokens}")
    if found.drafts and found.missing <= sum(found.drafts.values()):
        changes.append("leave out the draft models")
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
        limit = needed - found.host  # the operator adds it to the limit
        changes.append(f"raise resources.limits.memory to {-(-limit // MEBI)}Mi")
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
