"""Where models come from: a URI becomes a local directory. Nothing here looks at the weights."""

from collections.abc import Callable
from pathlib import Path

from aweigh_api import names
from aweigh_api.model_uri import URI_SCHEMES
from aweigh_runtime.failures import InvalidConfiguration
from aweigh_runtime.sources import local
from aweigh_runtime.sources.patience import THOROUGH, Effort

Progress = Callable[[int, int | None], None]  # bytes done, bytes in total when known


def fetch(
    uri: str,
    *,
    revision: str | None,
    secret_dir: Path | None,
    cache_dir: Path,
    progress: Progress,
    effort: Effort = THOROUGH,
) -> Path:
    """Bring a model here, if it is not here yet.

    Args:
        uri: builtin://NAME, file:///PATH, pvc://CLAIM/PATH, hf://ORGANISATION/MODEL,
            s3://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY[:TAG|@DIGEST].
        revision: branch, tag or commit; only for hf.
        secret_dir: holds what opens the source, one file for each key of a Secret.
        cache_dir: where downloads are kept.
        progress: called while bytes arrive, from one thread at a time; local models need no bytes.
        effort: how long a place that does not answer is asked.

    Returns:
        A directory with config.json, tokenizer.json and *.safetensors, as far as the source has
        them.

    Raises:
        InvalidConfiguration: the URI is malformed, or `revision` does not go with it.
        ModelNotFound, ModelUnreadable, AccessDenied, SourceUnreachable, ModelDoesNotFit: see
            `failures`.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in URI_SCHEMES:
        supported = ", ".join(f"{known}://" for known in URI_SCHEMES)
        raise InvalidConfiguration(
            f"the model URI is {uri!r}; expected one of {supported}; a folder is file:///PATH"
        )
    if revision is not None and scheme != "hf":
        raise InvalidConfiguration(
            f"--revision is {revision!r}, but only hf:// models have revisions; remove it"
        )
    if ".." in rest.split("/"):
        raise InvalidConfiguration(f"the model URI {uri!r} contains '..'; give the path itself")
    if scheme == "builtin":
        return local.builtin(rest)
    if scheme == "file":
        return local.directory(rest)
    if scheme == "pvc":
        return local.claim(rest, Path(names.MODEL_MOUNT))
    if scheme == "hf":
        from aweigh_runtime.sources import hub  # half a second that other models need not wait

        return hub.download(rest, revision or "main", secret_dir, cache_dir, progress, effort)
    return _stored(scheme, rest, secret_dir, cache_dir, progress, effort)


def _stored(
    scheme: str,
    rest: str,
    secret_dir: Path | None,
    cache_dir: Path,
    progress: Progress,
    effort: Effort,
) -> Path:
    if scheme == "s3":
        from aweigh_runtime.sources import s3

        return s3.download(rest, secret_dir, cache_dir, progress, effort)
    from aweigh_runtime.sources import oci

    return oci.download(rest, secret_dir, cache_dir, progress, effort)
