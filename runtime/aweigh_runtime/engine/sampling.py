"""Chooses the next token of every row of a step in one batched pass.

A row is sampled by an exponential race: the token with the largest p ÷ E wins, where E is
exponential noise. The noise is a function of the row's seed, the position and the token alone, so
a seeded request gets the same text alone and in any batch, as far as its logits are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from aweigh_runtime.engine.messages import Sampling

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 ÷ golden ratio: splitmix64's increment
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1
_GREEDY_BELOW = 1e-5


@dataclass(frozen=True, slots=True)
class Row:
    """What one row of logits is sampled with."""

    sampling: Sampling
    position: int  # of the token that is chosen

    @property
    def greedy(self) -> bool:
        """The likeliest token is taken."""
        return self.sampling.temperature < _GREEDY_BELOW


def choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    """The next token of every row.

    Args:
        logits: [S, V], fp32.
        rows: S of them.
    """
    tokens = logits.argmax(dim=-1)
    sampled = [index for index, row in enumerate(rows) if not row.greedy]
    if sampled:
        index = torch.tensor(sampled, device=logits.device)
        tokens[index] = _sample(logits[index], [rows[i] for i in sampled])
    chosen: list[int] = tokens.tolist()
    return chosen


def _sample(logits: torch.Tensor, rows: list[Row]) -> torch.Tensor:
    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device).unsqueeze(-1)

    temperature = column([row.sampling.temperature for row in rows])
    probabilities = torch.softmax(logits / temperature, dim=-1)  # [S, V]
    race = probabilities / _exponential(rows, logits.shape[-1], logits.device)
    floor = column([row.sampling.min_p for row in rows]) * probabilities.amax(-1, keepdim=True)
    race.masked_fill_(probabilities < floor, 0.0)
    if any(row.sampling.top_p < 1.0 or row.sampling.top_k > 0 for row in rows):
        race = _only_the_likeliest(race, probabilities, rows)
    return race.argmax(dim=-1)


def _only_the_likeliest(
    race: torch.Tensor, probabilities: torch.Tensor, rows: list[Row]
) -> torch.Tensor:
    """Zero what top_k and top_p leave out. The likeliest token always stays."""
    size = race.shape[-1]
    ordered, index = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered  # probability of all likelier tokens
    top_p = torch.tensor([row.sampling.top_p for row in rows], device=race.device).unsqueeze(-1)
    top_k = torch.tensor([row.sampling.top_k or size for row in rows], device=race.device)
    rank = torch.arange(size, device=race.device)
    dropped = ((before >= top_p) & (top_p < 1.0)) | (rank >= top_k.unsqueeze(-1))
    dropped[:, 0] = False
    return race.masked_fill(torch.zeros_like(dropped).scatter_(-1, index, dropped), 0.0)


def _exponential(rows: list[Row], size: int, device: torch.device) -> torch.Tensor:
    """Noise of rate 1, [S, V], positive and finite."""
    keys = torch.tensor([_signed(_key(row)) for row in rows], device=device).unsqueeze(-1)
    steps = torch.arange(size, device=device) * _signed(_GOLDEN)
    bits = _mixed(keys + steps)
    uniform = ((_shifted(bits, 41)).to(torch.float32) + 0.5) * 2.0**-23  # in (0, 1), exact
    return -torch.log(uniform)


def _key(row: Row) -> int:
    """splitmix64 over seed and position, in Python's integers."""
    key = (row.sampling.seed + (row.position + 1) * _GOLDEN) & _MASK
    key = ((key ^ (key >> 30)) * _MIX_1) & _MASK
    key = ((key ^ (key >> 27)) * _MIX_2) & _MASK
    return key ^ (key >> 31)


def _mixed(values: torch.Tensor) -> torch.Tensor:
    """The same mixing on int64 tensors, whose products wrap around like unsigned ones."""
    values = (values ^ _shifted(values, 30)) * _signed(_MIX_1)
    values = (values ^ _shifted(values, 27)) * _signed(_MIX_2)
    return values ^ _shifted(values, 31)


def _shifted(values: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical shift: torch's own copies the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
