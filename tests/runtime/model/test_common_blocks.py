"""Which requests are read together: those for which most is saved."""

from collections.abc import Iterator
from itertools import count
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_kernels.common_reads import MOST_GROUPS
from aweigh_runtime.model import common_blocks
from aweigh_runtime.model.common_blocks import LEAST_MEMBERS, LEAST_POSITIONS, groups_of

P = 16
LEAST = LEAST_POSITIONS // P
Table = npt.NDArray[np.int64]


def table_of(*prompts: tuple[list[str], int], own: int = 3) -> tuple[Table, Table]:
    """Requests behind prompts, and how many tokens they have, but for the new one.

    A prompt is a list of texts, each of which takes LEAST blocks wherever it stands first.
    """
    blocks: dict[tuple[str, ...], list[int]] = {}
    free = count()
    rows = []
    for texts, num_requests in prompts:
        for _ in range(num_requests):
            row: list[int] = []
            for depth in range(1, len(texts) + 1):
                path = tuple(texts[:depth])
                if path not in blocks:
                    blocks[path] = [next(free) for _ in range(LEAST)]
                row += blocks[path]
            rows.append(row + [next(free) for _ in range(own)])
    Random(2).shuffle(rows)
    widest = max(map(len, rows))
    table = np.array([row + row[-1:] * (widest - len(row)) for row in rows])
    return table, np.array([len(row) * P - 5 for row in rows])


def found(*prompts: tuple[list[str], int], own: int = 3) -> list[tuple[int, int]]:
    """Members and common positions of each group."""
    table, starts = table_of(*prompts, own=own)
    groups = groups_of(table, starts, P)
    for group in groups:
        rows = table[group.members, : group.positions // P]
        assert (rows == rows[0]).all()
        assert (starts[group.members] >= group.positions).all()
    return sorted((len(group.members), group.positions) for group in groups)


@pytest.fixture(autouse=True)
def _any_saving_is_worth_it() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(common_blocks, "LEAST_SAVED", 0)
        yield


def test_what_saves_less_than_it_costs_is_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common_blocks, "LEAST_SAVED", 32_768)
    assert found((["system"], 32)) == []  # 31 times 1,024
    assert found((["system"], 33)) == [(33, 1024)]
    assert found((["one"], 17), (["other"], 17)) == [(17, 1024), (17, 1024)]  # they share the cost


def test_requests_behind_one_prompt_are_a_group() -> None:
    assert found((["system"], 20)) == [(20, 1024)]


def test_several_prompts_are_several_groups_in_whatever_order_requests_stand() -> None:
    assert found((["one"], 9), (["other", "long"], 30), (["rare"], 3)) == [(9, 1024), (30, 2048)]


def test_few_requests_and_short_prompts_are_read_one_by_one() -> None:
    assert found((["system"], LEAST_MEMBERS - 1)) == []
    assert found(([], 50)) == []
    assert found(*[([str(index)], 1) for index in range(50)]) == []


def test_documents_behind_one_prompt_are_groups_where_that_saves_more() -> None:
    documents = [(["system", name, *"abcdefg"], 10) for name in ("x", "y")]
    assert found(*documents, (["system"], 4)) == [(10, 9 * 1024)] * 2
    short = [(["system", name], 8) for name in ("x", "y")]
    assert found(*short, (["system"], 40)) == [(56, 1024)]


def test_one_request_that_branches_early_does_not_cost_the_others_what_they_share() -> None:
    assert found((["system", *"abcdefg"], 63), (["system"], 1)) == [(63, 8 * 1024)]


def test_a_block_that_a_step_writes_is_nobody_elses() -> None:
    same = np.tile(np.arange(80), (9, 1))
    for start, expected in ((80 * P - 1, 79 * P), (70 * P, 70 * P), (LEAST * P, LEAST * P)):
        (group,) = groups_of(same, np.full(9, start), P)
        assert group.positions == expected
    assert groups_of(same, np.full(9, LEAST * P - 1), P) == []


def test_there_are_never_more_groups_than_a_kernel_takes() -> None:
    assert len(found(*[([str(index)], 8) for index in range(30)])) == MOST_GROUPS


def test_an_empty_step_and_a_narrow_table_have_no_groups() -> None:
    assert groups_of(np.zeros((0, 0), np.int64), np.zeros(0, np.int64), P) == []
    assert groups_of(np.zeros((20, 2), np.int64), np.full(20, 31), P) == []


@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from("abc"), max_size=4), st.integers(1, 20)), min_size=1
    )
)
def test_whatever_the_prompts_groups_hold_what_they_say(
    prompts: list[tuple[list[str], int]],
) -> None:
    table, starts = table_of(*prompts)
    groups = groups_of(table, starts, P)
    members = [member for group in groups for member in group.members.tolist()]
    assert len(members) == len(set(members))
    for group in groups:
        assert len(group.members) >= LEAST_MEMBERS
        assert group.positions >= LEAST_POSITIONS
    found(*prompts)
