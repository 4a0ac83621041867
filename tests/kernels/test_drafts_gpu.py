"""The kernels of drafts that stay on the device, on a GPU."""

import re
from dataclasses import replace

import pytest
import torch

from aweigh_kernels.draft_chain import choose, follow
from aweigh_kernels.draft_line import Lines
from tests.kernels.draft_cases import BLOCK_TOKENS, LONGEST, WIDTH, Case, cases, unlike

pytestmark = pytest.mark.gpu

LARGE = Case("a large vocabulary", 3, 4, 128_256, 128_256)


@pytest.mark.parametrize("case", [*cases(), LARGE], ids=lambda case: case.name)
def test_chains_go_on_where_torch_says_behind_what_stays(case: Case) -> None:
    assert not unlike(case, follow, choose, "cuda")


def test_logits_that_are_no_numbers_give_a_token_that_nobody_is_sure_of() -> None:
    lines = Lines.empty(2, LONGEST, WIDTH, BLOCK_TOKENS, torch.device("cuda"))
    lines.read.counts.fill_(1)
    lines.drafts.rooms.fill_(LONGEST)
    choose(torch.full((2, 5000), torch.nan, device="cuda"), lines, size=5000)
    assert 0 <= int(lines.read.tokens.min()) <= int(lines.read.tokens.max()) < 5000
    assert not lines.drafts.confidences[:, 0].isfinite().any()


def test_what_does_not_fit_together_is_refused_by_name() -> None:
    lines = Lines.empty(2, LONGEST, WIDTH, BLOCK_TOKENS, torch.device("cuda"))
    logits = torch.zeros(4, 100, device="cuda")
    for wrong, given, said in (
        (logits.half(), lines, "logits is float16"),
        (logits[:3], lines, "logits is [3, 100] for 2 requests"),
        (logits[:, :50], lines, "logits has strides"),
        (logits, replace(lines, table=lines.table.long()), "table is int64"),
        (logits, replace(lines, read=lines.pair), "read.tokens is int64 [4]"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            choose(wrong, given, size=100)
    numbers = torch.zeros(5, 3, dtype=torch.int64, device="cuda")
    with pytest.raises(ValueError, match=re.escape("going is [5, 3] and drafted [3, 0]")):
        follow(numbers[0], numbers[:3, :0], numbers, lines, last_token=9)
