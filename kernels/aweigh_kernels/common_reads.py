"""Which requests of a step begin with the same blocks, as arrays that GPU kernels read.

It needs no Triton: a step's inputs are laid out anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

MOST_GROUPS = 16  # of a step

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Group:
    """Requests whose tables begin with the same blocks."""

    members: Integers  # requests, two at least
    positions: int  # in these blocks: their own new tokens are behind them


@dataclass(frozen=True, slots=True)
class CommonReads:
    """The groups of a step, in units of so many requests as one matrix has room for."""

    positions: torch.Tensor  # [S], int32: that a request has in common with its unit; 0: none
    places: torch.Tensor  # [S], int32: unit · unit_members + place in it; of others anything
    members: torch.Tensor  # [S], int32: requests, unit after unit
    units: torch.Tensor  # [U, 2], int32: where its members begin, how many; 0: no more units
    unit_members: int  # of a unit, at most

    @classmethod
    def over(cls, packed: torch.Tensor, num_requests: int, unit_members: int) -> "CommonReads":
        """What `pack` has made, wherever it was copied to.

        Args:
            packed: [packed_size], int32.
            num_requests: S.
            unit_members: as it was packed for.
        """
        positions, places, members = packed[: 3 * num_requests].view(3, num_requests)
        units = packed[3 * num_requests :].view(-1, 2)
        return cls(positions, places, members, units, unit_members)


def most_units(num_requests: int, unit_members: int) -> int:
    """U: full ones, and of each group one that is not."""
    return -(-num_requests // unit_members) + min(MOST_GROUPS, num_requests // 2)


def packed_size(num_requests: int, unit_members: int) -> int:
    """Numbers of a step of so many requests."""
    return 3 * num_requests + 2 * most_units(num_requests, unit_members)


def pack(groups: Sequence[Group], num_requests: int, unit_members: int) -> npt.NDArray[np.int32]:
    """Lay out the groups of a step. O(S).

    Args:
        groups: MOST_GROUPS at most, no request in two of them.
        num_requests: S, padding included.
        unit_members: requests of a unit, at most.

    Returns:
        [packed_size], for `CommonReads.over`.
    """
    packed = np.zeros(packed_size(num_requests, unit_members), np.int32)
    positions, places, members = packed[: 3 * num_requests].reshape(3, -1)
    units = packed[3 * num_requests :].reshape(-1, 2)
    begins = unit = 0
    for group in groups:
        count = len(group.members)
        positions[group.members] = group.positions
        places[group.members] = unit * unit_members + np.arange(count)
        members[begins : begins + count] = group.members
        firsts = np.arange(0, count, unit_members)
        of_group = units[unit : unit + len(firsts)]
        of_group[:, 0] = begins + firsts
        of_group[:, 1] = np.minimum(count - firsts, unit_members)
        begins += count
        unit += len(firsts)
    return packed
