"""Which requests of a step begin with the same blocks. Integers only.

The prefix cache gives requests that begin with the same tokens the same blocks. What they have in
common may branch: all of a server's requests share one prompt, some of them a document behind it.
Each request is in one group at most, chosen by how much less is read.
"""

import numpy as np

from aweigh_kernels.common_reads import MOST_GROUPS, Group
from aweigh_runtime.model.step_plan import Integers

LEAST_MEMBERS = 8  # of a group, and
LEAST_POSITIONS = 1024  # in common
# Positions that a step must be spared of reading: its two launches more take longer than those of
# 8 requests with 1,024 in common, 21 instead of 13 us on an H200.
LEAST_SAVED = 32_768
_MOST_DEPTHS = 16  # that are tried


def groups_of(table: Integers, starts: Integers, block_tokens: int) -> list[Group]:
    """Groups that together are worth it, no request in two of them.

    O(S log S) where nothing is in common, else O(S · W), in a few array operations.

    Args:
        table: [S, W], blocks of each request.
        starts: [S], positions before the new tokens; nobody writes to blocks that end there.
        block_tokens: P.
    """
    least = -(-LEAST_POSITIONS // block_tokens)
    full = starts // block_tokens
    order = _alike(table, full, least)
    if not len(order):
        return []
    depths = _in_common(table, full, order)
    found: list[tuple[int, int, int]] = []
    for begin, end, depth in _by_gain(depths, least):
        if all(end < other[0] or begin > other[1] for other in found):
            found.append((begin, end, depth))
    groups = [
        Group(order[begin : end + 1], depth * block_tokens)
        for begin, end, depth in found[:MOST_GROUPS]
    ]
    saved = sum((len(group.members) - 1) * group.positions for group in groups)
    return groups if saved >= LEAST_SAVED else []


def _alike(table: Integers, full: Integers, least: int) -> Integers:
    """Requests whose block at the least depth is enough others', those that branch late together.

    A block that is shared has been reached through the same blocks by all.
    """
    long = np.flatnonzero(full >= least)
    if len(long) < LEAST_MEMBERS:
        return long[:0]
    _, which, counts = np.unique(table[long, least - 1], return_inverse=True, return_counts=True)
    alike = long[counts[which] >= LEAST_MEMBERS]
    columns = [least - 1]
    while 2 * (columns[-1] + 1) <= table.shape[1]:
        columns.append(2 * columns[-1] + 1)
    order: Integers = alike[np.lexsort([table[alike, column] for column in reversed(columns)])]
    return order


def _in_common(table: Integers, full: Integers, order: Integers) -> Integers:
    """[n - 1], with how many of the same full blocks each request and the next one begin."""
    reach = np.minimum(full[order[1:]], full[order[:-1]])
    rows = table[order, : int(reach.max())]
    differ = rows[1:] != rows[:-1]
    alike: Integers = np.where(differ.any(1), differ.argmax(1), differ.shape[1])
    return np.minimum(alike, reach)


def _by_gain(depths: Integers, least: int) -> list[tuple[int, int, int]]:
    """Neighbours with the same blocks to some depth, first, last and depth, the best ones first."""
    tried = np.unique(depths[depths >= least])
    if len(tried) > _MOST_DEPTHS:
        tried = tried[np.linspace(0, len(tried) - 1, _MOST_DEPTHS).astype(np.int64)]
    found = []
    for depth in tried.tolist():
        deep = np.concatenate([[False], depths >= depth, [False]])
        begins, ends = np.flatnonzero(deep[1:] != deep[:-1]).reshape(-1, 2).T
        enough = ends - begins + 1 >= LEAST_MEMBERS
        found += [
            (int(begin), int(end), depth)
            for begin, end in zip(begins[enough], ends[enough], strict=True)
        ]
    return sorted(found, key=lambda each: (each[0] - each[1]) * each[2])
