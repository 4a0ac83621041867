import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aweigh_runtime.failures import (
    AccessDenied,
    InvalidConfiguration,
    ModelDoesNotFit,
    ModelNotFound,
    ModelUnreadable,
    SourceUnreachable,
)
from aweigh_runtime.sources import bucket
from aweigh_runtime.sources.bucket import Bucket
from aweigh_runtime.sources.cache import keep
from aweigh_runtime.sources.listing import Listing, RemoteFile
from aweigh_runtime.sources.patience import Effort
from aweigh_runtime.sources.s3_access import read_access
from tests.runtime.sources.downloads import Reports, download, in_two_processes, secret
from tests.runtime.sources.object_store import KEY, KEY_ID, ObjectStore

URI = "s3://sea/models/helmsman"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
KEYS = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": KEY}


@pytest.fixture
def store(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A store that offers the model to anybody; AWS_ENDPOINT_URL leads to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with ObjectStore() as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        store.add("sea", "models/helmsman", model, public=True)
        yield store


def _impatient(cache: Path, timeout_s: float = 5.0, progress: Reports | None = None) -> Path:
    """The same with two attempts and short pauses."""
    with Bucket(
        "sea", "models/helmsman", read_access(None), Effort((0.01,), timeout_s, 1.0)
    ) as source:
        reports = Reports() if progress is None else progress
        return keep(source, source.listing(), cache, reports)


def test_the_files_of_a_model_arrive_as_they_are(
    store: ObjectStore, model: Path, tmp_path: Path
) -> None:
    reports = Reports()
    directory = download(tmp_path, URI, progress=reports)

    assert {path.name for path in directory.iterdir()} == {path.name for path in model.iterdir()}
    for path in directory.iterdir():
        assert path.read_bytes() == (model / path.name).read_bytes()
    total = sum(path.stat().st_size for path in model.iterdir())
    assert reports[-1] == (total, total)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


def test_only_what_a_model_needs_of_one_prefix_is_asked_for(
    store: ObjectStore, model: Path, tmp_path: Path
) -> None:
    for name in ("modeling.py", "pytorch_model.bin", "consolidated.safetensors", "README.md"):
        store.objects["sea"][f"models/helmsman/{name}"] = b"not needed"
    for key in ("models/helmsman/", "models/helmsman/original/model.safetensors"):
        store.objects["sea"][key] = b""
    store.objects["sea"]["models/helmsman-2/tokenizer.json"] = b"another model"
    store.objects["sea"]["models/helmsman/chat_template.jinja"] = b""

    directory = download(tmp_path, f"{URI}/")

    wanted = {path.name for path in model.iterdir()} | {"chat_template.jinja"}
    assert {path.name for path in directory.iterdir()} == wanted


def test_a_file_of_many_pieces_arrives_in_order(
    store: ObjectStore, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "PIECE_BYTES", 300_000)

    directory = download(tmp_path, URI)

    assert (directory / FIRST).read_bytes() == (model / FIRST).read_bytes()
    assert len([path for path in store.paths() if path.endswith(FIRST)]) > 10


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    store: ObjectStore, tmp_path: Path
) -> None:
    content = bytes(range(256)) * (20 << 12)
    store.objects["sea"][f"models/helmsman/{FIRST}"] = content
    store.faults.break_after[FIRST] = [8 << 20, 1_000_000, 0]

    reports = Reports()
    directory = _impatient(tmp_path, progress=reports)

    assert (directory / FIRST).read_bytes() == content
    assert reports[-1][0] == reports[-1][1]


def test_a_new_process_goes_on_where_the_last_one_died(store: ObjectStore, tmp_path: Path) -> None:
    content = bytes(range(256)) * (20 << 12)
    store.objects["sea"][f"models/helmsman/{FIRST}"] = content
    directory = download(tmp_path, URI)
    part = directory / f"{FIRST}.part"
    part.write_bytes(content[: 12 << 20])
    (directory / FIRST).unlink()
    store.seen.clear()

    assert (download(tmp_path, URI) / FIRST).read_bytes() == content
    assert not part.exists()
    ranges = {seen.range for seen in store.seen if seen.path.endswith(FIRST)}
    assert ranges == {f"bytes={12 << 20}-{(20 << 20) - 1}"}


def test_an_object_that_changes_while_it_is_downloaded_is_never_mixed(
    store: ObjectStore, tmp_path: Path
) -> None:
    with Bucket("sea", "models/helmsman", read_access(None)) as source:
        listing = source.listing()
        store.objects["sea"][f"models/helmsman/{FIRST}"] += b"more"
        with pytest.raises(SourceUnreachable, match="was changed while it was downloaded"):
            keep(source, listing, tmp_path, Reports())

    assert (download(tmp_path, URI) / FIRST).read_bytes().endswith(b"more")


def test_a_moment_of_trouble_is_waited_out(store: ObjectStore, tmp_path: Path) -> None:
    for status in (503, 429, 408):
        store.faults.statuses = [status]
        assert (_impatient(tmp_path) / FIRST).is_file()


def test_trouble_that_stays_makes_the_source_unreachable(
    store: ObjectStore, tmp_path: Path
) -> None:
    store.faults.every_status = 502
    with pytest.raises(SourceUnreachable, match="after 2 attempts in a row: it answered 502"):
        _impatient(tmp_path)
    store.faults.every_status = 418
    with pytest.raises(SourceUnreachable, match=r"418 OutOfOrder .*check AWS_REGION"):
        _impatient(tmp_path)


def test_a_store_that_never_answers_is_unreachable(store: ObjectStore, tmp_path: Path) -> None:
    store.faults.silent = True
    with pytest.raises(SourceUnreachable, match="after 2 attempts in a row"):
        _impatient(tmp_path, timeout_s=0.2)


def test_a_store_that_is_not_there_is_unreachable(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ObjectStore() as gone:
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", gone.url)  # goes before AWS_ENDPOINT_URL
    with pytest.raises(SourceUnreachable, match="Connection refused; check the network, AWS_END"):
        _impatient(tmp_path)


def test_an_empty_prefix_and_an_unknown_bucket_are_not_found(
    store: ObjectStore, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound, match="there is nothing at s3://sea/nelson"):
        download(tmp_path, "s3://sea/nelson")
    with pytest.raises(ModelNotFound, match="there is no bucket of s3://lake/models"):
        download(tmp_path, "s3://lake/models")


def test_a_prefix_without_safetensors_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    store.objects["sea"]["pickled/config.json"] = b"{}"
    store.objects["sea"]["pickled/pytorch_model.bin"] = b"\x80\x04"
    with pytest.raises(ModelUnreadable, match=r"no \*\.safetensors"):
        download(tmp_path, "s3://sea/pickled")


@pytest.mark.parametrize("name", ["../config.json", "/config.json"])
def test_a_key_that_leads_elsewhere_is_refused(
    store: ObjectStore, tmp_path: Path, name: str
) -> None:
    store.objects["sea"][f"models/helmsman/{name}"] = b"{}"
    with pytest.raises(ModelUnreadable, match="holds a key that is no file path"):
        download(tmp_path, URI)


@pytest.mark.parametrize("rest", ["sea", "sea/", "Sea/model", "sea//", "sea/a//b", "/model"])
def test_a_malformed_place_is_refused(tmp_path: Path, rest: str) -> None:
    with pytest.raises(InvalidConfiguration, match="expected s3://BUCKET/PREFIX"):
        download(tmp_path, f"s3://{rest}")


def test_what_is_here_costs_one_listing(store: ObjectStore, tmp_path: Path) -> None:
    directory = download(tmp_path, URI)
    store.seen.clear()

    assert download(tmp_path, URI) == directory
    assert set(store.paths()) == {"/sea"}

    (directory / FIRST).write_bytes(b"cut short")
    assert download(tmp_path, URI) == directory
    assert len((directory / FIRST).read_bytes()) > 1000
    assert not [path for path in store.paths() if path.endswith(SECOND)]


def test_two_processes_at_once_share_one_download(store: ObjectStore, tmp_path: Path) -> None:
    store.faults.piece_delay_s = 0.002

    assert in_two_processes(tmp_path, URI) == [0, 0]
    assert len([path for path in store.paths() if path.endswith(SECOND)]) == 1


def test_the_keys_of_a_mounted_secret_open_a_private_bucket(
    store: ObjectStore, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("private", "m", model)
    store.session_token = "only-here"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the Secret goes first
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of other keys")
    values = {"AWS_ENDPOINT_URL": store.url, "AWS_SESSION_TOKEN": "only-here\n"}
    keys = secret(tmp_path, **KEYS, **values, AWS_REGION="eu-west-1")

    assert (download(tmp_path, "s3://private/m", secret_dir=keys) / FIRST).is_file()
    assert all("/eu-west-1/s3/" in (seen.authorization or "") for seen in store.seen)


def test_the_keys_of_the_environment_are_used_without_a_secret(
    store: ObjectStore, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("private", "m", model)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)

    assert (download(tmp_path, "s3://private/m") / FIRST).is_file()


def test_without_the_right_keys_access_is_denied_and_no_key_is_shown(
    store: ObjectStore, model: Path, tmp_path: Path
) -> None:
    store.add("private", "m", model)
    with pytest.raises(AccessDenied, match="somebody without keys may not read s3://private/m"):
        download(tmp_path, "s3://private/m")
    wrong = secret(tmp_path, **{**KEYS, "AWS_SECRET_ACCESS_KEY": "guessed"})
    with pytest.raises(AccessDenied, match=r"these keys of the Secret.*SignatureDoes") as denied:
        download(tmp_path, "s3://private/m", secret_dir=wrong)
    assert "guessed" not in str(denied.value)
    store.session_token = "fresh"
    with pytest.raises(AccessDenied, match="ExpiredToken"):
        download(tmp_path, "s3://private/m", secret_dir=secret(tmp_path, **KEYS))


def test_half_a_pair_of_keys_is_refused(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AccessDenied, match="has no keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACC"):
        download(tmp_path, URI, secret_dir=secret(tmp_path, other="value"))
    half = secret(tmp_path, AWS_ACCESS_KEY_ID=KEY_ID)
    with pytest.raises(AccessDenied, match="has AWS_ACCESS_KEY_ID but no AWS_SECRET_ACCESS_KEY"):
        download(tmp_path, URI, secret_dir=half)
    with pytest.raises(AccessDenied, match="holds no value"):
        download(tmp_path, URI, secret_dir=secret(tmp_path, AWS_SECRET_ACCESS_KEY="a b"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    with pytest.raises(AccessDenied, match="the environment has AWS_SECRET_ACCESS_KEY but no"):
        download(tmp_path, URI)


@pytest.mark.parametrize("endpoint", ["minio:9000", "ftp://minio", "http://", "http://m:port"])
def test_a_malformed_endpoint_is_refused(
    endpoint: str, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(InvalidConfiguration, match=r"AWS_ENDPOINT_URL is .* expected http"):
        download(tmp_path, URI)


def test_a_model_larger_than_the_disk_is_refused_before_the_download(
    store: ObjectStore, tmp_path: Path
) -> None:
    huge = RemoteFile("model.safetensors", 1 << 60, "etag:x")
    with (
        Bucket("sea", "models/helmsman", read_access(None)) as source,
        pytest.raises(ModelDoesNotFit, match="GB more disk"),
    ):
        keep(source, Listing("0" * 64, (huge,)), tmp_path, Reports())
    assert store.seen == []
