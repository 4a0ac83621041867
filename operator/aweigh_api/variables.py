"""Variables of the environment that look like settings and are none. Standard library only."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from aweigh_api.names import ENV_PREFIX

# What Kubernetes sets for a Service, behind the Service's name in capitals.
_OF_SERVICE = r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
_HOST = "SERVICE_HOST"


def without_effect(present: Iterable[str], known: Iterable[str], program: str) -> list[str]:
    """A sentence for each variable that begins like a setting and has no effect.

    It is no error: others may set such variables, for programs of their own. Those that Kubernetes
    sets for Services called `aweigh` or `aweigh-…` are left out.

    Args:
        present: names of all variables that are set.
        known: those that are read.
        program: that reads them, as it is called in a shell.
    """
    settings = {name.removeprefix(ENV_PREFIX): name for name in known}
    rest = {name.removeprefix(ENV_PREFIX) for name in present if name.startswith(ENV_PREFIX)}
    unknown = sorted(rest - settings.keys() - _of_services(rest))
    return [
        f"{ENV_PREFIX}{each} has no effect: no setting of `{program}` has that name; "
        + _remedy(
            [settings[near] for near in get_close_matches(each, sorted(settings), 1)], program
        )
        for each in unknown
    ]


def _of_services(rest: Iterable[str]) -> set[str]:
    services = {each.removesuffix(_HOST) for each in rest if re.fullmatch(rf"(\w+_)?{_HOST}", each)}
    pattern = re.compile(f"({'|'.join(sorted(services))}){_OF_SERVICE}")
    return {each for each in rest if services and pattern.fullmatch(each)}


def _remedy(nearest: list[str], program: str) -> str:
    return f"did you mean {nearest[0]}?" if nearest else f"`{program} --help` lists the flags"
