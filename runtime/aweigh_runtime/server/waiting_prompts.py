"""Prompts that wait for the engine: their ids take memory, here and there.

A router's requests begin at once, and are no part of this.
"""

from aweigh_runtime.server import errors

MAX_TOKENS = 1 << 23  # 300 MB in each of the two processes


class WaitingPrompts:
    """All of one server, counted once for each answer to them."""

    def __init__(self) -> None:
        self._tokens = 0

    def expect_room(self, tokens: int) -> None:
        """For so many more. What exceeds it alone may wait where nothing else does.

        Raises:
            ApiError: too many wait already.
        """
        if self._tokens and self._tokens + tokens > MAX_TOKENS:
            raise errors.too_much_waits(self._tokens, MAX_TOKENS)

    def add(self, tokens: int) -> None:
        """They wait now."""
        self._tokens += tokens

    def remove(self, tokens: int) -> None:
        """The engine has begun with them, or nobody wants them any more."""
        self._tokens -= tokens
