"""For which sizes of decode steps graphs are recorded, what they keep, which takes a step. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.config import LayerConfig, ModelConfig

MOST_CHAINED = 16  # requests whose drafts are chained together: of more, other things take the time
_STEPS = ((8, 8, 256), (256, 64, 1024))  # from so many requests by so many up to so many
_MOST_VERIFIED = 256  # rows of a graph of requests that have drafts
_BETWEEN = 16  # times what a layer gives is held within one: heads, gates, sums of parts
_WIDE_BYTES = 4  # of a number in fp32
_UNIT_ROWS = 128  # of requests that begin alike, which are computed as one matrix;
_GROUPS = 16  # units that are not full, and
_PARTS = 148  # parts of units on the largest GPU: multiprocessors


@dataclass(frozen=True, slots=True)
class Size:
    """What a graph has room for; what a step does not fill is padding."""

    requests: int  # S
    tokens_each: int  # of a request, at most: one, and a draft behind it

    @property
    def rows(self) -> int:
        """Tokens of all requests together."""
        return self.requests * self.tokens_each


def graph_sizes(most_requests: int, longest_draft: int) -> list[Size]:
    """All sizes, the one with most rows first: what it needs suffices for the others.

    Args:
        most_requests: that decode together, 1 at least.
        longest_draft: tokens that are verified behind a request's own; 0: nobody drafts.
    """
    found = [Size(count, 1) for count in _counts(most_requests)]
    if longest_draft:
        each = longest_draft + 1
        most = max(1, min(most_requests, _MOST_VERIFIED // each))
        found += [Size(count, each) for count in _counts(most)]
    return sorted(found, key=lambda size: (-size.rows, size.tokens_each))


def graph_bytes(
    config: ModelConfig, item_bytes: int, most_requests: int, longest_draft: int = 0
) -> int:
    """About what the graphs of all sizes keep on a GPU: they share what the largest needs.

    Args:
        config: of a model whose steps are recorded.
        item_bytes: of one value of its activations.
        most_requests, longest_draft: as `graph_sizes` takes them.
    """
    rows = graph_sizes(most_requests, longest_draft)[0].rows
    logits = config.vocab_size * (_WIDE_BYTES + item_bytes)
    units = _GROUPS + -(-rows * config.num_heads // (config.num_kv_heads * _UNIT_ROWS))
    parts = max(config.num_kv_heads * units, _PARTS) * _UNIT_ROWS
    of_common = parts * config.head_dim * _WIDE_BYTES
    between = _BETWEEN * config.hidden_size + max(map(_gates_of_experts, config.layers))
    return of_common + rows * (logits + between * item_bytes)


def chain_bytes(config: ModelConfig, item_bytes: int, most_requests: int) -> int:
    """About what the graphs of chains of drafts keep, whose first steps have two tokens of each.

    Args:
        config, item_bytes: of the draft, as `graph_bytes` takes them.
        most_requests: that decode together.
    """
    return graph_bytes(config, item_bytes, min(most_requests, MOST_CHAINED), longest_draft=1)


def _gates_of_experts(layer: LayerConfig) -> int:
    """Of a token: gates, what goes through them, and their products, of all its experts."""
    return 0 if layer.experts is None else 3 * layer.mlp_size * layer.experts.per_token


def smallest(sizes: Iterable[Size], chunks: Sequence[Chunk]) -> Size | None:
    """The size with fewest rows that takes a step; None: none does.

    A step is taken if all of its tokens have logits. O(sizes + chunks).
    """
    rows = each = 0
    for chunk in chunks:
        if chunk.num_logits != chunk.num_tokens:
            return None
        rows += chunk.num_tokens
        each = max(each, chunk.num_tokens)
    fitting = (
        size
        for size in sizes
        if size.requests >= len(chunks) and size.tokens_each >= each and size.rows >= rows
    )
    return min(fitting, key=lambda size: (size.rows, size.tokens_each), default=None)


def _counts(most: int) -> list[int]:
    """1, 2, 4, 8, 16, 24, 32, … and the most itself; launches of more than 1024 are hidden."""
    most = min(most, _STEPS[-1][-1])
    growing = [count for first, by, last in _STEPS for count in range(first, last, by)]
    return [count for count in (1, 2, 4, *growing) if count < most] + [most]
