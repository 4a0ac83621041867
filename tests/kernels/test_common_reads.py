"""How requests that begin alike are laid out for a kernel."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from aweigh_kernels.common_reads import MOST_GROUPS, CommonReads, Group, pack, packed_size


@given(st.lists(st.integers(2, 40), max_size=MOST_GROUPS), st.integers(0, 9), st.integers(4, 128))
def test_every_member_is_found_in_its_unit_and_nobody_else(
    counts: list[int], alone: int, unit_members: int
) -> None:
    num_requests = sum(counts) + alone
    order = np.random.default_rng(num_requests).permutation(num_requests)
    ends = np.cumsum([0, *counts])
    groups = [
        Group(order[ends[index] : ends[index + 1]], 1024 + 16 * index)
        for index in range(len(counts))
    ]
    packed = pack(groups, num_requests, unit_members)
    assert len(packed) == packed_size(num_requests, unit_members)
    common = CommonReads.over(torch.from_numpy(packed), num_requests, unit_members)
    firsts, sizes = common.units.T.tolist()
    num_units = sum(-(-count // unit_members) for count in counts)
    assert all(sizes[:num_units])
    assert not any(sizes[num_units:])
    assert max(sizes, default=0) <= unit_members
    for group in groups:
        for member in group.members.tolist():
            unit, place = divmod(int(common.places[member]), unit_members)
            assert place < sizes[unit]
            assert common.members[firsts[unit] + place] == member
            assert common.positions[member] == group.positions
    assert not common.positions[torch.from_numpy(order[ends[-1] :])].any()
