"""Texts that a model is calibrated on, or measured with: tokens, and whose they are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Text:
    """One document."""

    tokens: tuple[int, ...]
    num_given: int = 1  # the first ones, which nobody predicts: a question, or the first token

    @property
    def num_predicted(self) -> int:
        """Tokens that a model is measured by."""
        return len(self.tokens) - self.num_given


def num_tokens(texts: Sequence[Text]) -> int:
    """Of all texts together."""
    return sum(len(text.tokens) for text in texts)


def batches(lengths: Sequence[int], most: int) -> Iterator[range]:
    """Runs of texts that have at most `most` tokens together; a longer text is alone."""
    first = total = 0
    for index, length in enumerate(lengths):
        if total and total + length > most:
            yield range(first, index)
            first, total = index, 0
        total += length
    if first < len(lengths):
        yield range(first, len(lengths))


def offsets(texts: Sequence[Text]) -> list[int]:
    """Where each text begins when all are laid out one after the other, and where the last ends."""
    found = [0]
    for text in texts:
        found.append(found[-1] + len(text.tokens))
    return found


def spans(texts: Sequence[Text]) -> list[slice]:
    """The place of each text when all are laid out one after the other."""
    return [slice(*ends) for ends in pairwise(offsets(texts))]
