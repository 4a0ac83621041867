"""Every setting of the operator. Read once at the start, then frozen."""

from dataclasses import dataclass

from aweigh_api import names


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
