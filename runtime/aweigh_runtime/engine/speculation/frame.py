"""What a draft model is to those that draft with it, and what it fits into."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.step_inputs import Tokens

DraftForward = Callable[[Tokens, Sequence[Chunk]], torch.Tensor]
"""Tokens [T] of all chunks and the chunks; gives logits [sum of num_logits, V], fp32.

The next call may write over them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What a draft model fits into."""

    vocab_size: int  # of the target
    block_tokens: int  # tokens of a block of the pool
    max_model_len: int  # tokens of prompt and answer
    step_tokens: int  # most earlier tokens that are read in one step
    device: torch.device
