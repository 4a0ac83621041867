"""What calibration knows of the inputs of a matrix. It keeps sums and a sample, never every input.

The same tokens in the same order give the same sample however they are split into batches.
"""

from collections.abc import Mapping

import torch

from aweigh_quantize.failures import Unusable

MOST_ROWS = 2048  # of the sample
FEWEST_TOKENS = 128  # from which figures are taken for those of the model
_COLUMNS = 2048  # of second moments at a time
_SPREAD = -7046029254386353131  # 2^64 divided by the golden ratio, as a signed number


class Inputs:
    """Running figures of all tokens that `add` saw."""

    def __init__(self, num_columns: int, device: torch.device | str = "cpu") -> None:
        zeros = torch.zeros(num_columns, device=device)
        self.hessian = torch.zeros(num_columns, num_columns, device=device)
        """[K, K], fp32: twice the mean of x xᵀ."""
        self.num_tokens = 0
        self.mean_abs = zeros  # [K], fp32
        self.low = torch.full_like(zeros, torch.inf)  # [K], fp32
        self.high = torch.full_like(zeros, -torch.inf)  # [K], fp32
        self.rows = torch.zeros(0, num_columns, device=device)
        """[R, K], R at most MOST_ROWS: a sample of tokens, in the number format of the inputs."""
        self._ranks = torch.zeros(0, dtype=torch.int64, device=device)  # [R], of the sample

    @property
    def max_abs(self) -> torch.Tensor:
        """[K], fp32."""
        return torch.maximum(self.low.neg(), self.high)

    def add(self, x: torch.Tensor) -> None:
        """Take more tokens into account.

        Args:
            x: [..., K], any floating point.

        Raises:
            ValueError: x has another width.
            Unusable: numbers are not finite.
        """
        num_columns = len(self.mean_abs)
        if x.shape[-1] != num_columns:
            raise ValueError(f"inputs are {list(x.shape)}; expected [..., {num_columns}]")
        tokens = x.reshape(-1, num_columns)
        if not len(tokens):
            return
        wide = tokens.float()
        if not torch.isfinite(wide).all():
            raise Unusable("inputs hold numbers that are not finite; expected finite ones")
        before, self.num_tokens = self.num_tokens, self.num_tokens + len(tokens)
        # Means, not sums: they stay in fp32's range however many tokens come.
        self.hessian.mul_(before / self.num_tokens)
        # A batch is summed by itself first: added to the mean one by one, its tokens would be lost
        # in rounding. Columns in parts: that needs no second matrix of the same size.
        for first in range(0, num_columns, _COLUMNS):
            part = slice(first, first + _COLUMNS)
            moments = wide.t() @ wide[:, part]
            self.hessian[:, part].add_(moments, alpha=2 / self.num_tokens)
        self.mean_abs = torch.lerp(self.mean_abs, wide.abs().mean(0), len(tokens) / self.num_tokens)
        self.low = torch.minimum(self.low, wide.amin(0))
        self.high = torch.maximum(self.high, wide.amax(0))
        self._sample(tokens, before)

    def expect_enough(self) -> None:
        """Refuse figures of too few tokens.

        Raises:
            Unusable: says how many there are.
        """
        if self.num_tokens < FEWEST_TOKENS:
            raise Unusable(
                f"calibration saw {self.num_tokens} tokens; expected at least {FEWEST_TOKENS}: "
                "give more or longer texts"
            )

    def divided(self, scales: torch.Tensor) -> "Inputs":
        """The figures of the same tokens if x is divided by scales [K], above 0, first."""
        inverse = scales.float().reciprocal()
        tensors = self.tensors()
        tensors["hessian"] = (self.hessian * inverse).mul_(inverse[:, None])
        tensors |= {name: tensors[name] * inverse for name in ("mean_abs", "low", "high")}
        tensors["rows"] = (self.rows.float() * inverse).to(self.rows.dtype)
        return Inputs.restored(tensors)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that `restored` makes the same figures of."""
        return {
            "hessian": self.hessian,
            "num_tokens": torch.tensor(self.num_tokens),
            "mean_abs": self.mean_abs,
            "low": self.low,
            "high": self.high,
            "rows": self.rows,
            "ranks": self._ranks,
        }

    @classmethod
    def restored(cls, tensors: Mapping[str, torch.Tensor]) -> "Inputs":
        """The figures that `tensors` wrote; more can be added."""
        found = cls(len(tensors["mean_abs"]), tensors["mean_abs"].device)
        found.hessian = tensors["hessian"]
        found.num_tokens = int(tensors["num_tokens"])
        found.mean_abs, found.low, found.high = (
            tensors[name] for name in ("mean_abs", "low", "high")
        )
        found.rows, found._ranks = tensors["rows"], tensors["ranks"]
        return found

    def _sample(self, tokens: torch.Tensor, before: int) -> None:
        """Keep the tokens of the lowest ranks: multiples of the golden ratio lie evenly."""
        places = torch.arange(before, before + len(tokens), device=tokens.device)
        ranks = torch.cat([self._ranks, places * _SPREAD])
        rows = torch.cat([self.rows.to(tokens.dtype), tokens])
        if len(ranks) > MOST_ROWS:
            kept = ranks.argsort()[:MOST_ROWS].sort().values  # in the order they came
            ranks, rows = ranks[kept], rows[kept]
        self._ranks, self.rows = ranks, rows
