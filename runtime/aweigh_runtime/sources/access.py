"""The token for a hub: from a mounted Secret, else from the environment. It is never shown."""

from pathlib import Path

from huggingface_hub import get_token

from aweigh_api import names
from aweigh_runtime.failures import AccessDenied


def read_token(secret_dir: Path | None) -> str | None:
    """The token to use, if there is one.

    Raises:
        AccessDenied: the Secret holds no token, or something that cannot be one.
    """
    if secret_dir is None:
        return get_token()  # HF_TOKEN, or what `hf auth login` stored
    for key in names.SECRET_TOKEN_KEYS:
        if (secret_dir / key).is_file():
            return _checked((secret_dir / key).read_bytes(), secret_dir / key)
    expected = " or ".join(names.SECRET_TOKEN_KEYS)
    raise AccessDenied(
        f"the Secret mounted at {secret_dir} has no key {expected}; add one to the Secret of "
        "model.secretRef"
    )


def _checked(content: bytes, path: Path) -> str:
    token = content.strip()
    if not token or not all(33 <= byte <= 126 for byte in token):
        raise AccessDenied(
            f"{path} holds no token; expected one line of printable characters in the Secret of "
            "model.secretRef"
        )
    return token.decode()
