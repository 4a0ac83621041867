"""Keys, region and endpoint of an object store: from a mounted Secret, else the environment.

Keys are never shown. Without any the store is asked as a stranger, unless the pod has an identity.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aweigh_runtime.failures import AccessDenied, InvalidConfiguration

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Credential

KEY_ID, KEY, SESSION_TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
REGION, ENDPOINT, S3_ENDPOINT = "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"
_SETTINGS = (KEY_ID, KEY, SESSION_TOKEN, REGION, ENDPOINT)
_IDENTITIES = (  # how a platform tells a pod where its keys are; obstore follows them
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
_AMAZON = "Amazon S3"


@dataclass(frozen=True)
class Access:
    """How a bucket is asked."""

    config: "S3Config"
    credential: "S3Credential | None"  # None: the environment's own, or none at all
    place: str  # for sentences
    who: str

    @property
    def plain(self) -> bool:
        """Without TLS, because the endpoint says so."""
        return self.config.get("aws_endpoint_url_s3", "").startswith("http://")


def read_access(secret_dir: Path | None) -> Access:
    """What the Secret and the environment say.

    Raises:
        AccessDenied: there is half a pair of keys, or a Secret without any.
        InvalidConfiguration: the endpoint is not a URL.
    """
    secret = {} if secret_dir is None else _secret(secret_dir)
    environment = {name: value for name in _SETTINGS if (value := os.environ.get(name))}
    endpoint = secret.get(ENDPOINT) or os.environ.get(S3_ENDPOINT) or environment.get(ENDPOINT)
    config: S3Config = {}
    if endpoint:
        config["aws_endpoint_url_s3"] = _checked(endpoint)
    if REGION in secret:
        config["region"] = secret[REGION]
    if secret_dir is None:
        _expect_pair(environment, "the environment")
        has_keys = KEY in environment or any(os.environ.get(name) for name in _IDENTITIES)
        who = "these keys of the environment" if has_keys else "somebody without keys"
        if not has_keys:
            config["skip_signature"] = True
        return Access(config, None, endpoint or _AMAZON, who)
    return Access(config, _credential(secret), endpoint or _AMAZON, "these keys of the Secret")


def _secret(directory: Path) -> Mapping[str, str]:
    found = {name: _text(directory / name) for name in _SETTINGS if (directory / name).is_file()}
    _expect_pair(found, f"the Secret mounted at {directory}")
    if KEY not in found:
        raise AccessDenied(
            f"the Secret mounted at {directory} has no keys {KEY_ID} and {KEY}; add them to the "
            "Secret of model.secretRef, or remove model.secretRef if anybody may read the bucket"
        )
    return found


def _credential(secret: Mapping[str, str]) -> "S3Credential":
    return {
        "access_key_id": secret[KEY_ID],
        "secret_access_key": secret[KEY],
        "token": secret.get(SESSION_TOKEN),
        "expires_at": None,
    }


def _expect_pair(found: Mapping[str, str], place: str) -> None:
    if (KEY_ID in found) != (KEY in found):
        has, lacks = (KEY_ID, KEY) if KEY_ID in found else (KEY, KEY_ID)
        raise AccessDenied(f"{place} has {has} but no {lacks}; expected both")


def _text(path: Path) -> str:
    content = path.read_bytes().strip()
    if not content or not all(33 <= byte <= 126 for byte in content):
        raise AccessDenied(
            f"{path} holds no value; expected one line of printable characters in the Secret of "
            "model.secretRef"
        )
    return content.decode()


def _checked(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in endpoint):
        raise InvalidConfiguration(
            f"{ENDPOINT} is {endpoint!r}; expected http://HOST[:PORT] or https://HOST[:PORT]"
        )
    return endpoint
