"""What a user, a model or texts make impossible. Whatever else goes wrong is a mistake of ours."""

from collections.abc import Iterator
from contextlib import contextmanager


class Refusal(ValueError):
    """What was asked for cannot be done; the message says what was expected instead."""


class Unusable(Refusal):
    """Nothing can be made of such a model, or of what it computes; the message says why."""


@contextmanager
def named(module: str) -> Iterator[None]:
    """Say of which matrix it was: methods know numbers, and no names.

    Raises:
        Unusable: as it was raised within, with the module's name before it.
    """
    try:
        yield
    except Unusable as error:
        raise Unusable(f"{module}: {error}") from error
