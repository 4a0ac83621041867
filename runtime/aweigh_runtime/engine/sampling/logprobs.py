"""How likely tokens were by the model's own logits."""

from collections.abc import Sequence

import torch

from aweigh_runtime.engine.messages import TokenLogprobs
from aweigh_runtime.engine.sampling.ranking import nearest

_ROWS_AT_ONCE = 64  # bounds the memory for long prompts


def logprobs(
    logits: torch.Tensor, targets: Sequence[int], tops: Sequence[int]
) -> list[TokenLogprobs]:
    """Log-probability and rank of each row's target, and so many of its likeliest tokens.

    Args:
        logits: [S, V], fp32, as the model computed them.
        targets: S tokens.
        tops: S numbers of likeliest tokens.
    """
    parts: list[TokenLogprobs] = []
    for begin in range(0, len(targets), _ROWS_AT_ONCE):
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        parts += _few(logits[rows], targets[rows], tops[rows])
    return parts


def _few(logits: torch.Tensor, targets: Sequence[int], tops: Sequence[int]) -> list[TokenLogprobs]:
    size = logits.shape[-1]
    best = logits.amax(dim=-1, keepdim=True)
    gaps = best - logits
    total = gaps.neg().logsumexp(dim=-1, keepdim=True)
    target = torch.tensor(targets, device=logits.device).unsqueeze(-1)
    gap = gaps.gather(-1, target)
    earlier = torch.arange(size, device=logits.device) < target
    ranks = 1 + ((gaps < gap) | ((gaps == gap) & earlier)).sum(dim=-1)
    near, tokens = nearest(gaps, min(size, max(tops)))
    columns = zip(
        (-gap - total).squeeze(-1).tolist(),
        ranks.tolist(),
        tokens.tolist(),
        (-near - total).tolist(),
        tops,
        strict=True,
    )
    return [
        TokenLogprobs(logprob, rank, list(zip(ids[:top], values[:top], strict=True)))
        for logprob, rank, ids, values, top in columns
    ]
