"""Counts what steps have done, for metrics and `/state`. Pure: nothing but counters changes."""

from aweigh_runtime.engine.messages import Counters
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.scheduler import Part


def count_computed(counters: Counters, part: Part) -> None:
    """Keys and values of a part's tokens are in the cache."""
    request = part.request
    new = range(max(request.reached, part.start), part.end)
    counters.recomputed_tokens += part.num_tokens - len(new)
    if request.answering and part.num_tokens == 1:
        counters.decoded_rows += 1
        counters.kv_tokens_read += part.end
    elif new and new.start < request.num_prompt_tokens:
        counters.computed_prompt_tokens += min(new.stop, request.num_prompt_tokens) - new.start


def count_read(counters: Counters, request: Request, *, looked_up: bool, token_s: float) -> None:
    """All of a prompt has been read: this is called once for each answer to it.

    Of several answers to one prompt only the first counts: the others find what it has left.

    Args:
        counters: are changed.
        request: whose prompt it is.
        looked_up: whether it could have found a prefix.
        token_s: that computing a token of a prompt takes.
    """
    if not request.first:
        return
    counters.cached_prompt_tokens += request.cached
    if looked_up:
        counters.looked_up_prompt_tokens += request.num_prompt_tokens
    counters.saved_prefill_seconds += request.cached * token_s


def count_new(counters: Counters, part: Part, new: int, drafted: int, kept: int) -> None:
    """An answer has got so many new tokens, of which `kept` were drafted.

    What was drafted behind the end of an answer is nobody's fault.
    """
    request = part.request
    counters.generated_tokens += new
    if request.num_prompt_tokens + new < len(request.tokens) and part.num_tokens == 1:
        counters.decode_tokens += new
    if not drafted:
        return
    drafted = drafted if new > kept else new
    counters.drafted_tokens += drafted
    counters.accepted_tokens += kept
    missing = drafted - len(counters.drafted_at)
    counters.drafted_at.extend([0] * missing)
    counters.accepted_at.extend([0] * missing)
    for place in range(drafted):
        counters.drafted_at[place] += 1
        counters.accepted_at[place] += place < kept
