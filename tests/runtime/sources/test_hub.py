import shutil
from pathlib import Path

import pytest

from aweigh_runtime.failures import (
    InvalidConfiguration,
    ModelDoesNotFit,
    ModelNotFound,
    ModelUnreadable,
    SourceUnreachable,
)
from aweigh_runtime.sources.cache import keep
from aweigh_runtime.sources.client import Client
from aweigh_runtime.sources.hub import Commit
from aweigh_runtime.sources.hub_answer import parse
from aweigh_runtime.sources.listing import Listing, RemoteFile
from aweigh_runtime.sources.patience import Effort
from tests.runtime.hub import Hub
from tests.runtime.sources.downloads import URI, Reports, download

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def _impatient(
    hub: Hub, cache: Path, timeout_s: float = 5.0, progress: Reports | None = None
) -> Path:
    """The same with two attempts and short pauses."""
    with Client(hub.url, "sea/helmsman", None, Effort((0.01,), timeout_s, 1.0)) as client:
        listing = client.listing("main")
        source = Commit(client, listing.version)
        return keep(source, listing, cache, Reports() if progress is None else progress)


def test_the_files_of_a_model_arrive_as_they_are(hub: Hub, model: Path, tmp_path: Path) -> None:
    directory = download(tmp_path)

    assert {path.name for path in directory.iterdir()} == {path.name for path in model.iterdir()}
    for path in directory.iterdir():
        assert path.read_bytes() == (model / path.name).read_bytes()


def test_progress_counts_the_bytes_of_all_files_and_never_falls(
    hub: Hub, model: Path, tmp_path: Path
) -> None:
    reports = Reports()
    download(tmp_path, progress=reports)

    total = sum(path.stat().st_size for path in model.iterdir())
    assert {known for _, known in reports} == {total}
    assert reports[-1] == (total, total)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert len(reports) > len(list(model.iterdir()))


def test_code_pickles_and_a_second_copy_of_the_weights_stay_where_they_are(
    hub: Hub, model: Path, tmp_path: Path
) -> None:
    messy = tmp_path / "messy"
    shutil.copytree(model, messy)
    for name in ("modeling.py", "pytorch_model.bin", "consolidated.safetensors", "README.md"):
        (messy / name).write_bytes(b"not needed")
    (messy / "original").mkdir()
    (messy / "original" / "model.safetensors").write_bytes(b"not needed")
    (messy / "tokenizer_old").mkdir()
    (messy / "tokenizer_old" / "tokenizer.json").write_bytes(b"not needed")
    (messy / "chat_template.jinja").write_text("{{ messages }}")
    hub.add("sea/messy", messy)

    directory = download(tmp_path / "cache", "hf://sea/messy")

    wanted = {path.name for path in model.iterdir()} | {"chat_template.jinja"}
    assert {path.name for path in directory.iterdir()} == wanted


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    hub: Hub, model: Path, tmp_path: Path
) -> None:
    hub.faults.break_after[FIRST] = [1_000_000, 3_000_000]

    directory = _impatient(hub, tmp_path)

    assert (directory / FIRST).read_bytes() == (model / FIRST).read_bytes()
    ranges = [seen.range for seen in hub.seen if seen.path == f"/cdn/sea/helmsman/{FIRST}"]
    assert ranges[0] is None
    assert len(ranges) == 3
    starts = [int(text.removeprefix("bytes=").removesuffix("-")) for text in ranges if text]
    assert 0 < starts[0] <= 1_000_000 < starts[1] <= 4_000_000


def test_a_new_process_goes_on_where_the_last_one_died(
    hub: Hub, model: Path, tmp_path: Path
) -> None:
    hub.faults.break_after[FIRST] = [2_000_000, 0]
    with pytest.raises(SourceUnreachable, match="after 2 attempts in a row"):
        _impatient(hub, tmp_path)
    hub.seen.clear()

    directory = _impatient(hub, tmp_path)

    assert (directory / FIRST).read_bytes() == (model / FIRST).read_bytes()
    [resumed] = [seen for seen in hub.seen if seen.path == f"/cdn/sea/helmsman/{FIRST}"]
    assert resumed.range is not None
    assert not list(directory.glob("*.part"))


def test_a_server_that_cannot_resume_sends_the_file_anew(
    hub: Hub, model: Path, tmp_path: Path
) -> None:
    hub.faults.no_ranges = True
    hub.faults.break_after[FIRST] = [2_000_000]

    reports = Reports()

    directory = _impatient(hub, tmp_path, progress=reports)

    assert (directory / FIRST).read_bytes() == (model / FIRST).read_bytes()
    assert reports[-1] == (sum(path.stat().st_size for path in model.iterdir()),) * 2


@pytest.mark.parametrize("name", [SECOND, "tokenizer.json"])
def test_damaged_bytes_are_refused_and_removed(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.faults.corrupt.add(name)
    with pytest.raises(ModelUnreadable, match=f"{name} arrived damaged"):
        download(tmp_path)
    assert not [path for path in tmp_path.rglob(f"{name}*") if path.suffix != ".lock"]

    hub.faults.corrupt.clear()
    assert (download(tmp_path) / name).is_file()


def test_a_moment_of_trouble_is_waited_out(hub: Hub, tmp_path: Path) -> None:
    hub.faults.statuses = [503]

    assert (download(tmp_path) / FIRST).is_file()


def test_trouble_that_stays_makes_the_source_unreachable(hub: Hub, tmp_path: Path) -> None:
    hub.faults.every_status = 502
    with pytest.raises(SourceUnreachable, match="after 2 attempts in a row: it answered 502"):
        _impatient(hub, tmp_path)


def test_a_hub_that_never_answers_is_unreachable(hub: Hub, tmp_path: Path) -> None:
    hub.faults.silent = True
    with pytest.raises(SourceUnreachable, match="timed out"):
        _impatient(hub, tmp_path, timeout_s=0.2)


def test_a_hub_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    with Hub() as gone:
        pass
    with pytest.raises(SourceUnreachable, match="check the network, HF_ENDPOINT"):
        _impatient(gone, tmp_path)


@pytest.mark.parametrize(
    "answer",
    [[], {}, {"id": "sea/helmsman", "sha": "../../etc", "siblings": []}, {"siblings": [{}]}],
)
def test_an_answer_that_no_hub_gives_is_no_listing(answer: object) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        parse(URI, answer)


def test_a_server_that_is_no_hub_is_named(tmp_path: Path) -> None:
    with Hub() as hub, Client(hub.url, "sea/helmsman", None) as client:
        hub.faults.every_status = 200
        with pytest.raises(SourceUnreachable, match="does not answer as a Hugging Face hub"):
            client.listing("main")


def test_a_slow_hub_is_no_trouble(hub: Hub, tmp_path: Path) -> None:
    hub.faults.piece_delay_s = 0.005

    assert (_impatient(hub, tmp_path) / FIRST).is_file()


def test_an_unknown_revision_is_not_found(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="hf://sea/helmsman has no revision 'v9'"):
        download(tmp_path, revision="v9")


def test_a_revision_may_hold_a_slash(hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.add("sea/branched", model, branch="refs/pr/1")

    assert (download(tmp_path, "hf://sea/branched", revision="refs/pr/1") / FIRST).is_file()


def test_a_repository_without_safetensors_is_refused(hub: Hub, model: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(model / "config.json", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04")
    hub.add("sea/pickled", pickled)
    with pytest.raises(ModelUnreadable, match=r"no \*\.safetensors"):
        download(tmp_path / "cache", "hf://sea/pickled")
    (pickled / "config.json").unlink()
    hub.add("sea/pickled", pickled)
    with pytest.raises(ModelUnreadable, match=r"no config\.json"):
        download(tmp_path / "cache", "hf://sea/pickled")


def test_a_commit_that_is_here_needs_no_network(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("sea/helmsman", model)
    directory = download(tmp_path)
    hub.seen.clear()

    assert download(tmp_path, revision=commit) == directory
    assert hub.seen == []

    (directory / FIRST).unlink()
    assert (download(tmp_path, revision=commit) / FIRST).is_file()
    assert f"/cdn/sea/helmsman/{FIRST}" in hub.paths()
    assert f"/cdn/sea/helmsman/{SECOND}" not in hub.paths()

    (directory / FIRST).write_bytes(b"cut short")
    assert download(tmp_path, revision=commit) == directory
    assert (directory / FIRST).read_bytes() == (model / FIRST).read_bytes()


def test_a_branch_that_is_here_costs_one_question(hub: Hub, tmp_path: Path) -> None:
    download(tmp_path)
    hub.seen.clear()
    download(tmp_path)

    assert hub.paths() == ["/api/models/sea/helmsman/revision/main"]


def test_a_model_larger_than_the_disk_is_refused_before_the_download(
    hub: Hub, tmp_path: Path
) -> None:
    huge = RemoteFile("model.safetensors", 1 << 60, f"sha256:{'0' * 64}")
    with (
        Client(hub.url, "sea/helmsman", None) as client,
        pytest.raises(ModelDoesNotFit, match="GB more disk"),
    ):
        keep(Commit(client, "0" * 40), Listing("0" * 40, (huge,)), tmp_path, Reports())
    assert hub.seen == []


def test_a_cache_that_cannot_be_written_is_a_matter_of_configuration(
    hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidConfiguration, match=r"--cache-dir .* cannot be used"):
        download(tmp_path / "file")


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://hub", "http://hub:port"])
def test_a_malformed_endpoint_is_refused(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(InvalidConfiguration, match="expected http"):
        download(tmp_path)
