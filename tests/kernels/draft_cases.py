"""Chains of drafts on the device, by kernels and by torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from random import Random

import torch

from aweigh_kernels import draft_line
from aweigh_kernels.draft_line import PAIR, DraftTokens, Going, Lines, Read

BLOCK_TOKENS, LONGEST, WIDTH = 4, 5, 8
Follow = Callable[..., None]
Choose = Callable[..., None]


@dataclass(frozen=True)
class Case:
    """Requests whose drafts are verified, and logits for what they draft next."""

    name: str
    requests: int  # of
    lines: int
    size: int  # tokens that can be drafted
    width: int  # of logits


def cases() -> Iterator[Case]:
    yield Case("nobody", 0, 2, 7, 7)
    yield Case("one", 1, 1, 5003, 5003)
    yield Case("some of more, of a smaller vocabulary", 5, 8, 1024, 1040)
    yield Case("few tokens", 3, 4, 3, 16)


def unlike(case: Case, follow: Follow, choose: Choose, device: str) -> list[str]:
    """What the kernels make otherwise than torch does: by name."""
    dice = Random(case.name)
    lines = Lines.empty(case.lines, LONGEST, WIDTH, BLOCK_TOKENS, torch.device("cpu"))
    lines.table.copy_(torch.randperm(case.lines * WIDTH).view(case.lines, WIDTH))
    chosen, drafted, going = _verified(case, dice)
    theirs, ours = lines, _moved(lines, device)
    draft_line.follow(chosen, drafted, going, theirs, last_token=case.width - 1)
    follow(chosen.to(device), drafted.to(device), going.to(device), ours, last_token=case.width - 1)
    wrong = _differing(case, "followed", theirs, ours)
    noise = torch.Generator().manual_seed(len(case.name))
    for place in range(LONGEST):
        rows = case.lines * (PAIR if place == 0 else 1)
        logits = torch.randn(rows, case.width, generator=noise) * 4
        logits[:, case.size // 2] = logits[:, case.size - 1] = logits[:, : case.size].amax(-1)
        logits[:, case.size :] = 100.0  # what cannot be drafted
        if case.size > 5:
            logits[:, 2:5] = -torch.inf
        draft_line.choose(logits, theirs, size=case.size)
        choose(logits.to(device), ours, size=case.size)
        wrong += _differing(case, f"chosen at {place}", theirs, ours)
    return wrong


def _verified(case: Case, dice: Random) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each request with as many tokens that stay as another one, in whole and in part."""
    drafted = torch.randint(0, case.size, (case.requests, LONGEST))
    counts = [min(request, LONGEST) for request in range(case.requests)]
    chosen: list[int] = []
    firsts = []
    for request, count in enumerate(counts):
        firsts.append(len(chosen))
        kept = dice.randint(0, count)
        chosen += drafted[request, :kept].tolist()
        if kept < count:
            chosen.append((int(drafted[request, kept]) + 1) % case.size)
            chosen += drafted[request, kept + 1 : count].tolist()
        chosen.append(dice.choice([-1, case.width + 3, 0]))  # none, one that only others have
    ends = [dice.randint(1, 2 * BLOCK_TOKENS) for _ in counts]
    lasts = [dice.randrange(case.size) for _ in counts]
    rooms = [dice.randint(1, LONGEST) for _ in counts]
    going = torch.from_numpy(Going(firsts, counts, ends, lasts, rooms).packed())
    return torch.tensor(chosen, dtype=torch.int64), drafted, going


def _moved(lines: Lines, device: str) -> Lines:
    """The same there; both can be changed by themselves."""

    def there(part: Read | DraftTokens) -> list[torch.Tensor]:
        return [getattr(part, each.name).clone().to(device) for each in fields(part)]

    pair, read = Read(*there(lines.pair)), Read(*there(lines.read))
    return Lines(
        pair, read, DraftTokens(*there(lines.drafts)), lines.table.to(device), BLOCK_TOKENS
    )


def _differing(case: Case, when: str, theirs: Lines, ours: Lines) -> list[str]:
    wrong = []
    for part in ("pair", "read", "drafts"):
        for each in fields(getattr(theirs, part)):
            expected = getattr(getattr(theirs, part), each.name)
            found = getattr(getattr(ours, part), each.name).cpu()
            if each.name in ("tokens", "positions", "seen") and part != "drafts":
                counts = getattr(theirs, part).counts
                live = (counts > 0).repeat_interleave(len(expected) // len(counts))
                expected, found = expected[live], found[live]  # of padding nobody reads them
            if not torch.allclose(found.double(), expected.double(), rtol=1e-5, atol=0.0):
                wrong.append(f"{case.name}, {when}: {part}.{each.name} {found} for {expected}")
    return wrong
