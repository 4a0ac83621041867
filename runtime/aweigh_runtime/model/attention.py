"""Attention over the paged cache for a step that mixes prompts and decodes.

The step's keys and values are stored before anything is read: a chunk may read blocks that another
chunk of the same step writes.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from aweigh_kernels import paged_attention
from aweigh_runtime.model.cache import LayerCache
from aweigh_runtime.model.capping import capped_
from aweigh_runtime.model.reads import (
    Decodes,
    Prompt,
    decodes,
    paged,
    paged_on_gpu,
    prompts,
    tiled,
)
from aweigh_runtime.model.step_plan import Plan

# cuDNN builds a plan for every new length: 35 ms on an H200, and every decode step has a new one.
torch.backends.cuda.enable_cudnn_sdp(False)

_SCORES = 1 << 26  # most scores that are held at once where they must be held


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What a layer's attention is, beside its weights."""

    num_heads: int  # H
    scale: float  # of the scores
    soft_cap: float | None = None  # scores become cap · tanh(score / cap)
    window: int | None = None  # a token sees itself and the window - 1 before it; None: all


def attend(
    heads: torch.Tensor,
    kv: LayerCache,
    plan: Plan,
    shape: AttentionShape,
    *,
    by_torch: bool = False,
) -> torch.Tensor:
    """Store the step's keys and values, and attend to everything each token may see.

    Args:
        heads: [T, H+2K, D], turned queries and keys, then values.
        kv: one layer of the cache.
        plan: of this step.
        shape: of this layer.
        by_torch: all of it, even where a kernel of ours would take it.

    Returns:
        [T, H·D].
    """
    query, new = heads[:, : shape.num_heads], heads[:, shape.num_heads :]
    return attend_stored(query, kv.store(new, plan.slots), kv, plan, shape, by_torch=by_torch)


def attend_stored(
    query: torch.Tensor,
    new: torch.Tensor,
    kv: LayerCache,
    plan: Plan,
    shape: AttentionShape,
    *,
    by_torch: bool = False,
) -> torch.Tensor:
    """The same where the step's keys and values are in the cache.

    Args:
        query: [T, H, D], turned.
        new: [T, 2K, D], the step's keys and values, as they are read from the cache.
        kv: one layer of the cache.
        plan: of this step.
        shape: of this layer.
        by_torch: all of it, even where a kernel of ours would take them.

    Returns:
        [T, H·D].
    """
    output = query.new_empty(query.shape)  # [T, H, D]
    if by_torch or not _attend_prompts_by_kernel(query, kv, plan, shape, output):
        for prompt in plan.layout(prompts, shape.window):
            output[prompt.rows] = _attend_prompt(query, new, kv, prompt, shape)
    if by_torch or not _attend_by_kernel(query, kv, plan, shape, output):
        for group in plan.layout(decodes, shape.window):
            output[group.rows] = _attend_decodes(query, kv, group, shape)
    return output.flatten(1)


def _attend_prompts_by_kernel(
    query: torch.Tensor, kv: LayerCache, plan: Plan, shape: AttentionShape, output: torch.Tensor
) -> bool:
    """All longer chunks, where a kernel of ours takes them; False: there is none for them."""
    if not query.is_cuda:
        return False
    from aweigh_kernels import prefill_attention_gpu  # Triton is not everywhere

    if not prefill_attention_gpu.takes(query, kv.kept):
        return False
    tokens = prefill_attention_gpu.tile_tokens(query, kv.kept)
    prefill_attention_gpu.attend(
        query,
        kv.kept,
        plan.layout(tiled(tokens), shape.window),
        shape.scale,
        output,
        soft_cap=shape.soft_cap,
        kv_scales=kv.scales,
    )
    return True


def _attend_by_kernel(
    query: torch.Tensor, kv: LayerCache, plan: Plan, shape: AttentionShape, output: torch.Tensor
) -> bool:
    """All decodes, where a kernel of ours takes them; False: there is none for such tensors."""
    if query.is_cuda:
        from aweigh_kernels import paged_attention_gpu  # Triton is not everywhere

        seen = plan.layout(paged_on_gpu, shape.window)
        if not paged_attention_gpu.takes(query, kv.kept, seen.most_tokens):
            return False
        paged_attention_gpu.attend(
            query,
            kv.kept,
            seen,
            shape.scale,
            output,
            soft_cap=shape.soft_cap,
            kv_scales=kv.scales,
        )
        return True
    if shape.soft_cap is not None or not paged_attention.takes(query, kv.kept):
        return False
    reads = plan.layout(paged, shape.window)
    paged_attention.attend(query, kv.kept, reads, shape.scale, output)
    return True


def _attend_decodes(
    query: torch.Tensor, kv: LayerCache, decodes: Decodes, shape: AttentionShape
) -> torch.Tensor:
    rows = query[decodes.rows]  # [S·n, H, D], n new tokens of each request
    num_kv_heads, count = kv.num_kv_heads, decodes.num_tokens
    seen = kv.read(decodes.blocks)
    seen = seen.view(len(rows) // count, -1, *seen.shape[2:]).transpose(1, 2)
    keys, values = seen[:, :num_kv_heads], seen[:, num_kv_heads:]  # [S, K, blocks·P, D]
    # The queries that share a key head become the query positions of one head: no key is repeated.
    heads = rows.view(len(keys), count, num_kv_heads, -1, rows.shape[-1]).permute(0, 2, 3, 1, 4)
    sharing = heads.shape[2]  # H/K
    grouped = heads.flatten(2, 3)  # [S, K, H/K·n, D]
    mask = decodes.mask if count == 1 else decodes.mask.repeat(1, 1, sharing, 1)
    if shape.soft_cap is not None:
        found = _capped(grouped, keys, values, mask, shape)
    else:
        found = scaled_dot_product_attention(
            grouped, keys, values, attn_mask=mask, scale=shape.scale
        )
    by_token = found.view(*found.shape[:2], sharing, count, -1).permute(0, 3, 1, 2, 4)
    return by_token.reshape(rows.shape)


def _attend_prompt(
    query: torch.Tensor, new: torch.Tensor, kv: LayerCache, prompt: Prompt, shape: AttentionShape
) -> torch.Tensor:
    num_kv_heads = kv.num_kv_heads
    rows = query[prompt.rows]  # [tokens, H, D]
    # Key heads become the batch, and the queries that share one its heads: no key is repeated.
    grouped = rows.view(len(rows), num_kv_heads, -1, rows.shape[-1]).permute(1, 2, 0, 3)
    if prompt.blocks is None:
        seen = new[prompt.rows]
    else:
        seen = kv.read(prompt.blocks).flatten(0, 1)[: prompt.seen]
    seen = seen.transpose(0, 1)[:, None].expand(-1, grouped.shape[1], -1, -1)
    keys, values = seen[:num_kv_heads], seen[num_kv_heads:]  # [K, H/K, seen, D]
    if shape.soft_cap is not None:
        found = _capped(grouped, keys, values, prompt.mask, shape)
    else:
        found = scaled_dot_product_attention(
            grouped,
            keys,
            values,
            attn_mask=prompt.mask,
            is_causal=prompt.mask is None,
            scale=shape.scale,
        )
    return found.permute(2, 0, 1, 3).flatten(1, 2)


def _capped(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    shape: AttentionShape,
) -> torch.Tensor:
    """Attention with soft-capped scores, [A, C, rows, D], some rows at a time."""
    assert shape.soft_cap is not None
    num_rows, seen = query.shape[2], keys.shape[2]
    step = max(1, _SCORES // (query.shape[0] * query.shape[1] * seen))
    output = torch.empty_like(query)
    for first in range(0, num_rows, step):
        rows = slice(first, min(first + step, num_rows))
        scores = query[:, :, rows] @ keys.transpose(2, 3)
        scores = capped_(scores.mul_(shape.scale), shape.soft_cap)
        if mask is None:
            positions = torch.arange(seen, device=query.device)
            scores.masked_fill_(positions > positions[rows, None], float("-inf"))
        else:
            scores += mask if mask.shape[-2] == 1 else mask[..., rows, :]
        weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
        output[:, :, rows] = weights @ values
    return output
