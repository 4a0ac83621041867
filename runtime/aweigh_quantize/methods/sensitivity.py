"""Mixed precision: which matrix gets which option, so that summed errors are least for the size.

A multiple-choice knapsack, solved by dynamic programming over what no other choice beats in both
size and error. With matrices of few sizes, as models have, there are few such sums, and the result
is optimal; otherwise sums are thinned out, and it is near.
"""

from collections.abc import Mapping

import torch

from aweigh_quantize.failures import Unusable

MOST_SUMS = 1 << 15  # that are kept from one matrix to the next


def assign(
    costs: Mapping[str, Mapping[str, float]],
    sizes: Mapping[str, Mapping[str, int]],
    budget_bits: int,
) -> dict[str, str]:
    """An option for each matrix.

    Args:
        costs: by matrix and option, the error that it makes.
        sizes: by matrix and option, its bits in all.
        budget_bits: what the options chosen may take together: average bits times weights.

    Returns:
        By matrix, the name of its option. Of equal errors the smaller size.

    Raises:
        ValueError: no choice is small enough, or costs and sizes name different things.
        Unusable: an error is not finite.
    """
    sums = torch.zeros(1, dtype=torch.int64)
    errors = torch.zeros(1, dtype=torch.float64)
    steps: list[tuple[str, list[str], torch.Tensor]] = []
    for matrix, options in costs.items():
        names, added, lost = _options(matrix, options, sizes.get(matrix, {}))
        all_sums = (sums[:, None] + added).flatten()
        all_errors = (errors[:, None] + lost).flatten()
        best = _unbeaten(all_sums, all_errors)
        sums, errors = all_sums[best], all_errors[best]
        steps.append((matrix, names, best))
    affordable = int((sums <= budget_bits).sum())
    if not affordable:
        raise ValueError(
            f"the budget is {budget_bits} bits; expected at least {int(sums[0])}, which the "
            "smallest options take"
        )
    return _traced(steps, affordable - 1)


def _options(
    matrix: str, costs: Mapping[str, float], sizes: Mapping[str, int]
) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    if not costs or costs.keys() != sizes.keys():
        raise ValueError(
            f"{matrix} has errors for {sorted(costs)} and sizes for {sorted(sizes)}; expected the "
            "same options, at least one"
        )
    names = list(costs)
    errors = torch.tensor([costs[name] for name in names], dtype=torch.float64)
    if not torch.isfinite(errors).all():
        raise Unusable(f"the errors of {matrix} are {errors.tolist()}; expected finite ones")
    return names, torch.tensor([sizes[name] for name in names]), errors


def _unbeaten(sums: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    """Places of sums, rising, whose errors are below those of all smaller sums."""
    by_error = errors.argsort(stable=True)
    order = by_error[sums[by_error].argsort(stable=True)]
    sorted_errors = errors[order]
    before = sorted_errors.cummin(0).values.roll(1)
    before[0] = torch.inf
    found = order[sorted_errors < before]
    if len(found) <= MOST_SUMS:
        return found
    kept = torch.linspace(0, len(found) - 1, MOST_SUMS, dtype=torch.float64).long()
    return found[kept]


def _traced(steps: list[tuple[str, list[str], torch.Tensor]], last: int) -> dict[str, str]:
    """What led to the place `last` among the sums over all matrices."""
    chosen: dict[str, str] = {}
    place = last
    for matrix, names, kept in reversed(steps):
        place, option = divmod(int(kept[place]), len(names))
        chosen[matrix] = names[option]
    return dict(reversed(chosen.items()))
