"""Every setting of a router. Read once at the start, then frozen."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aweigh_api import names
from aweigh_api.names import environment_variable


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Each field is a flag of the same name, and AWEIGH_ with it in capitals in the environment."""

    service: str = "local"  # the InferenceService whose pods these are
    namespace: str = ""
    pods_service: str = ""  # the headless Service under which the cluster lists the pods
    pod: tuple[str, ...] = ()  # URLs of pods, without a cluster
    model_name: str = ""  # for metrics, and for requests while there is no pod that says its own
    host: str = "127.0.0.1"
    port: int = names.HTTP_PORT
    admin_port: int = names.ADMIN_PORT
    router_secret_dir: Path | None = None
    api_keys_dir: Path | None = None
    tls_dir: Path | None = None
    drain_settle_seconds: float = 5.0
    drain_timeout_seconds: float = 300.0
    max_waiting: int = 4096
    max_held_bytes: int = 256 << 20
    wait_seconds: float = 600.0  # for a pod, and for anything of an answer
    patience_seconds: float = 120.0  # with a pod from which nothing of a stream comes


_FLAGS: tuple[tuple[str, Callable[[str], Any], str], ...] = (
    ("--service", str, "name of the InferenceService"),
    ("--namespace", str, "its namespace"),
    ("--pods-service", str, "headless Service that lists its pods"),
    ("--model-name", str, "of the model, for metrics, and for requests while there is no pod"),
    ("--host", str, "address to listen on"),
    ("--port", int, "of the OpenAI API; 0: any that is free"),
    ("--admin-port", int, "of probes, metrics and state; 0: any that is free"),
    ("--router-secret-dir", Path, "folder with the secret that pods know the router by"),
    ("--api-keys-dir", Path, "folder with one API key in each file. Default: everybody gets in"),
    ("--tls-dir", Path, "folder with tls.crt and tls.key. Default: no TLS"),
    ("--drain-settle-seconds", float, "after SIGTERM, requests are still taken for so long"),
    ("--drain-timeout-seconds", float, "after that, open ones may take so long"),
    ("--max-waiting", int, "requests that may wait"),
    ("--max-held-bytes", int, "of the bodies of all requests that are here"),
    ("--wait-seconds", float, "a request waits so long for a pod, and for anything of its answer"),
    ("--patience-seconds", float, "a stream of which nothing comes so long is resumed elsewhere"),
)


VARIABLES = tuple(environment_variable(flag) for flag, _, _ in _FLAGS)


def read(argv: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Flags come first, then the environment, then the defaults."""
    parser = argparse.ArgumentParser(prog="aweigh-router", description="Route to serving pods.")
    add = parser.add_argument
    add("--pod", action="append", metavar="URL", help="a pod, without a cluster; may be repeated")
    for flag, kind, what in _FLAGS:
        default = getattr(_DEFAULTS, _field(flag))
        known = environment.get(environment_variable(flag))
        shown = "" if default in (None, "") else f". Default: {default}"
        add(flag, type=kind, default=known if known is not None else default, help=what + shown)
    given = parser.parse_args(argv)
    if bool(given.pod) == bool(given.pods_service):
        parser.error("give either --pods-service, in a cluster, or --pod URL for each pod")
    if given.pods_service and not given.namespace:
        parser.error(f"--pods-service {given.pods_service} needs --namespace, where it is")
    values = {_field(flag): getattr(given, _field(flag)) for flag, _, _ in _FLAGS}
    for name, least in _LEAST.items():
        if values[name] < least:
            parser.error(f"--{name.replace('_', '-')} is {values[name]}; expected {least} or more")
    return Settings(pod=tuple(url.rstrip("/") for url in given.pod or ()), **values)


def _field(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


_DEFAULTS = Settings()
_LEAST = {
    "port": 0,
    "admin_port": 0,
    "drain_settle_seconds": 0,
    "drain_timeout_seconds": 0,
    "max_waiting": 1,
    "max_held_bytes": 1 << 20,
    "wait_seconds": 1,
    "patience_seconds": 1,
}
