"""Who may read what, and that no token is ever shown."""

import logging
from pathlib import Path

import pytest

from aweigh_runtime.failures import AccessDenied, ModelNotFound
from tests.runtime.hub import Hub
from tests.runtime.sources.downloads import download

FIRST = "model-00001-of-00002.safetensors"


def _secret(tmp_path: Path, key: str, value: str) -> Path:
    directory = tmp_path / "secret"
    directory.mkdir(exist_ok=True)
    (directory / key).write_text(value)
    return directory


def test_an_unknown_repository_is_not_found(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(AccessDenied, match="hf://sea/nelson does not exist, or"):
        download(tmp_path, "hf://sea/nelson")
    secret = _secret(tmp_path, "token", "hf_known")
    with pytest.raises(ModelNotFound, match="there is no hf://sea/nelson"):
        download(tmp_path, "hf://sea/nelson", secret_dir=secret)


@pytest.mark.parametrize("key", ["token", "HF_TOKEN"])
def test_the_token_of_a_mounted_secret_opens_a_private_repository(
    hub: Hub, model: Path, tmp_path: Path, key: str
) -> None:
    hub.add("sea/private", model, token="hf_sesame")

    directory = download(
        tmp_path, "hf://sea/private", secret_dir=_secret(tmp_path, key, "hf_sesame\n")
    )

    assert (directory / FIRST).is_file()


def test_the_token_of_the_environment_is_used_without_a_secret(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("sea/private", model, token="hf_sesame")
    monkeypatch.setenv("HF_TOKEN", "hf_sesame")

    assert (download(tmp_path, "hf://sea/private") / FIRST).is_file()


def test_without_the_right_token_access_is_denied_and_no_token_is_shown(
    hub: Hub, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.add("sea/private", model, token="hf_sesame")
    with pytest.raises(AccessDenied, match=r"model\.secretRef .* or HF_TOKEN"):
        download(tmp_path, "hf://sea/private")
    with pytest.raises(AccessDenied, match="this token may not read it") as denied:
        download(tmp_path, "hf://sea/private", secret_dir=_secret(tmp_path, "token", "hf_guessed"))
    assert "hf_guessed" not in str(denied.value)
    assert "hf_guessed" not in caplog.text


def test_a_gated_repository_says_that_its_terms_must_be_accepted(
    hub: Hub, model: Path, tmp_path: Path
) -> None:
    hub.add("sea/gated", model, gated=True)
    with pytest.raises(AccessDenied, match="accept its terms"):
        download(tmp_path, "hf://sea/gated", secret_dir=_secret(tmp_path, "token", "hf_known"))


def test_a_secret_without_a_usable_token_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(AccessDenied, match="has no key token or HF_TOKEN"):
        download(tmp_path, secret_dir=tmp_path)
    for value in ("", "two words", "line\nbreak"):
        with pytest.raises(AccessDenied, match="holds no token") as denied:
            download(tmp_path, secret_dir=_secret(tmp_path, "token", value))
        assert not value or value not in str(denied.value)


def test_a_token_does_not_follow_a_redirect_to_another_host(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub(cdn_host="localhost") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("sea/private", model, token="hf_sesame")
        download(tmp_path, "hf://sea/private", secret_dir=_secret(tmp_path, "token", "hf_sesame"))

    carried = {seen.authorization for seen in hub.seen if seen.host.startswith("localhost")}
    assert carried == {None}
