"""Layers that are archives: what comes out of them, and what must not."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.sources import archive as archives
from tests.runtime.sources.artifacts import (
    TAR,
    ArtifactRegistry,
    Layer,
    archive,
    directory,
    file,
    files,
)
from tests.runtime.sources.downloads import download

FIRST = "model-00001-of-00002.safetensors"


def _pull(registry: ArtifactRegistry, cache: Path, *layers: Layer) -> Path:
    registry.push("sea/image", "v1", *layers)
    return download(cache, f"oci://{registry.address}/sea/image:v1")


def _expect_refusal(registry: ArtifactRegistry, cache: Path, layer: Layer, words: str) -> None:
    with pytest.raises(ModelUnreadable, match=words):
        _pull(registry, cache, layer)
    assert not [path for path in cache.rglob("*.json") if path.name == "config.json"]


def _link(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


@pytest.mark.parametrize("compress", [False, True])
def test_an_image_gives_the_directory_that_holds_a_model(
    registry: ArtifactRegistry, model: Path, tmp_path: Path, compress: bool
) -> None:
    system = archive(
        {
            "bin/sh": b"\x7fELF",
            "etc/tool/config.json": b"{}",
            "./lib/modeling.py": b"",
            "bin/config.json": _link("bin/config.json", tarfile.SYMTYPE),
        },
        compress=True,
    )

    target = _pull(registry, tmp_path, system, directory(model, "./models/", compress=compress))

    assert {path.name for path in target.iterdir()} == {path.name for path in model.iterdir()}
    assert (target / FIRST).read_bytes() == (model / FIRST).read_bytes()
    assert not list(tmp_path.rglob("*.layers"))


def test_a_directory_as_oras_pushes_it_is_unpacked(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    content, _ = directory(model, "helmsman/", compress=True)
    annotations = {
        "org.opencontainers.image.title": "helmsman",
        "io.deis.oras.content.unpack": "true",
    }
    layer = (content, {"mediaType": f"{TAR}+gzip", "annotations": annotations})

    assert (_pull(registry, tmp_path, layer) / FIRST).is_file()


def test_a_model_pack_may_mix_raw_files_and_archives(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    layers = []
    for path in sorted(model.iterdir()):
        annotations = {"org.cncf.model.filepath": path.name}
        if path.suffix == ".safetensors":
            content = archive({path.name: path.read_bytes()})[0]
            media_type = "application/vnd.cncf.model.weight.v1.tar"
        else:
            content, media_type = path.read_bytes(), "application/vnd.cncf.model.doc.v1.raw"
        layers.append((content, {"mediaType": media_type, "annotations": annotations}))

    target = _pull(registry, tmp_path, *layers)

    assert {path.name for path in target.iterdir()} == {path.name for path in model.iterdir()}


def test_later_layers_replace_and_remove_files_of_earlier_ones(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    target = _pull(
        registry,
        tmp_path,
        archive({"old/config.json": b"{}", "old/model.safetensors": b""}),
        archive({"m/chat_template.jinja": b"old", "m/tokenizer_old.json": b"old"}),
        archive({"old/.wh..wh..opq": b"", "m/.wh.tokenizer_old.json": b""}),
        directory(model, "m/"),
        archive({"m/chat_template.jinja": b"new"}),
    )

    assert (target / "chat_template.jinja").read_bytes() == b"new"
    assert not (target / "tokenizer_old.json").exists()


def test_two_models_in_one_artifact_are_refused(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnreadable, match="holds models in 'a' and in 'b'; expected one"):
        _pull(registry, tmp_path, directory(model, "a/"), directory(model, "b/"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_a_link_or_a_device_in_the_place_of_a_file_is_refused(
    registry: ArtifactRegistry, model: Path, tmp_path: Path, kind: bytes
) -> None:
    members = {path.name: path.read_bytes() for path in model.iterdir()}
    layer = archive({**members, "tokenizer.json": _link("tokenizer.json", kind)})

    _expect_refusal(registry, tmp_path, layer, "tokenizer.json is a link; expected the file")


@pytest.mark.parametrize("name", ["../config.json", "/config.json", "m/../../../config.json"])
def test_a_member_that_leads_outside_is_refused(
    registry: ArtifactRegistry, tmp_path: Path, name: str
) -> None:
    _expect_refusal(registry, tmp_path, archive({name: b"{}"}), "leads outside")


def test_a_bomb_is_not_unpacked(
    registry: ArtifactRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "SPARE_BYTES", 1 << 20)
    layer = archive({"other": bytes(64 << 20), "config.json": b"{}"}, compress=True)

    _expect_refusal(registry, tmp_path, layer, "it unpacks to more than")


def test_an_archive_that_lies_about_itself_is_refused(
    registry: ArtifactRegistry, tmp_path: Path
) -> None:
    content = archive({"config.json": b"{}" * 4000})[0]
    header = tarfile.TarInfo("config.json")
    header.size = 9 << 20
    name = tarfile.TarInfo("x")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    back = bytearray(tarfile.TarInfo("config.json").tobuf())
    back[124:136] = b"\xff" * 10 + b"\xf0\x00"  # a size below zero
    back[148:156] = b"%06o\0 " % (sum(back[:148]) + 256 + sum(back[156:]))
    for damaged, words in [
        (content[:2000], "is cut short|unexpected end|cannot be unpacked"),
        (header.tobuf() + b"{}", "cannot be unpacked"),
        (name.tobuf() + bytes(4096), "a header claims"),
        (bytes(back) + bytes(1024), "cannot be unpacked"),
        (b"no archive at all" * 100, "cannot be unpacked"),
    ]:
        _expect_refusal(registry, tmp_path, (damaged, {}), words)
    cut = gzip.compress(content)[:-20]
    for damaged in (cut, b"no gzip", gzip.compress(content)[:10] + b"\xff" * 50):
        layer = (damaged, {"mediaType": f"{TAR}+gzip"})
        _expect_refusal(registry, tmp_path, layer, "cannot be unpacked")


def test_a_file_with_holes_is_refused(registry: ArtifactRegistry, tmp_path: Path) -> None:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("config.json")
        member.pax_headers = {"GNU.sparse.map": "0,1,1048576,1", "GNU.sparse.size": "2097152"}
        member.size = 2
        tar.addfile(member, io.BytesIO(b"{}"))

    _expect_refusal(registry, tmp_path, (output.getvalue(), {}), "is a file with holes")


def test_a_compression_that_cannot_be_read_is_named(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    layer = (b"\x28\xb5\x2f\xfd", {"mediaType": f"{TAR}+zstd"})

    with pytest.raises(ModelUnreadable, match=r"tar\+zstd; expected tar or tar\+gzip"):
        _pull(registry, tmp_path, *files(model), layer)


def test_the_same_bytes_under_two_names_are_both_there(
    registry: ArtifactRegistry, model: Path, tmp_path: Path
) -> None:
    twice = (model / "tokenizer_config.json").read_bytes()

    target = _pull(registry, tmp_path, *files(model), file("tokenizer_copy.json", twice))

    assert (target / "tokenizer_copy.json").read_bytes() == twice
    assert (target / "tokenizer_config.json").read_bytes() == twice
