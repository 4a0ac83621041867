"""What a step adds to answers: a token to each, or more where it verifies drafts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aweigh_runtime.engine.messages import TokenLogprobs
from aweigh_runtime.engine.sampling.pending import Chosen, RowFailure, broken
from aweigh_runtime.engine.sampling.verification import NO_TOKEN, Ahead


@dataclass(frozen=True, slots=True)
class Continued:
    """What one step adds to several answers, found by their index."""

    tokens: list[list[int]]  # those of the draft that stay, then one more unless the answer failed
    kept: list[int]  # how many of the draft stay
    logprobs: dict[int, list[TokenLogprobs]] = field(default_factory=dict)
    # Why an answer has no more tokens; it is of no account if one of them ends the answer.
    failures: dict[int, RowFailure] = field(default_factory=dict)


def single(chosen: Chosen) -> Continued:
    """One token for each answer that has not failed."""
    return Continued(
        tokens=[
            [] if index in chosen.failures else [token] for index, token in enumerate(chosen.tokens)
        ],
        kept=[0] * len(chosen.tokens),
        logprobs={index: [one] for index, one in chosen.logprobs.items()},
        failures=chosen.failures,
    )


def continued_by(
    ahead: Ahead, drawn: Mapping[int, int], verdicts: Mapping[int, tuple[bool, int]]
) -> Continued:
    """What stays of drafts, and the token after it.

    Args:
        ahead: their rows.
        drawn: what rows have chosen by themselves, by their index.
        verdicts: of all others, as `compare` gives them.
    """
    continued = Continued([], [])
    for first, each in zip(ahead.firsts, ahead.drafted, strict=True):
        tokens = []
        for index, token in enumerate(each.tokens, first):
            stays, other = verdicts.get(index) or (drawn[index] == token, drawn[index])
            if not stays:
                tokens.append(other)
                break
            tokens.append(token)
        else:
            tokens.append(drawn[first + len(each.tokens)])
        continued.tokens.append(tokens)
        continued.kept.append(len(tokens) - 1)
    return continued


def explain(
    continued: Continued,
    best: Callable[[int], float],
    ahead: Ahead,
    dead: Mapping[int, RowFailure],
) -> None:
    """Take out what is no token, and say why there is none.

    Args:
        continued: what was found.
        best: tells the largest logit of a row, by its index.
        ahead: the rows.
        dead: those that have no token whatever was drawn, by their index.
    """
    for answer, (first, tokens) in enumerate(zip(ahead.firsts, continued.tokens, strict=True)):
        if first in dead:
            tokens.clear()
            continued.kept[answer] = 0
            continued.failures[answer] = dead[first]
        elif tokens[-1] == NO_TOKEN:
            index = first + len(tokens) - 1
            del tokens[-1]
            row = ahead.rows[index]
            continued.failures[answer] = broken(best(index), row, row.position)
