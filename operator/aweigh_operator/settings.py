"""Every setting of the operator. Read once at the start, then frozen."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aweigh_api import names
from aweigh_api.names import environment_variable
from aweigh_operator import logs


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Each field is a flag of the same name, and AWEIGH_ with it in capitals in the environment."""

    runtime_image: str  # of new pods; pods that run keep theirs
    router_image: str  # of new routers, likewise
    api_server_ports: tuple[int, ...] = (443, 6443)  # of its endpoints, which routers may reach
    namespaces: tuple[str, ...] = ()  # none: all
    log_level: str = "info"
    probe_port: int = names.OPERATOR_PROBE_PORT
    metrics_port: int = names.OPERATOR_METRICS_PORT
    lease: str = ""  # NAMESPACE/NAME by which several operators take turns; none: there is one
    resync_seconds: float = 300.0  # mean time between two full looks at a service


_NAMESPACE = "--namespace"  # may be repeated, hence of another name than its field
_FLAGS: tuple[tuple[str, Callable[[str], Any], str], ...] = (
    ("--runtime-image", str, "image of new serving pods"),
    ("--router-image", str, "image of new routers"),
    ("--api-server-ports", str, "of the API server's endpoints, which routers may reach"),
    ("--log-level", str, f"one of {', '.join(logs.LEVELS)}"),
    ("--probe-port", int, "of /livez and /readyz"),
    ("--metrics-port", int, "of /metrics"),
    ("--lease", str, "NAMESPACE/NAME by which several operators take turns"),
    ("--resync-seconds", float, "mean time between two full looks at a service"),
)
VARIABLES = tuple(
    environment_variable(flag) for flag in (_NAMESPACE, *(each[0] for each in _FLAGS))
)


def read(argv: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Flags come first, then the environment, then the defaults."""
    parser = argparse.ArgumentParser(
        prog="aweigh-operator", description="Keep InferenceServices as they should be."
    )
    every = "watch this namespace only; may be repeated. Default: all namespaces"
    parser.add_argument(_NAMESPACE, action="append", help=every)
    for flag, kind, what in _FLAGS:
        default = _DEFAULTS[_field(flag)]
        shown = f"{what}. Default: {default}" if default else what
        known = environment.get(environment_variable(flag)) or default
        parser.add_argument(flag, type=kind, default=known, help=shown)
    given = parser.parse_args(argv)
    values = {_field(flag): getattr(given, _field(flag)) for flag, _, _ in _FLAGS}
    if (wrong := _wrong(values)) is not None:
        parser.error(wrong)
    namespaces = given.namespace or environment.get(environment_variable(_NAMESPACE), "").split(",")
    return Settings(
        **{
            **values,
            "api_server_ports": tuple(map(int, values["api_server_ports"].split(","))),
            "namespaces": tuple(sorted({each.strip() for each in namespaces} - {""})),
        }
    )


def _wrong(values: Mapping[str, Any]) -> str | None:
    """A sentence about the first value that is none; None: they are all right."""
    for image, what in (("runtime", "the serving pods"), ("router", "the routers")):
        if not values[f"{image}_image"]:
            flag = f"--{image}-image"
            return f"{flag} (or {environment_variable(flag)}) must name the image of {what}"
    ports, level, lease = values["api_server_ports"], values["log_level"], values["lease"]
    known = [each.strip() for each in ports.split(",")]
    if not all(each.isdecimal() and 0 < int(each) < 65_536 for each in known):
        return f"--api-server-ports is {ports!r}; expected ports from 1 to 65535, such as 443,6443"
    if level not in logs.LEVELS:
        return f"--log-level is {level!r}; expected one of {', '.join(logs.LEVELS)}"
    if lease and not re.fullmatch(r"[^/]+/[^/]+", lease):
        return f"--lease is {lease!r}; expected NAMESPACE/NAME"
    return None


def _field(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


_UNSET = Settings(runtime_image="", router_image="")
_DEFAULTS = {**asdict(_UNSET), "api_server_ports": ",".join(map(str, _UNSET.api_server_ports))}
