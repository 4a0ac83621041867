import logging
import time
from pathlib import Path

import pytest

from aweigh_runtime.failures import (
    InvalidConfiguration,
    ModelDoesNotFit,
    ModelNotFound,
    ModelUnreadable,
    SourceUnreachable,
)
from aweigh_runtime.sources.manifest import Layer
from aweigh_runtime.sources.oci import keep_artifact
from aweigh_runtime.sources.patience import Effort
from aweigh_runtime.sources.reference import Reference
from aweigh_runtime.sources.registry import Artifact, Registry
from tests.runtime.sources.artifacts import (
    INDEX,
    ArtifactRegistry,
    digest_of,
    directory,
    file,
    files,
    manifest,
)
from tests.runtime.sources.downloads import Reports, download, in_two_processes

FIRST = "model-00001-of-00002.safetensors"


def _uri(registry: ArtifactRegistry, rest: str = "sea/helmsman:v1") -> str:
    return f"oci://{registry.address}/{rest}"


def _impatient(registry: ArtifactRegistry, cache: Path, timeout_s: float = 5.0) -> Path:
    """The same with two attempts and short pauses."""
    reference = Reference.parse(f"{registry.address}/sea/helmsman:v1")
    with Registry(reference, None, Effort((0.01,), timeout_s, 1.0)) as source:
        return keep_artifact(source, source.artifact(), cache, Reports())


def _first(model: Path) -> str:
    return digest_of((model / FIRST).read_bytes())


def test_the_files_of_an_artifact_arrive_as_they_are(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    reports = Reports()
    target = download(tmp_path, _uri(registry), progress=reports)

    assert {path.name for path in target.iterdir()} == {path.name for path in model.iterdir()}
    for path in target.iterdir():
        assert path.read_bytes() == (model / path.name).read_bytes()
    total = sum(path.stat().st_size for path in model.iterdir())
    assert reports[-1] == (total, total)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert not list(tmp_path.rglob("*.layers"))


def test_code_pickles_and_other_directories_are_not_downloaded(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    unwanted = [
        file("llama/modeling.py", b"import os"),
        file("llama/pytorch_model.bin", b"\x80\x04"),
        file("README.md", b"# Llama"),
    ]
    wanted = [file(f"llama/{path.name}", path.read_bytes()) for path in model.iterdir()]
    registry.push("sea/messy", "latest", *unwanted, *wanted)

    target = download(tmp_path, _uri(registry, "sea/messy"))

    assert {path.name for path in target.iterdir()} == {path.name for path in model.iterdir()}
    asked = {path.rpartition("/")[2] for path in registry.paths()}
    assert not asked & {digest_of(content) for content, _ in unwanted}


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    registry.faults.break_after[_first(model)] = [1_000_000, 3_000_000]

    target = _impatient(registry, tmp_path)

    assert (target / FIRST).read_bytes() == (model / FIRST).read_bytes()
    ranges = [seen.range for seen in registry.seen if seen.path.endswith(_first(model))]
    assert [text is None for text in ranges] == [True, False, False]


def test_a_new_process_goes_on_where_the_last_one_died(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    registry.faults.break_after[_first(model)] = [2_000_000, 0]
    with pytest.raises(SourceUnreachable, match="after 2 attempts in a row"):
        _impatient(registry, tmp_path)
    registry.seen.clear()

    assert (_impatient(registry, tmp_path) / FIRST).read_bytes() == (model / FIRST).read_bytes()
    [resumed] = [seen for seen in registry.seen if seen.path.endswith(_first(model))]
    assert resumed.range is not None


def test_a_registry_that_cannot_resume_sends_the_blob_anew(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    registry.faults.no_ranges = True
    registry.faults.break_after[_first(model)] = [2_000_000]

    assert (_impatient(registry, tmp_path) / FIRST).read_bytes() == (model / FIRST).read_bytes()


def test_damaged_bytes_are_refused_and_removed(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    registry.faults.corrupt.add(_first(model))
    with pytest.raises(ModelUnreadable, match="arrived damaged"):
        download(tmp_path, _uri(registry))
    assert not list(tmp_path.rglob(f"{_first(model).replace(':', '-')}*"))

    registry.faults.corrupt.clear()
    assert (download(tmp_path, _uri(registry)) / FIRST).is_file()


def test_a_damaged_manifest_is_refused(registry: ArtifactRegistry, tmp_path: Path) -> None:
    name = f"sha256:{'0a' * 32}"
    registry.spoil("sea/helmsman", name, b"{}")
    with pytest.raises(ModelUnreadable, match=r"manifest sha256:0a.* arrived damaged"):
        download(tmp_path, _uri(registry, f"sea/helmsman@{name}"))


def test_a_moment_of_trouble_is_waited_out_for_as_long_as_the_registry_asks(
    registry: ArtifactRegistry, tmp_path: Path
) -> None:
    registry.faults.statuses = [429]
    registry.faults.retry_after = "1"
    began_s = time.monotonic()

    assert (_impatient(registry, tmp_path) / FIRST).is_file()
    assert time.monotonic() - began_s >= 1.0


def test_trouble_that_stays_makes_the_source_unreachable(
    registry: ArtifactRegistry, tmp_path: Path
) -> None:
    registry.faults.every_status = 503
    with pytest.raises(SourceUnreachable, match="after 2 attempts in a row: it answered 503"):
        _impatient(registry, tmp_path)
    registry.faults.every_status = 418
    with pytest.raises(SourceUnreachable, match="answered 418 when asked for oci://"):
        _impatient(registry, tmp_path)


def test_a_registry_that_never_answers_or_is_not_there_is_unreachable(
    registry: ArtifactRegistry, tmp_path: Path
) -> None:
    registry.faults.silent = True
    with pytest.raises(SourceUnreachable, match="timed out"):
        _impatient(registry, tmp_path, timeout_s=0.2)
    with ArtifactRegistry() as gone:
        pass
    with pytest.raises(SourceUnreachable, match="AWEIGH_OCI_PLAIN_HTTP if the registry"):
        _impatient(gone, tmp_path)


def test_an_unknown_artifact_is_not_found(registry: ArtifactRegistry, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"there is no oci://.*/sea/helmsman:v2"):
        download(tmp_path, _uri(registry, "sea/helmsman:v2"))


def test_a_huge_manifest_is_not_read_to_its_end(registry: ArtifactRegistry, tmp_path: Path) -> None:
    registry.put("sea/huge", "v1", b" " * (5 << 20))
    with pytest.raises(ModelUnreadable, match="more than 4194304 bytes"):
        download(tmp_path, _uri(registry, "sea/huge:v1"))


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"layers": [{}]}',
        b'{"layers": [{"mediaType": "a.tar", "size": -1, "digest": "sha256:%s"}]}' % (b"0" * 64),
        b'{"layers": [{"mediaType": "a.tar", "size": 1, "digest": "sha256:../../x"}]}',
        b'{"layers": [{"mediaType": "a.tar", "size": 1, "digest": 7}]}',
        b'{"manifests": 3}',
    ],
)
def test_what_is_no_manifest_is_refused(
    registry: ArtifactRegistry, tmp_path: Path, document: bytes
) -> None:
    registry.put("sea/odd", "v1", document)
    with pytest.raises(ModelUnreadable, match="is no manifest with layers, nor an index"):
        download(tmp_path, _uri(registry, "sea/odd:v1"))


def test_an_artifact_without_a_model_is_refused_before_the_download(
    registry: ArtifactRegistry, tmp_path: Path
) -> None:
    registry.push("sea/empty", "v1", file("notes.txt", b"nothing"))
    with pytest.raises(ModelUnreadable, match="holds no files of a model"):
        download(tmp_path, _uri(registry, "sea/empty:v1"))
    registry.push("sea/empty", "v2", file("config.json", b"{}"))
    with pytest.raises(ModelUnreadable, match=r"no \*\.safetensors"):
        download(tmp_path, _uri(registry, "sea/empty:v2"))
    assert not [path for path in registry.paths() if "/blobs/" in path]


@pytest.mark.parametrize("name", ["../config.json", "/etc/config.json", "a/../../config.json"])
def test_a_name_that_leads_outside_is_refused(
    registry: ArtifactRegistry, model: Path, tmp_path: Path, name: str
) -> None:
    registry.push("sea/evil", "v1", *files(model), file(name, b"{}"))
    with pytest.raises(ModelUnreadable, match=r"leads outside .* do not trust this artifact"):
        download(tmp_path, _uri(registry, "sea/evil:v1"))


def test_of_an_index_the_first_artifact_with_a_model_is_taken(
    registry: ArtifactRegistry, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    provenance = registry.put("sea/many", "a", manifest(file("proof.json", b"{}")))
    program = registry.put("sea/many", "b", manifest(file("run.sh", b"exit")))
    wanted = registry.push("sea/many", "c", *files(model))
    other = registry.push("sea/many", "d", file("config.json", b"other"))
    entries = [
        {"digest": provenance, "platform": {"os": "unknown", "architecture": "unknown"}},
        {"digest": program, "platform": {"os": "linux", "architecture": "arm64"}},
        {"digest": wanted, "platform": {"os": "linux", "architecture": "amd64"}},
        {"digest": other},
    ]
    index = registry.put("sea/many", "v1", {"mediaType": INDEX, "manifests": entries})

    target = download(tmp_path, _uri(registry, "sea/many:v1"))

    assert (target / FIRST).read_bytes() == (model / FIRST).read_bytes()
    assert f"taking {wanted} for linux/amd64" in caplog.text
    registry.seen.clear()
    assert download(tmp_path, _uri(registry, f"sea/many@{index}")) == target
    assert registry.seen == []


def test_a_digest_that_is_here_needs_no_network_and_a_tag_one_question(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    digest = registry.push("sea/helmsman", "v1", *files(model))
    target = download(tmp_path, _uri(registry))
    registry.seen.clear()

    assert download(tmp_path, _uri(registry, f"sea/helmsman@{digest}")) == target
    assert registry.seen == []
    assert download(tmp_path, _uri(registry)) == target
    assert registry.paths() == ["/v2/sea/helmsman/manifests/v1"]

    (target / FIRST).write_bytes(b"cut short")
    assert download(tmp_path, _uri(registry, f"sea/helmsman@{digest}")) == target
    assert (target / FIRST).read_bytes() == (model / FIRST).read_bytes()


def test_two_processes_at_once_share_one_download(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    registry.push("sea/image", "v1", directory(model, "models/", compress=True))
    registry.faults.piece_delay_s = 0.002

    assert in_two_processes(tmp_path, _uri(registry, "sea/image:v1")) == [0, 0]
    assert len([path for path in registry.paths() if "/blobs/" in path]) == 1


def test_a_model_larger_than_the_disk_is_refused_before_the_download(
    registry: ArtifactRegistry, tmp_path: Path
) -> None:
    huge = f"sha256:{'0' * 64}"
    layers = (
        Layer(huge, 1 << 60, "file", "model.safetensors"),
        Layer(huge, 1 << 60, "file", "config.json"),
    )
    with (
        Registry(Reference.parse(f"{registry.address}/sea/helmsman"), None) as source,
        pytest.raises(ModelDoesNotFit, match="GB more disk"),
    ):
        keep_artifact(source, Artifact("0" * 64, layers), tmp_path, Reports())
    assert registry.seen == []


@pytest.mark.parametrize(
    "rest",
    [
        "ghcr.io",
        "ghcr.io/",
        "ghcr.io/Upper/case",
        "ghcr.io/a:",
        "ghcr.io/a@sha256:0",
        "a b/c",
        "/a",
    ],
)
def test_a_malformed_reference_is_refused(tmp_path: Path, rest: str) -> None:
    with pytest.raises(InvalidConfiguration, match=r"expected oci://REGISTRY\[:PORT\]/REPOSITORY"):
        download(tmp_path, f"oci://{rest}")


@pytest.mark.parametrize(
    ("rest", "endpoint"),
    [
        ("ghcr.io/acme/llama", "https://ghcr.io"),
        ("docker.io/acme/llama", "https://registry-1.docker.io"),
        ("localhost:5000/llama", "http://localhost:5000"),
        ("localhost.example.org/llama", "https://localhost.example.org"),
        ("registry:5000/llama", "http://registry:5000"),
        ("registry:5001/llama", "https://registry:5001"),
    ],
)
def test_a_registry_is_asked_over_tls_unless_it_is_here_or_named(
    monkeypatch: pytest.MonkeyPatch, rest: str, endpoint: str
) -> None:
    monkeypatch.setenv("AWEIGH_OCI_PLAIN_HTTP", "registry:5000, other")

    assert Reference.parse(rest).endpoint == endpoint
