"""What the tokens of one answer are chosen with. Pure Python: a request carries it, no tensors.

A row is made once and advanced by every new token, so that a step builds nothing from history.
"""

import math
from array import array
from collections.abc import Sequence
from copy import copy
from enum import Enum
from typing import TYPE_CHECKING

from aweigh_runtime.engine.messages import Sampling, Submission

if TYPE_CHECKING:  # scheduling needs no grammar library
    from aweigh_runtime.engine.matcher import Matcher

_GREEDY_BELOW = 1e-5


class Way(Enum):
    """How a row's token is found, cheapest first."""

    GREEDY = 1  # the likeliest
    PLAIN = 2  # any token can win
    FILTERED = 3  # top_k or top_p leave some out


class Row:
    """One answer's settings, and what its own tokens have changed so far."""

    __slots__ = (
        "_answer_begins",
        "_special_until",
        "bias",
        "logprobs",
        "matcher",
        "penalties",
        "position",
        "sampling",
        "special",
        "stop_tokens",
        "way",
    )

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        stop_tokens: Sequence[int] = (),
        logprobs: int | None = None,
        matcher: "Matcher | None" = None,
    ) -> None:
        self.sampling = sampling
        self.position = len(prompt)  # of the token that is chosen next
        self.stop_tokens = [*stop_tokens, *(() if matcher is None else matcher.stop_tokens)]
        self.logprobs = logprobs  # so many likeliest tokens beside the chosen one
        self.matcher = matcher
        self.penalties = Penalties.of(sampling, prompt)
        self.bias = Bias(sampling.logit_bias) if sampling.logit_bias else None
        self.way = _way(sampling)
        self._answer_begins = len(prompt)
        always = any(part is not None for part in (logprobs, matcher, self.penalties, self.bias))
        self._special_until = math.inf if always else len(prompt) + sampling.min_tokens
        self.special = self.position < self._special_until

    @classmethod
    def of(cls, submission: Submission, matcher: "Matcher | None" = None) -> "Row":
        """The row of a submission, before the next token of its answer."""
        end = len(submission.prompt) - submission.begun
        prompt = submission.prompt[:end] if submission.begun else submission.prompt
        row = cls(submission.sampling, prompt, submission.stop_tokens, submission.logprobs, matcher)
        for token in submission.prompt[end:]:
            row.append(token)
        return row

    def append(self, token: int) -> None:
        """A token has joined the answer. Computing it once more is no reason to call this."""
        self.position += 1
        self.special = self.position < self._special_until
        if self.penalties is not None:
            self.penalties.append(token)
        if self.matcher is not None:
            self.matcher.append(token)

    def ahead(self, tokens: Sequence[int]) -> "list[Row]":
        """What the row would be before each of these tokens and after the last; it stays itself.

        They share its matcher, which stays where it is.
        """
        rows = [self]
        for token in tokens:
            row = copy(rows[-1])
            row.position += 1
            if row.penalties is not None:
                row.penalties = row.penalties.copy()
                row.penalties.append(token)
            rows.append(row)
        return rows

    def __copy__(self) -> "Row":
        """Without the detour of a pickle: every drafted token of a step needs one."""
        other = Row.__new__(Row)
        for name in Row.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    @property
    def foreseeable(self) -> bool:
        """Whether `ahead` is right: what is banned may depend on how far a grammar has come."""
        past = self.position - self._answer_begins >= self.sampling.min_tokens
        return self.matcher is None or past

    @property
    def banned(self) -> Sequence[int]:
        """Tokens that cannot be chosen yet. A complete grammar has nothing else: it ends early."""
        if self.position - self._answer_begins >= self.sampling.min_tokens:
            return ()
        return () if self.matcher is not None and self.matcher.complete else self.stop_tokens


class Penalties:
    """The tokens that are penalized, each once, and how often the answer has them."""

    __slots__ = ("_index", "_more", "counts", "tokens")

    def __init__(self, prompt: Sequence[int]) -> None:
        self.tokens = array("q", dict.fromkeys(prompt))
        self.counts = array("q", bytes(8 * len(self.tokens)))
        self._index = {token: index for index, token in enumerate(self.tokens)}
        self._more = self._index  # where new tokens are entered; a copy has a few of its own

    @classmethod
    def of(cls, sampling: Sampling, prompt: Sequence[int]) -> "Penalties | None":
        """None where no penalty is set. Only the repetition penalty counts the prompt."""
        if sampling.repetition_penalty != 1.0:
            return cls(prompt)
        return cls(()) if sampling.presence_penalty or sampling.frequency_penalty else None

    def copy(self) -> "Penalties":
        """The same, to be changed by itself while this one stays as it is."""
        other = copy(self)
        other.tokens, other.counts = self.tokens[:], self.counts[:]
        other._more = {} if self._more is self._index else self._more.copy()
        return other

    def append(self, token: int) -> None:
        """A token has joined the answer."""
        index = self._more.get(token, self._index.get(token))
        if index is None:
            index = self._more[token] = len(self.tokens)
            self.tokens.append(token)
            self.counts.append(0)
        self.counts[index] += 1


class Bias:
    """logit_bias as two columns."""

    __slots__ = ("tokens", "values")

    def __init__(self, bias: dict[int, float]) -> None:
        self.tokens = array("q", bias.keys())
        self.values = array("d", bias.values())


def _way(sampling: Sampling) -> Way:
    if sampling.temperature < _GREEDY_BELOW or sampling.top_k == 1:
        return Way.GREEDY
    return Way.FILTERED if sampling.top_k > 0 or sampling.top_p < 1.0 else Way.PLAIN
