"""Groups of inputs that share a scale, as configs write them and as people read them."""

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.fields import Fields

MAX_GROUP = 1 << 20


def read_group(fields: Fields, *spellings: str) -> int | None:
    """The size in inputs; None, written -1: all inputs.

    Raises:
        ModelUnreadable: it is missing, 0 or no size at all.
    """
    name = fields.spelling(*spellings)
    size = fields.integer(name, -1, MAX_GROUP)
    if size == 0:
        raise ModelUnreadable(f"{fields.path}: {name} is 0; expected -1, or 1 or more")
    return None if size == -1 else size


def described(group: int | None) -> str:
    """For people."""
    return "one group" if group is None else f"groups of {group}"
