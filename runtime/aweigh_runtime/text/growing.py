"""The text of one answer while its tokens come. What is out is never taken back."""

from aweigh_runtime.text.detokenizer import Detokenizer
from aweigh_runtime.text.stops import StopFinder


class GrowingText:
    """Knows besides which tokens stand behind the text that is out."""

    def __init__(self, detokenizer: Detokenizer, stops: StopFinder, unstoppable: int = 0) -> None:
        """Args:
        unstoppable: stop strings are not looked for in the text of so many first tokens.
        """
        self._detokenizer = detokenizer
        self._stops = stops
        self._unstoppable = unstoppable
        self._offsets: list[int] = []  # of tokens that have not been settled
        self._num_decoded = 0  # characters
        self._num_released = 0
        self._ended = False

    @property
    def stopped(self) -> bool:
        """A stop string has come; nothing after it counts."""
        return self._stops.found

    def feed(self, token: int) -> str:
        """The text that is certain now."""
        self._offsets.append(self._num_decoded)
        text = self._detokenizer.feed(token)
        self._num_decoded += len(text)
        if self._unstoppable > 0:
            self._unstoppable -= 1
            return self._released(text)
        return self._released(self._stops.feed(text))

    def finish(self) -> str:
        """The rest, once no more tokens come."""
        self._ended = True
        rest = self._detokenizer.finish()
        self._num_decoded += len(rest)
        text = self._stops.feed(rest)
        return self._released(text if self.stopped else text + self._stops.finish())

    def settled(self) -> list[int]:
        """Offsets of the tokens, since the last call, that are certain to stand in the answer.

        A token stands in it when its first character does, or the one that it is a part of.
        """
        whole = self._ended and not self.stopped
        held = (i for i, offset in enumerate(self._offsets) if offset >= self._num_released)
        end = len(self._offsets) if whole else next(held, len(self._offsets))
        settled, self._offsets = self._offsets[:end], self._offsets[end:]
        return settled

    def disown(self) -> None:
        """Nobody asks for the tokens so far."""
        self._offsets.clear()

    def _released(self, text: str) -> str:
        self._num_released += len(text)
        return text
