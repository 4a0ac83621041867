"""What routing has found, read back from its lists."""

import torch

from aweigh_kernels.routing import Routed


def chosen_by(routed: Routed) -> torch.Tensor:
    """[T·k], the expert in whose tiles each pair is; tiles are as they should be."""
    found: dict[int, list[int]] = {}
    whose = routed.experts.tolist()
    named = [expert for expert in whose if expert >= 0]
    assert named == sorted(named)
    assert set(whose[len(named) :]) <= {-1}
    for expert, pairs in zip(named, routed.pairs.tolist(), strict=False):
        before = found.setdefault(expert, [])
        assert not before or before[-1] != routed.num_pairs  # only the last tile is not full
        before += pairs
    chosen = torch.full((routed.num_pairs,), -1)
    for expert, pairs in found.items():
        own = [pair for pair in pairs if pair < routed.num_pairs]
        assert own == sorted(own)
        assert pairs == own + [routed.num_pairs] * (len(pairs) - len(own))
        assert (chosen[own] == -1).all()
        chosen[own] = expert
    assert (chosen >= 0).all()
    return chosen
