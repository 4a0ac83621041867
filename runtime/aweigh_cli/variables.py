"""Variables of the environment that look like settings and are none."""

from collections.abc import Iterable
from difflib import get_close_matches

from aweigh_api.names import ENV_PREFIX


def without_effect(present: Iterable[str], known: Iterable[str]) -> list[str]:
    """A sentence for each variable that begins like a setting and has no effect.

    It is no error: others may set such variables, for programs of their own.

    Args:
        present: names of all variables that are set.
        known: those that are read.
    """
    settings = {name.removeprefix(ENV_PREFIX): name for name in known}
    unknown = {
        name.removeprefix(ENV_PREFIX): name for name in present if name.startswith(ENV_PREFIX)
    }
    return [
        f"{unknown[rest]} has no effect: no setting of `aweigh serve` has that name; "
        + _remedy([settings[near] for near in get_close_matches(rest, sorted(settings), n=1)])
        for rest in sorted(unknown.keys() - settings.keys())
    ]


def _remedy(nearest: list[str]) -> str:
    return f"did you mean {nearest[0]}?" if nearest else "`aweigh serve --help` lists the flags"
