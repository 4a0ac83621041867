"""The second moments of a matrix's inputs, factored so that columns can make up for errors.

With H = R Rᵀ, R upper triangular, the loss tr(E H Eᵀ) of errors E [N, K] is the sum of squares of
E R. Its column j holds errors up to column j alone, and vanishes if column j is rounded from

    w[j] + sum over i < j of e[i] · R[i, j] / R[j, j]

without loss: Babai's nearest plane (Chen et al. 2025). In exact arithmetic that is GPTQ (Frantar et
al. 2022), which factors the inverse of H; R needs no inverse and a quarter of the work.

H is large where K is: 3.3 GB for 28,672 inputs. Nothing here holds more than one other matrix of
its size at a time.
"""

from collections.abc import Callable

import torch

from aweigh_quantize.failures import Unusable

Round = Callable[[int, torch.Tensor], torch.Tensor]

BLOCK = 128  # columns whose errors reach the later ones together
_TRIES = 8  # each with ten times the damping of the one before
_FIRST_TRY = 1e-4  # of the mean diagonal, beside what was asked for
_AT_ONCE = 1 << 18  # numbers that are moved at once


def damped(
    hessian: torch.Tensor, damping: float, order: torch.Tensor | None = None
) -> torch.Tensor:
    """A copy of H [K, K] with a share of its mean diagonal added to the diagonal.

    Columns that are always 0 have no other entry then: they are rounded to nearest.

    Args:
        hessian: [K, K], fp32.
        damping: the share.
        order: [K], int64: of the copy's rows and columns; None: as they lie.
    """
    if order is None:
        found = hessian.clone()
    else:
        found = torch.empty_like(hessian)
        for first in range(0, len(order), BLOCK):  # a copy of some rows at a time
            part = slice(first, first + BLOCK)
            found[part] = hessian[order[part]][:, order]
    found.diagonal().add_(_added(hessian, damping))
    return found


def damped_diagonal(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """The diagonal of what `damped` gives, [K]."""
    return hessian.diagonal() + _added(hessian, damping)


def factor(
    hessian: torch.Tensor, damping: float, order: torch.Tensor | None = None
) -> torch.Tensor:
    """R [K, K], upper triangular, with R Rᵀ what `damped` gives.

    It is factored in place, from the last column to the first. What is not positive definite is
    damped more.

    Raises:
        Unusable: H is far from positive definite.
    """
    backwards = torch.arange(len(hessian), device=hessian.device) if order is None else order
    backwards = backwards.flip(0)
    failed = torch.empty((), dtype=torch.int32, device=hessian.device)
    for more in (0.0, *(_FIRST_TRY * 10**attempt for attempt in range(_TRIES))):
        found = damped(hessian, damping + more, backwards)
        columns = found.t()  # as the library wants them: what it would copy otherwise
        torch.linalg.cholesky_ex(columns, out=(columns, failed))
        if not failed:
            _reverse_(found.view(-1))
            return columns
        del found, columns  # before there is another
    raise Unusable(
        "the inputs' second moments are not positive definite; expected x xᵀ summed over tokens"
    )


def _added(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    mean = hessian.diagonal().mean()
    return torch.where(mean > 0, mean * damping, torch.ones_like(mean))


def _reverse_(numbers: torch.Tensor) -> None:
    """Last first, in place: of a matrix laid out flat, its rows and columns at once."""
    half, count = len(numbers) // 2, len(numbers)
    for first in range(0, half, _AT_ONCE):
        last = min(first + _AT_ONCE, half)
        front, back = numbers[first:last], numbers[count - last : count - first]
        before = front.flip(0)
        front.copy_(back.flip(0))
        back.copy_(before)


def compensated(
    columns: torch.Tensor, errors: torch.Tensor, upper: torch.Tensor, part: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns as they should be, given the errors of all before them.

    Args:
        columns: [K, N], fp32: the weight, transposed.
        errors: [K, N], fp32: what rounding took from columns before `part`.
        upper: [K, K], fp32: R.
        part: some b columns.

    Returns:
        The columns [b, N], and the inverse of R's corner [b, b], which tells how each of them
        makes up for those before it.
    """
    corner = upper[part, part]
    one = torch.eye(len(corner), device=corner.device)
    inverse = torch.linalg.solve_triangular(corner, one, upper=True)
    carried = upper[: part.start, part].t() @ errors[: part.start]  # [b, N]
    return torch.addmm(columns[part], inverse.t(), carried), inverse


def compensate(
    columns: torch.Tensor,
    hessian: torch.Tensor,
    damping: float,
    order: torch.Tensor,
    round: Round,
    block: int = BLOCK,
) -> None:
    """Round all columns, each from what it should be given the errors of those before it.

    Args:
        columns: [K, N], fp32: the weight, transposed.
        hessian: [K, K].
        damping: as for `damped`.
        order: [K], int64: of the columns.
        round: given a column's number and the values [N] that it should have, keeps the nearest
            ones that there are and returns them.
        block: columns whose errors reach the later ones together.
    """
    upper = factor(hessian, damping, order)
    columns = columns[order]
    errors = torch.zeros_like(columns)
    for first in range(0, len(columns), block):
        part = slice(first, min(first + block, len(columns)))
        values, inverse = compensated(columns, errors, upper, part)
        for place, column in enumerate(order[part].tolist()):
            rounded = round(column, values[place])
            torch.sub(columns[first + place], rounded, out=errors[first + place])
            spread(values, inverse, place, rounded)


def spread(values: torch.Tensor, inverse: torch.Tensor, place: int, rounded: torch.Tensor) -> None:
    """Let the later columns of a block [b, N] make up for what rounding one of them [N] took."""
    error = (values[place] - rounded).div_(inverse[place, place])
    values[place + 1 :].addr_(inverse[place, place + 1 :], error, alpha=-1)


def by_importance(hessian: torch.Tensor) -> torch.Tensor:
    """The columns that matter most first, [K]: those after them can make up for their errors."""
    return hessian.diagonal().argsort(descending=True, stable=True)


def loss(errors: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """tr(E H Eᵀ) of errors [N, K], fp64: the summed squares of a layer's output errors."""
    wide = errors.double()
    return ((wide @ hessian.double()) * wide).sum()
