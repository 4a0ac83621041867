"""How often a target accepts what a draft proposes.

A proposed token is accepted with probability Σ min(p, q) over the vocabulary, p the target's
distribution and q the draft's (Leviathan et al. 2023, arXiv 2211.17192): one minus their total
variation distance. What a server puts out with speculation is distributed as the target's own text,
so the target's text is where to measure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from aweigh_distill.batch import batch_of, in_parts, new_cache
from aweigh_quantize.evaluation import Estimate, mean
from aweigh_quantize.texts import Text
from aweigh_runtime.model.decoder import Decoder

ALL = "all"


@dataclass(frozen=True, slots=True)
class Document:
    """One text of the target; sums over its predicted tokens."""

    kind: str
    num_tokens: int
    accepted: float


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Of two drafts over the same documents."""

    num_tokens: int
    before: Estimate
    after: Estimate
    gain: Estimate  # after - before, paired by documents


def accepted(target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
    """Σ min(p, q) of each row.

    Args:
        target: logits [R, V of the target].
        draft: logits [R, V of the draft]; models pad a vocabulary that they share differently.

    Returns:
        [R], fp32, 0 to 1.
    """
    p = target.float().softmax(-1)
    size = min(p.shape[-1], draft.shape[-1])
    q = draft[:, : p.shape[-1]].float().softmax(-1)
    return torch.minimum(p[:, :size], q[:, :size]).sum(-1)


def agreeing(target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
    """Whether the likeliest token is the same: [R], fp32, 0 or 1. Arguments as of `accepted`."""
    return (target.argmax(-1) == draft[:, : target.shape[-1]].argmax(-1)).float()


def measure(
    target: Decoder, draft: Decoder, kinds: Sequence[str], texts: Sequence[Text], *, greedy: bool
) -> list[Document]:
    """Compare two models on texts of the target.

    Args:
        target: the model that has written them.
        draft: the one that would have proposed their tokens.
        kinds: of each text.
        texts: at least two tokens each.
        greedy: count tokens that are the likeliest of both, as for greedy decoding.
    """
    vocab_size = target.config.vocab_size
    caches = [new_cache(model, texts, vocab_size) for model in (target, draft)]
    compare, sums = agreeing if greedy else accepted, []
    for part in in_parts(texts, vocab_size):
        batch = batch_of(part, target.device)
        logits = [
            model.forward(batch.tokens, batch.chunks, cache)
            for model, cache in zip((target, draft), caches, strict=True)
        ]
        rows = compare(*logits).double()
        sums += [each.sum().item() for each in torch.split(rows, list(batch.num_predicted))]
    return [
        Document(kind, text.num_predicted, value)
        for kind, text, value in zip(kinds, texts, sums, strict=True)
    ]


def compare(before: Sequence[Document], after: Sequence[Document]) -> Mapping[str, Acceptance]:
    """By kind, and of all where there are several."""
    kinds = sorted({document.kind for document in before})
    groups = {kind: (kind,) for kind in kinds} | ({ALL: tuple(kinds)} if len(kinds) > 1 else {})
    return {name: _compared(before, after, chosen) for name, chosen in groups.items()}


def _compared(
    before: Sequence[Document], after: Sequence[Document], kinds: Sequence[str]
) -> Acceptance:
    pairs = [each for each in zip(before, after, strict=True) if each[0].kind in kinds]
    sizes = [first.num_tokens for first, _ in pairs]
    return Acceptance(
        num_tokens=sum(sizes),
        before=mean([first.accepted for first, _ in pairs], sizes),
        after=mean([second.accepted for _, second in pairs], sizes),
        gain=mean([second.accepted - first.accepted for first, second in pairs], sizes),
    )
