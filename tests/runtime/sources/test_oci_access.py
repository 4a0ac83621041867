"""Who may pull what, and that no password is ever shown or sent elsewhere."""

import base64
import json
from pathlib import Path

import pytest

from aweigh_runtime.failures import AccessDenied, SourceUnreachable
from aweigh_runtime.sources.oci_access import Login, read_login
from tests.runtime.sources.artifacts import ArtifactRegistry
from tests.runtime.sources.downloads import download, secret

FIRST = "model-00001-of-00002.safetensors"
PAIR = {"username": "sailor", "password": "open sesame\n"}


def _uri(registry: ArtifactRegistry) -> str:
    return f"oci://{registry.address}/sea/helmsman:v1"


def _docker(place: str, pair: str = "sailor:open sesame") -> str:
    return json.dumps({"auths": {place: {"auth": base64.b64encode(pair.encode()).decode()}}})


@pytest.mark.parametrize("auth", ["basic", "token", "token for a login"])
def test_username_and_password_of_a_mounted_secret_open_a_registry(
    registry: ArtifactRegistry, tmp_path: Path, auth: str
) -> None:
    registry.auth = auth

    target = download(tmp_path / "cache", _uri(registry), secret_dir=secret(tmp_path, **PAIR))

    assert (target / FIRST).is_file()
    assert registry.paths().count("/token") <= 5  # one for each thread at most, and the first


def test_a_registry_that_gives_tokens_to_anybody_needs_no_secret(
    registry: ArtifactRegistry, tmp_path: Path
) -> None:
    registry.auth = "token"

    assert (download(tmp_path, _uri(registry)) / FIRST).is_file()


@pytest.mark.parametrize("where", ["secret", "docker"])
def test_a_login_of_docker_opens_a_registry(
    registry: ArtifactRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    registry.auth = "token for a login"
    login = _docker(registry.url)
    if where == "secret":
        directory = secret(tmp_path, **{".dockerconfigjson": login})
        target = download(tmp_path / "cache", _uri(registry), secret_dir=directory)
    else:
        (tmp_path / "config.json").write_text(login)
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        target = download(tmp_path / "cache", _uri(registry))

    assert (target / FIRST).is_file()


@pytest.mark.parametrize("auth", ["basic", "token for a login"])
def test_without_the_right_login_access_is_denied_and_no_password_is_shown(
    registry: ArtifactRegistry, tmp_path: Path, auth: str
) -> None:
    registry.auth = auth
    with pytest.raises(AccessDenied, match=r"model\.secretRef"):
        download(tmp_path, _uri(registry))
    wrong = secret(tmp_path, username="sailor", password="guessed")
    with pytest.raises(AccessDenied, match=r"this login may not pull|gives no token") as denied:
        download(tmp_path, _uri(registry), secret_dir=wrong)
    assert "guessed" not in str(denied.value)


def test_a_password_is_never_sent_in_clear_where_a_challenge_asks_for_it(
    registry: ArtifactRegistry, tmp_path: Path
) -> None:
    registry.auth = "token"
    for registry.realm in ("ftp://elsewhere/token", "/token", "http://"):
        with pytest.raises(SourceUnreachable, match=r"wants a token from .*; expected an https"):
            download(tmp_path, _uri(registry), secret_dir=secret(tmp_path, **PAIR))


def test_a_token_server_that_answers_nonsense_is_named(
    registry: ArtifactRegistry, tmp_path: Path
) -> None:
    registry.auth = "token"
    with ArtifactRegistry() as nonsense:
        nonsense.faults.every_status = 200
        registry.realm = f"{nonsense.url}/token"
        with pytest.raises(SourceUnreachable, match="does not answer as a registry's token"):
            download(tmp_path, _uri(registry))


def test_a_token_that_runs_out_during_a_download_is_replaced(
    registry: ArtifactRegistry, tmp_path: Path
) -> None:
    registry.auth = "token"
    registry.token_uses = 5

    assert (download(tmp_path, _uri(registry)) / FIRST).is_file()
    assert registry.paths().count("/token") >= 2


def test_a_secret_without_a_usable_login_is_refused(tmp_path: Path) -> None:
    for values, expected in [
        ({}, "has no .dockerconfigjson and no username"),
        ({"username": "sailor"}, "no username with a password"),
        ({".dockerconfigjson": _docker("ghcr.io")}, "has no login for quay.io"),
        ({".dockerconfigjson": "["}, "cannot be read as Docker's configuration"),
        ({".dockerconfigjson": '{"auths": {"quay.io": 3}}'}, "cannot be read as Docker's"),
        ({".dockerconfigjson": '{"auths": {"quay.io": {"auth": "x"}}}'}, "cannot be read as"),
    ]:
        with pytest.raises(AccessDenied, match=expected):
            read_login("quay.io", "sea/helmsman", secret(tmp_path, **values))


@pytest.mark.parametrize(
    ("place", "registry"),
    [
        ("quay.io", "quay.io"),
        ("https://quay.io", "quay.io"),
        ("https://quay.io/v2/", "quay.io"),
        ("quay.io/sea", "quay.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("registry:5000", "registry:5000"),
    ],
)
def test_a_login_is_found_for_its_registry_and_the_closest_path(
    tmp_path: Path, place: str, registry: str
) -> None:
    mounted = secret(tmp_path, **{".dockerconfigjson": _docker(place, "a:b:c")})

    assert read_login(registry, "sea/helmsman", mounted) == Login("a", "b:c")
    assert "b:c" not in repr(Login("a", "b:c"))
    with pytest.raises(AccessDenied, match="has no login for"):
        read_login("other.io", "sea/helmsman", mounted)
