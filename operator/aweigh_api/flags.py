"""The runtime's command line for an InferenceService: the one way from a spec to flags.

`desired` puts it into pods and `aweigh local` runs it here. A flag is the kebab-case of its field.
"""

from aweigh_api import names
from aweigh_api.spec import InferenceService


def serve_arguments(service: InferenceService) -> list[str]:
    """What follows `aweigh` on the command line to serve this InferenceService."""
    model, drain, cache = service.spec.model, service.spec.drain, service.spec.prefix_cache
    quantized = service.spec.quantization
    flags: dict[str, str | int | None] = {
        "--model-name": service.model_name,
        "--revision": model.revision,
        "--max-model-len": model.max_model_len,
        "--dtype": None if model.dtype == "auto" else model.dtype,
        "--quantization": None if quantized.scheme == "auto" else quantized.scheme,
        "--kv-cache-dtype": None
        if quantized.kv_cache_dtype == "auto"
        else quantized.kv_cache_dtype,
        "--prefix-cache-size": cache.size,
        "--prefix-cache-host-memory": cache.host_memory,
        "--prefix-cache-block-tokens": cache.block_tokens,
        "--prefix-cache-scope": None if cache.scope == "Key" else cache.scope,
        "--drain-settle-seconds": drain.settle_seconds,
        "--drain-timeout-seconds": drain.timeout_seconds,
    }
    given = [f"{flag}={value}" for flag, value in flags.items() if value is not None]
    given += _speculation(service)
    switched_off = [] if cache.enabled else ["--no-prefix-cache-enabled"]
    return ["serve", model.uri, *given, *switched_off]


def _speculation(service: InferenceService) -> list[str]:
    part = service.spec.speculative_decoding
    if part is None or part.wanted_method == "none":
        return []
    drafts = [draft_argument(each.uri, each.revision) for each in service.spec.draft_models]
    least = part.min_acceptance_percent
    return [
        f"--speculation={part.wanted_method}",
        *(f"--draft-model={draft}" for draft in drafts),
        f"--max-draft-tokens={part.max_draft_tokens}",
        *([] if least is None else [f"--min-acceptance-percent={least}"]),
    ]


def fetch_arguments(service: InferenceService, sources: list[tuple[str, str | None]]) -> list[str]:
    """The command line of the pod that downloads models, each given by URI and revision."""
    secret = names.SECRET_MOUNT if service.spec.model.secret_ref else None
    return [
        "fetch",
        *(draft_argument(uri, revision) for uri, revision in sources),
        *([] if secret is None else [f"--secret-dir={secret}"]),
        f"--cache-dir={names.CACHE_MOUNT}",
        "--host=0.0.0.0",
        f"--admin-port={names.ADMIN_PORT}",
        f"--termination-log={names.TERMINATION_LOG}",
    ]


def draft_argument(uri: str, revision: str | None) -> str:
    """A model as an argument: URI, or URI@REVISION of an hf:// repository."""
    return uri if revision is None else f"{uri}@{revision}"


def draft_of(argument: str) -> tuple[str, str | None]:
    """URI and revision of such a value. Only hf:// URIs have revisions, and none has an @."""
    if not argument.startswith("hf://"):
        return argument, None
    uri, _, revision = argument.partition("@")
    return uri, revision or None


def pod_arguments(service: InferenceService) -> list[str]:
    """The same inside a pod, where the kubelet and other pods must reach the server."""
    spec = service.spec
    mounts = {
        "--secret-dir": names.SECRET_MOUNT if spec.model.secret_ref else None,
        "--api-keys-dir": names.API_KEYS_MOUNT if spec.auth else None,
        "--tls-dir": names.TLS_MOUNT if spec.tls else None,
        "--router-secret-dir": names.ROUTER_SECRET_MOUNT,
    }
    return [
        *serve_arguments(service),
        "--host=0.0.0.0",
        f"--port={names.HTTP_PORT}",
        f"--admin-port={names.ADMIN_PORT}",
        f"--cache-dir={names.CACHE_MOUNT}",
        f"--termination-log={names.TERMINATION_LOG}",
        *(f"{flag}={path}" for flag, path in mounts.items() if path is not None),
    ]


def router_arguments(service: InferenceService) -> list[str]:
    """What follows `aweigh-router` in a router's pod."""
    name, spec = service.metadata.name, service.spec
    mounts = {
        "--api-keys-dir": names.API_KEYS_MOUNT if spec.auth else None,
        "--tls-dir": names.TLS_MOUNT if spec.tls else None,
    }
    return [
        f"--service={name}",
        f"--namespace={service.metadata.namespace}",
        f"--pods-service={names.pods_service(name)}",
        f"--model-name={service.model_name}",
        "--host=0.0.0.0",
        f"--port={names.HTTP_PORT}",
        f"--admin-port={names.ADMIN_PORT}",
        f"--router-secret-dir={names.ROUTER_SECRET_MOUNT}",
        f"--drain-settle-seconds={spec.drain.settle_seconds}",
        f"--drain-timeout-seconds={spec.drain.timeout_seconds}",
        *(f"{flag}={path}" for flag, path in mounts.items() if path is not None),
    ]
